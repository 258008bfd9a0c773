"""From a recipe to tasks: which stages, how many shards, and the key that names each output.

A key is the hash of everything that decides the output, so two jobs with equal keys share it: another student on
the same domain and teacher reuses every image and every teacher feature. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from distillation.catalogue import resolve_student
from distillation.generator_recipe import GeneratorRecipe
from distillation.recipe import Recipe, Training
from distillation.recipe_fields import is_local, is_trained
from distillation.teachers import TeacherShape, teacher_shape

ENGINE = 3
"""Raised when a change of code changes outputs: old keys then no longer match."""

STARTER = Path(__file__).resolve().parents[1] / "starter" / "weights"
STAGES = ("prompts", "generate", "embed", "agnostic", "distil", "evaluate", "export", "generator")
ON_EVERY_GPU = frozenset({"embed", "distil", "agnostic"})
"""Stages that use every GPU they see; the others use one."""
NEEDS: dict[str, tuple[str, ...]] = {
    "prompts": (),
    "generate": ("prompts",),
    "embed": (),
    "agnostic": ("embed",),
    "distil": ("generate", "agnostic", "embed"),
    "evaluate": ("generate", "distil"),
    "export": ("generate", "distil", "evaluate"),
    "generator": (),
}
QUEUES = {
    "prompts": "generate",
    "generate": "generate",
    "embed": "generate",
    "agnostic": "distil",
    "distil": "distil",
    "evaluate": "evaluate",
    "export": "export",
    "generator": "generate",
}
WHOLE_FILE_BYTES = 64 << 20
BLOCKS, BLOCK_BYTES = 128, 16 << 10
"""Of a larger file: weights that were trained on in a few layers differ in some, whatever the tensors' order."""
DEFAULT_EPOCHS = 20.0


@dataclass(frozen=True)
class StageTask:
    """One task of a job. ``needs`` names the stages that must be done first."""

    stage: str
    shard: int
    key: str
    needs: tuple[str, ...]


def resolve_model(model: str, kind: str) -> str:
    """``starter`` becomes the directory of the shipped weights; anything else stays.

    Args:
        kind: ``teacher`` or ``generator``.
    """
    return str(STARTER / kind) if model == "starter" else model


def model_folder(model: str, kind: str) -> Path | None:
    """The local directory of a model, or None for one on a hub or built into open_clip."""
    name = resolve_model(model, kind).removeprefix("local-dir:")
    return Path(name) if is_local(name) else None


def recipe_teacher_shape(recipe: Recipe) -> TeacherShape:
    """What is known of a recipe's teacher before it is loaded."""
    return teacher_shape(recipe.teacher.model, model_folder(recipe.teacher.model, "teacher"))


def fingerprint(model: str, kind: str, *details: str | None) -> str:
    """What identifies a model's weights: a hash of the files, or the hub id with its pinned revision or tag.

    Args:
        details: what belongs to it, each a name of its own or a path, whose files are hashed.
    """
    given = [_content(detail) if is_local(detail) else detail for detail in details if detail]
    folder = model_folder(model, kind)
    return "@".join([model if folder is None else _content(str(folder)), *given])


def _generator_fingerprint(model: str, fingerprint_of: Callable[[str], str], *details: str | None) -> str:
    """A trained generator is identified by its bundle, any other by :func:`fingerprint`."""
    return fingerprint(fingerprint_of(model) if is_trained(model) else model, "generator", *details)


def _content(path: str) -> str:
    """A hash of a file or of all files of a folder."""
    folder = Path(path)
    if folder.is_file():
        return _file_fingerprint(folder, folder.stat().st_mtime_ns)
    if not folder.is_dir():
        return f"missing:{folder}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return _digest([[p.relative_to(folder).as_posix(), _file_fingerprint(p, p.stat().st_mtime_ns)] for p in files])


def dataset_fingerprint(source: str) -> str:
    """What identifies photos: a hash of the files, of several where ``{000..009}`` names them; a URL is its own."""
    if "://" in source:
        return source
    return "+".join(fingerprint(str(Path(path).absolute()), "dataset") for path in braceexpand(source))


def plan(recipe: Recipe, fingerprint_of: Callable[[str], str]) -> list[StageTask]:
    """The tasks of one job, in an order in which each comes after what it needs.

    Args:
        fingerprint_of: content hash of a dataset or a trained generator, by the name the recipe gives it.

    Raises:
        ValueError: the student cannot be resolved (unknown preset, impossible budget).
    """
    domain, data, training = recipe.domain, recipe.data, recipe.training
    teacher = fingerprint(recipe.teacher.model, "teacher", recipe.teacher.pretrained, recipe.teacher.revision)
    parts = (data.generator.revision, data.generator.lora, data.generator.decoder)
    generator = _generator_fingerprint(data.generator.model, fingerprint_of, *parts)
    classes = [item.model_dump(mode="json") for item in domain.classes]

    prompts = _digest(["prompts", classes, domain.superclass, data.prompts.model_dump(mode="json"), data.seed])
    generate_parts = [
        "generate",
        prompts,
        generator,
        teacher,
        data.generator.model_dump(mode="json", exclude={"model", "batch_size", "licence"}),
        data.filter.model_dump(mode="json"),
        [data.images_per_class, data.holdout, data.shard_size, data.seed],
        list(domain.templates),
        [training.views, training.crop_scale, training.flip],
    ]
    shards = [_digest([*generate_parts, shard]) for shard in range(shard_count(recipe))]
    tasks = [StageTask("prompts", 0, prompts, ())]
    tasks += [StageTask("generate", shard, key, NEEDS["generate"]) for shard, key in enumerate(shards)]

    student_parts = [recipe.student.model_dump(mode="json"), _base_fingerprint(recipe), teacher]
    schedule = training.model_dump(mode="json", exclude={"checkpoint_seconds", "agnostic"})
    agnostic, phase = None, training.agnostic
    if phase is not None:
        views = [training.views, training.crop_scale, training.flip, training.seed]
        photos = _digest(["embed", teacher, fingerprint_of(phase.source), phase.max_images, views])
        agnostic = _digest(["agnostic", photos, student_parts, schedule, [phase.epochs, phase.steps]])
        tasks.append(StageTask("embed", 0, photos, NEEDS["embed"]))
        tasks.append(StageTask("agnostic", 0, agnostic, NEEDS["agnostic"]))

    distil = _digest(["distil", shards, agnostic, student_parts, schedule, training.mix])
    dataset = fingerprint_of(recipe.evaluation.dataset) if recipe.evaluation.dataset else None
    evaluate = _digest(["evaluate", distil, dataset, classes, list(domain.templates)])
    names = [domain.name, recipe.teacher.licence, data.generator.licence, recipe.evaluation.latency]
    export = _digest(["export", evaluate, recipe.exports.model_dump(mode="json"), names])
    needless = {"agnostic": agnostic is None, "embed": not training.mix}
    needs = tuple(stage for stage in NEEDS["distil"] if not needless.get(stage))
    return [
        *tasks,
        StageTask("distil", 0, distil, needs),
        StageTask("evaluate", 0, evaluate, NEEDS["evaluate"]),
        StageTask("export", 0, export, NEEDS["export"]),
    ]


def plan_generator(recipe: GeneratorRecipe, fingerprint_of: Callable[[str], str]) -> list[StageTask]:
    """The one task that trains a generator.

    Args:
        fingerprint_of: content hash of a dataset or a trained generator, by the name the recipe gives it.
    """
    teacher = fingerprint(recipe.teacher.model, "teacher", recipe.teacher.pretrained, recipe.teacher.revision)
    settings = recipe.model_dump(mode="json", exclude={"dataset", "base"})
    parts = ["generator", teacher, fingerprint_of(recipe.dataset), settings]
    if recipe.base is not None:
        parts.append(_generator_fingerprint(recipe.base, fingerprint_of))
    return [StageTask("generator", 0, _digest(parts), NEEDS["generator"])]


def image_count(recipe: Recipe) -> int:
    return recipe.data.images_per_class * len(recipe.domain.classes)


def shard_count(recipe: Recipe) -> int:
    return -(-image_count(recipe) // recipe.data.shard_size)


def step_count(recipe: Recipe) -> int | None:
    """Optimiser steps of the domain-specific phase, or None under a time budget."""
    training = recipe.training
    if training.minutes is not None:
        return None
    if training.steps is not None:
        return training.steps
    images = image_count(recipe) * (1 - recipe.data.holdout) / (1 - training.mix)
    return max(1, round(images * (training.epochs or DEFAULT_EPOCHS) / batch_of(training, int(images))))


def batch_of(training: Training, images: int) -> int:
    """Images of a batch, where there are no more than ``images`` to train on."""
    return min(training.batch_size, max(2, images))


def base_student(recipe: Recipe) -> Path | None:
    """The folder of the base student that the job starts from, or None for a start from scratch."""
    if recipe.student.init != "base" or recipe.teacher.model != "starter":
        return None
    chosen = resolve_student(recipe.student, teacher_shape("starter", STARTER / "teacher"))
    for folder in sorted((STARTER / "students").glob("*/student.json")):
        described = json.loads(folder.read_text(encoding="utf-8"))
        if (described["architecture"], described["image_size"]) == (chosen.architecture, chosen.image_size):
            return folder.parent
    return None


def _base_fingerprint(recipe: Recipe) -> str | None:
    folder = base_student(recipe)
    return None if folder is None else fingerprint(str(folder), "student")


def _digest(content: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps([ENGINE, *content], sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _file_fingerprint(path: Path, _changed_at: int) -> str:
    """Files up to 64 MB are hashed whole; of larger ones the size and blocks of all parts, to plan in milliseconds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        for number in range(BLOCKS):
            file.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
            found.update(file.read(BLOCK_BYTES))
        return found.hexdigest()
