"""Stages of a recipe run in this process, in folders; what is done there is kept."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from distillation.plan import plan
from distillation.protocol import Reporter, Request
from distillation.recipe import Recipe, load_recipe
from distillation.runner import run_stage

DEMO = Path("recipes/demo.yaml")
L2 = {"losses": {"l2": 1.0}, "lr": 1e-3}
"""Of benchmarks of other things than the loss: the paper's, at the rate that goes with it."""
REPLACED = ("losses", "dimensions")
"""Fields whose keys are the user's own: a change replaces them whole."""
Inputs = dict[str, list[Path]]


def stage_folder(
    stage: str, recipe: Recipe, inputs: Inputs, out: Path, *, shard: int = 0, key: str = "", tell: Callable[[], object]
) -> Path:
    """Run one stage into ``out``, unless it is done there; ``tell`` is called before it runs."""
    if not (out / "manifest.json").is_file():
        tell()
        shutil.rmtree(out, ignore_errors=True)
        run_stage(Request(stage, shard, key or out.name, recipe, inputs, out), Reporter(io.StringIO()))  # no JSON lines
    return out


def generated_images(recipe: Recipe, folder: Path, tell: Callable[[], object] = lambda: None) -> list[Path]:
    """The shards of the recipe's images, in folders named by their keys: recipes with equal images share them."""

    def run(stage: str, inputs: Inputs) -> list[Path]:
        return [
            stage_folder(
                stage, recipe, inputs, folder / f"{stage}-{task.key[:12]}", shard=task.shard, key=task.key, tell=tell
            )
            for task in plan(recipe, str)
            if task.stage == stage
        ]

    return run("generate", {"prompts": run("prompts", {})})


def demo_recipe(
    data: dict[str, Any] | None = None, training: dict[str, Any] | None = None, student: dict[str, Any] | None = None
) -> Recipe:
    """The demo's recipe with some other settings."""
    changes = {"data": data or {}, "training": training or {}, "student": student or {}}
    return Recipe.model_validate(merged(load_recipe(DEMO).model_dump(mode="json"), changes))


def measured_student(recipe: Recipe, images: list[Path], photos: Path | None, work: Path, name: str) -> dict[str, Any]:
    """Train a student on generated images, once, and measure it, on real photos too where there are some.

    Args:
        photos: a dataset directory; the measurements on others, of another name, are kept beside.
        name: of what is kept in ``work``: whatever tells this student from others there.
    """

    def run(stage: str, name: str, inputs: Inputs) -> Path:
        folder = work / f"{stage}-{name}"
        return stage_folder(stage, recipe, inputs, folder, tell=lambda: console.print(folder.name, highlight=False))

    student = run("distil", name, {"generate": images})
    inputs: Inputs = {"generate": images, "distil": [student], **({"dataset": [photos]} if photos else {})}
    evaluated = run("evaluate", f"{name}-{photos.name}" if photos else name, inputs)
    report = json.loads((evaluated / "report.json").read_text(encoding="utf-8"))
    synthetic, real = report["synthetic"], report["real"]
    figures = {
        "steps": recipe.training.steps,
        "images": len(recipe.domain.classes) * recipe.data.images_per_class,
        "synthetic": synthetic["student"]["acc1"],
        "agreement": synthetic["agreement"],
    }
    if real:
        figures |= {"real": real["student"]["acc1"], "teacher_real": real["teacher"]["acc1"], "photos": real["images"]}
        figures["real_agreement"] = real["agreement"]
    return figures


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, section by section."""
    result = dict(base)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and name not in REPLACED
        result[name] = merged(result.get(name) or {}, value) if nested else value
    return result
