"""The stages of a recipe, one after the other in this process, each with its time, rate and peak memory."""

from __future__ import annotations

import gc
import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.harness import synchronize
from distillation.plan import batch_of, plan
from distillation.protocol import Reporter, Request
from distillation.recipe import Recipe
from distillation.runner import run_stage
from distillation.stages.embed import photo_folders


class Mark(NamedTuple):
    """How many images were done at a time, in seconds."""

    at: float
    images: int


class Watch(Reporter):
    """Writes nothing, but keeps when images were reported and what was warned of.

    Args:
        batch: images in a training step; None where steps are none of training.
    """

    def __init__(self, batch: int | None) -> None:
        super().__init__(io.StringIO())
        self.batch = batch
        self.marks: list[Mark] = []
        self.warnings: list[str] = []
        self._images = self._done = 0

    def progress(self, done: int, total: int, unit: str, rate: float | None = None, **metrics: float) -> None:
        images = {"images": 1, "photos": 1, "steps": self.batch}.get(unit)
        if images is not None:
            self._images += images * (done - self._done)
            self._done = done
            self.marks.append(Mark(time.perf_counter(), self._images))

    def warning(self, code: str, message: str) -> None:
        self.warnings.append(f"{code}: {message}")
        if code == "batch_halved" and self.batch is not None:
            self.batch //= 2


def measured_stages(recipe: Recipe, out: Path) -> Iterator[dict[str, Any]]:
    """Run each stage into a folder of its own in ``out`` and yield its figures: seconds, loading included; images/s of
    its second half; peak memory on the GPU in bytes, or None without one; what it warned of; its own summary."""
    folders: dict[str, list[Path]] = {}
    for task in plan(recipe, str):
        inputs = {name: folders[name] for name in task.needs}
        folder = out / f"{task.stage}-{task.shard}"
        yield _measured(Request(task.stage, task.shard, task.key, recipe, inputs, folder))
        folders.setdefault(task.stage, []).append(folder)


def late_rate(marks: Sequence[Mark]) -> float | None:
    """Images a second in the second half, or None where too few reports came to tell.

    The first half is left out because of what happens only at its start: compiling, recording, choosing kernels. So is
    a last batch that is smaller than the one before, for which a GPU may have to compile again.
    """
    if len(marks) > 2 and marks[-1].images - marks[-2].images < marks[-2].images - marks[-3].images:
        marks = marks[:-1]
    late = [mark for mark in marks if 2 * mark.images >= marks[-1].images]
    if len(late) < 2:
        return None
    return (late[-1].images - late[0].images) / (late[-1].at - late[0].at)


def _measured(request: Request) -> dict[str, Any]:
    watch = Watch(_batch(request))
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    gc.collect()  # the product's stages each have a process, in which nothing of the one before is left
    if cuda:
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    synchronize(device)
    began = time.perf_counter()
    summary = run_stage(request, watch)
    synchronize(device)
    return {
        "stage": request.stage,
        "shard": request.shard,
        "seconds": time.perf_counter() - began,
        "images_per_s": late_rate(watch.marks),
        "batch": watch.batch,
        "peak_allocated": torch.cuda.max_memory_allocated() if cuda else None,
        "peak_reserved": torch.cuda.max_memory_reserved() if cuda else None,
        "warnings": watch.warnings,
        "summary": json.loads(json.dumps(summary)),
    }


def _batch(request: Request) -> int | None:
    """Images of a training step, which are fewer than the recipe says where there are fewer to train on."""
    if request.stage == "distil":
        folders = request.inputs["generate"]
    elif request.stage == "agnostic":
        folders = photo_folders(request.inputs["embed"][0])
    else:
        return None
    images = sum(int((~np.load(folder / "holdout.npy")).sum()) for folder in folders)
    return batch_of(request.recipe.training, images)
