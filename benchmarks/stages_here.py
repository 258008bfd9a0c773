"""Stages of a recipe run in this process, in folders; what is done there is kept."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

from distillation.plan import plan
from distillation.protocol import Reporter, Request
from distillation.recipe import Recipe
from distillation.runner import run_stage

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
