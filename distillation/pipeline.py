"""A whole job, or the training of a generator, without any service: in folders under one output folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distillation.datasets import import_dataset, is_dataset
from distillation.generator_recipe import GeneratorRecipe
from distillation.plan import StageTask, dataset_fingerprint, plan, plan_generator
from distillation.protocol import Request, StageError, is_whole
from distillation.recipe import Recipe
from distillation.recipe_fields import is_trained
from distillation.stage_process import StageProcess

Listener = Callable[[StageTask, dict[str, Any]], None]


def run_recipe(recipe: Recipe, out: Path, on_event: Listener) -> Path:
    """Run ``recipe`` into ``out``; stages done there are kept if their files are whole. Returns the encoder's folder.

    Each stage runs in a child process, as under the service, so that its memory goes when it ends.

    Raises:
        StageError: a stage failed.
    """
    hint = "download it and give its directory, with steps: 1 and guidance: 0"
    _refuse_id(recipe.data.generator.model, "data.generator.model", hint)
    out = out.resolve()  # the child processes have another working directory
    external = _external_inputs(recipe, out)
    tasks = plan(recipe, lambda name: dataset_fingerprint(str(external.get(name, name))))
    folders: dict[str, list[Path]] = {}
    for task in tasks:
        folder = _folder(task, out)
        folders.setdefault(task.stage, []).append(folder)
        if is_whole(folder):
            on_event(task, {"event": "reused"})
            continue
        inputs = {name: folders[name] for name in task.needs}
        if task.stage == "evaluate" and recipe.evaluation.dataset:
            inputs["dataset"] = [external[recipe.evaluation.dataset]]
        if (phase := recipe.training.agnostic) and task.stage == "embed" and phase.source in external:
            inputs["agnostic_source"] = [external[phase.source]]
        folder.mkdir(parents=True, exist_ok=True)
        _run_in_child(Request(task.stage, task.shard, task.key, recipe, inputs, folder), task, on_event)
    encoder = out / "encoder"
    shutil.rmtree(encoder, ignore_errors=True)
    shutil.copytree(folders["export"][0] / "encoder", encoder)
    shutil.copyfile(folders["export"][0] / "report.json", out / "report.json")
    return encoder


def train_generator(recipe: GeneratorRecipe, out: Path, on_event: Listener) -> Path:
    """Train ``recipe``'s generator into ``out``, or go on where an earlier run there stopped.

    Returns:
        The pipeline's folder; ``report.json`` lies beside it and in it.

    Raises:
        StageError: the training failed.
    """
    _refuse_id(recipe.base or "", "base", "download it and give its directory")
    out = out.resolve()  # the child process has another working directory
    photos = _photos(recipe.dataset, out)
    [task] = plan_generator(recipe, lambda _name: dataset_fingerprint(str(photos)))
    folder = _folder(task, out)
    if is_whole(folder):
        on_event(task, {"event": "reused"})
    else:
        folder.mkdir(parents=True, exist_ok=True)
        request = Request(task.stage, task.shard, task.key, recipe, {"photos": [photos]}, folder)
        _run_in_child(request, task, on_event)
    generator = out / "generator"
    shutil.rmtree(generator, ignore_errors=True)
    shutil.copytree(folder / "generator", generator)
    shutil.copyfile(folder / "report.json", out / "report.json")
    return generator


def _refuse_id(generator: str, field: str, hint: str) -> None:
    """Only a service knows its generators by their ids."""
    if is_trained(generator):
        message = f"{generator} is a generator of a service, which is not asked here"
        raise StageError("weights_missing", message, hint, field)


def _folder(task: StageTask, out: Path) -> Path:
    return out / "stages" / f"{task.stage}-{task.shard}-{task.key[:12]}" / "out"


def _photos(name: str, out: Path) -> Path:
    """The dataset directory of photos at a path; photos of another form are converted, again when they change."""
    if is_dataset(Path(name)):
        return Path(name).absolute()
    content = hashlib.sha256(dataset_fingerprint(name).encode()).hexdigest()[:12]
    folder = out / "datasets" / f"{Path(name).stem}-{content}"
    if not is_dataset(folder):
        import_dataset(Path(name), folder)
    return folder


def _external_inputs(recipe: Recipe, out: Path) -> dict[str, Path]:
    """Paths by the names that the recipe gives them; photos for evaluation are converted once.

    The domain-agnostic phase streams its parquet and tar files itself, and URLs are not paths.
    """
    found: dict[str, Path] = {}
    if name := recipe.evaluation.dataset:
        found[name] = _photos(name, out)
    if (agnostic := recipe.training.agnostic) and "://" not in agnostic.source:
        found.setdefault(agnostic.source, Path(agnostic.source).absolute())
    return found


def _run_in_child(request: Request[Any], task: StageTask, on_event: Listener) -> None:
    if (request.out / "manifest.json").is_file():  # done once, but damaged since
        shutil.rmtree(request.out)
        request.out.mkdir()
    request_file = request.out.with_name("request.json")
    request.write(request_file)
    log = request_file.with_name("stderr.log")
    silent = StageError("internal", f"stage {task.stage} ended without a word", f"its last words are in {log}")
    failure = silent
    child = StageProcess(request_file)
    try:
        for line in _lines(child):
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a library's word, which the log of the terminal does not need
            if event["event"] == "error" and failure is silent:  # of several processes the first to fail knows why
                failure = StageError(event["code"], event["message"], event.get("hint", ""), event.get("field", ""))
            on_event(task, event)
    finally:
        child.close()
    if child.exit_status() != 0:
        raise failure


def _lines(child: StageProcess) -> Iterator[str]:
    while child.exit_status() is None:
        if (line := child.line()) is not None:
            yield line
    yield from child.remaining_lines()
