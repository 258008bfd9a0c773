"""The whole job without any service: every stage in turn, in folders under one output folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distillation.datasets import import_dataset, is_dataset
from distillation.plan import StageTask, dataset_fingerprint, plan
from distillation.protocol import Request, StageError
from distillation.recipe import Recipe
from distillation.stage_process import StageProcess

Listener = Callable[[StageTask, dict[str, Any]], None]


def run_recipe(recipe: Recipe, out: Path, on_event: Listener) -> Path:
    """Run ``recipe`` into ``out``; stages already done there are kept. Returns the encoder's folder.

    Each stage runs in a child process, as under the service, so that its memory goes when it ends.

    Raises:
        StageError: a stage failed.
    """
    out = out.resolve()  # the child processes have another working directory
    external = _external_inputs(recipe, out)
    tasks = plan(recipe, lambda name: dataset_fingerprint(str(external.get(name, name))))
    folders: dict[str, list[Path]] = {}
    for task in tasks:
        folder = out / "stages" / f"{task.stage}-{task.shard}-{task.key[:12]}" / "out"
        folders.setdefault(task.stage, []).append(folder)
        if (folder / "manifest.json").is_file():
            on_event(task, {"event": "reused"})
            continue
        inputs = {name: folders[name] for name in task.needs}
        if task.stage == "evaluate" and recipe.evaluation.dataset:
            inputs["dataset"] = [external[recipe.evaluation.dataset]]
        if (phase := recipe.training.agnostic) and task.stage == "agnostic" and phase.source in external:
            inputs["agnostic_source"] = [external[phase.source]]
        folder.mkdir(parents=True, exist_ok=True)
        _run_in_child(Request(task.stage, task.shard, task.key, recipe, inputs, folder), task, on_event)
    encoder = out / "encoder"
    shutil.rmtree(encoder, ignore_errors=True)
    shutil.copytree(folders["export"][0] / "encoder", encoder)
    shutil.copyfile(folders["export"][0] / "report.json", out / "report.json")
    return encoder


def _external_inputs(recipe: Recipe, out: Path) -> dict[str, Path]:
    """Paths by the names that the recipe gives them; photos for evaluation are converted once.

    The domain-agnostic phase streams its parquet and tar files itself, and URLs are not paths.
    """
    found: dict[str, Path] = {}
    if name := recipe.evaluation.dataset:
        found[name] = Path(name).absolute()
        if not is_dataset(found[name]):
            found[name] = out / "datasets" / Path(name).stem
            if not is_dataset(found[name]):
                import_dataset(Path(name), found[name])
    if (agnostic := recipe.training.agnostic) and "://" not in agnostic.source:
        found.setdefault(agnostic.source, Path(agnostic.source).absolute())
    return found


def _run_in_child(request: Request, task: StageTask, on_event: Listener) -> None:
    request_file = request.out.with_name("request.json")
    request.write(request_file)
    log = request_file.with_name("stderr.log")
    failure = StageError("internal", f"stage {task.stage} ended without a word", f"its last words are in {log}")
    child = StageProcess(request_file)
    try:
        for line in _lines(child):
            event = json.loads(line)
            if event["event"] == "error":
                failure = StageError(event["code"], event["message"], event["hint"], event["field"])
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
