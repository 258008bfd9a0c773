"""Stage ``generator``: labelled photos in, a text-to-image pipeline that draws their classes in one step out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from distillation.checkpoints import load_newest
from distillation.datasets import read_info
from distillation.embedding import Embedder
from distillation.generator_recipe import DEFAULT_STEPS, GeneratorRecipe, unusable_teacher
from distillation.generator_training import reading
from distillation.generator_training.card import write_card
from distillation.generator_training.critic import Critic
from distillation.generator_training.evaluation import evaluate_pipeline
from distillation.generator_training.from_base import FromBase
from distillation.generator_training.from_nothing import FromNothing
from distillation.generator_training.networks import OneStep, load_base, save_pipeline
from distillation.generator_training.photo_bank import PhotoBank, most_photos
from distillation.generator_training.photos import split_photos
from distillation.generator_training.reading import read_anew, reads_alike
from distillation.generator_training.text_encoder import Texts, teacher_texts
from distillation.generator_training.trainer import GeneratorTrainer
from distillation.generator_training.training import train
from distillation.photo_notes import learnt_from
from distillation.plan import resolve_model
from distillation.prompts import zero_shot_prompts
from distillation.protocol import Interrupted, Reporter, Request, StageError, versions, write_atomically
from distillation.recipe import Domain
from distillation.taught_classes import write_taught_classes
from models.memory import keep_freed_memory
from models.teachers import TeacherModel, load_teacher

FOLDER = "generator"
"""The pipeline's folder within the output."""
LOOK_PAYS, FEWEST_OF_CLASS = 6, 50
"""A training looks at one photo for so many images that it makes, but at some of each class: half of the images show
photos, half of the photos are not kept, and each of the others should be learnt from a few times."""


def run(request: Request[GeneratorRecipe], report: Reporter) -> dict[str, object]:
    """Train, save the pipeline, measure it; the files are listed in docs/architecture.md."""
    recipe, folder = request.recipe, request.out / FOLDER
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    teacher = _teacher(recipe, device)
    base_folder = _base_folder(request)
    base = load_base(base_folder, recipe.size, device) if base_folder else None
    texts = teacher_texts(teacher)
    split = split_photos(request.inputs["photos"][0], recipe, report.warning)
    prompts = zero_shot_prompts(split.domain)
    critic = Critic(teacher, prompts, recipe.size)
    if len(split.training) > (most := most_photos(critic)):
        report.warning("photos_left_out", f"{len(split.training):,} photos; memory is kept for {most:,} of them")
        split = split.thinned(most)
    if recipe.minutes is None:
        split = split.thinned(_worth_a_look(recipe, len(split.domain.classes)))
    looked_at, held_out = (split.read(rows, recipe.size) for rows in (split.training, split.held_out))
    torch.manual_seed(recipe.seed)

    def on_looked(done: int) -> None:
        report.progress(done, len(looked_at), "photos")
        if report.stop_requested:
            raise Interrupted

    bank = PhotoBank.fill(critic, looked_at, on_looked)
    given = (split.domain, critic, bank, texts, recipe.seed)
    trainer: GeneratorTrainer
    if base is None:
        trainer = FromNothing(*given)
    else:
        trainer = FromBase(*given, _reading(*base, texts, split.domain, request, report))
    trained = train(trainer, recipe, request.out, report)
    if report.stop_requested:
        raise Interrupted  # the last checkpoint is of the whole training
    shutil.rmtree(folder, ignore_errors=True)
    save_pipeline(trainer.result, texts, folder)
    embedder = Embedder(teacher, prompts, on_halved=lambda _size: None)
    figures = evaluate_pipeline(
        folder, embedder, split.domain, bank.photos, held_out, batch_size=recipe.batch_size, seed=recipe.seed
    )
    content: dict[str, Any] = {
        "name": recipe.name,
        "classes": len(split.domain.classes),
        "taught": (taught := [list(item.names) for item in split.domain.classes]),
        "size": recipe.size,
        "photos": {"training": len(bank.images), "held_out": len(held_out)},
        "learnt_from": [read_info(split.folder).fingerprint, *learnt_from(base_folder or "")],
        "teacher": recipe.teacher.model,
        "training": {"method": trainer.METHOD, **trained},
        "seed": recipe.seed,
        "base": recipe.base,
        "licence": _licence(recipe, base_folder),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": versions(),
        **figures,
    }
    for path in (request.out, folder):
        write_atomically(path / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_taught_classes(folder, taught)
    write_card(folder, recipe, split.domain, content)
    summary = {name: content[name] for name in ("classes", "images_per_s")}
    return {**summary, "teacher_acc1": content["teacher_acc1"]["generated"], "steps": trained["steps"]}


def _reading(
    base: OneStep, before: Texts, texts: Texts, domain: Domain, request: Request[GeneratorRecipe], report: Reporter
) -> OneStep:
    """The base, once it reads the teacher's texts."""
    names = [item.names for item in domain.classes]
    if reads_alike(before, texts, names):
        return base
    if load_newest(request.out) is not None:  # its weights have learnt to
        return OneStep(request.recipe.size, texts.width)

    def on_step(done: int) -> None:
        report.progress(done, reading.STEPS, "reading steps")
        if report.stop_requested:
            raise Interrupted

    return read_anew(base, before, texts, names, request.recipe.seed, on_step)


def _base_folder(request: Request[GeneratorRecipe]) -> str | None:
    """Where the generator to go on from lies, if there is one."""
    if request.recipe.base is None:
        return None
    trained = request.inputs.get("base")
    return str(trained[0] / FOLDER) if trained else resolve_model(request.recipe.base, "generator")


def _licence(recipe: GeneratorRecipe, base_folder: str | None) -> str:
    """Of the photos, and of those that the base learnt from: what either forbids is forbidden."""
    if base_folder is None:
        return recipe.licence
    told = Path(base_folder) / "report.json"
    of_base = json.loads(told.read_text(encoding="utf-8"))["licence"] if told.is_file() else "see its card"
    return f"{recipe.licence or 'not stated'}; of the base's photos: {of_base or 'not stated'}"


def _worth_a_look(recipe: GeneratorRecipe, classes: int) -> int:
    """How many photos a training of that length can use."""
    made = (recipe.steps or DEFAULT_STEPS) * recipe.batch_size
    return max(made // LOOK_PAYS, FEWEST_OF_CLASS * classes)


def _teacher(recipe: GeneratorRecipe, device: torch.device) -> TeacherModel:
    given = recipe.teacher
    teacher = load_teacher(resolve_model(given.model, "teacher"), given.pretrained, given.revision, device)
    if reason := unusable_teacher(teacher.model_cfg):
        raise StageError(
            "bad_architecture",
            f"the teacher '{given.model}' cannot guide a generator: {reason}",
            "choose an open_clip model with a timm image tower and a CLIP text tower",
            "teacher.model",
        )
    return teacher
