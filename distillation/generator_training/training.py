"""The training loop: schedule, progress, checkpoints, interruption."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from distillation.checkpoints import load_newest, save_checkpoint
from distillation.generator_recipe import DEFAULT_STEPS, GeneratorRecipe
from distillation.generator_training.trainer import GeneratorTrainer
from distillation.protocol import Interrupted, Reporter, StageError, write_atomically
from distillation.training import CURVE_POINTS, Length, Progress, keep_pace
from models.memory import is_out_of_memory

CHECKPOINT_SECONDS = 120.0
WARMUP_STEPS = 100
FALL = 0.4
"""Share of the training, its last, over which the rate falls."""
FLOOR = 0.02


def train(trainer: GeneratorTrainer, recipe: GeneratorRecipe, out: Path, report: Reporter) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint in ``out``; writes ``curve.jsonl`` and a last checkpoint.

    Returns:
        Steps, seconds, images_per_s and the last figures.

    Raises:
        Interrupted: a stop was requested; a checkpoint is in ``out``.
        StageError: memory ran out, or the losses are not numbers any more.
    """
    length = Length((recipe.steps or DEFAULT_STEPS) * recipe.batch_size)
    if recipe.minutes is not None:
        length = Length(None, recipe.minutes * 60)
    progress = Progress(recipe.batch_size)
    if (saved := load_newest(out)) is not None:
        trainer.load_state(saved[0])
        progress = Progress(**saved[1])
    ahead: deque[torch.cuda.Event] = deque()
    last_save = time.monotonic()
    figures = {name: v for row in progress.curve[-1:] for name, v in row.items() if name != "step"}
    while (done := progress.done(length)) < 1:
        if report.stop_requested:
            _save(trainer, progress, out, report)
            raise Interrupted
        began = time.monotonic()
        try:
            told = trainer.step(progress.step, recipe.batch_size, rate_factor(progress.step, done), done)
        except RuntimeError as error:
            raise _explained(error) from error
        if trainer.device.type == "cuda":
            keep_pace(ahead)
        progress.step += 1
        progress.seen += recipe.batch_size
        progress.seconds += time.monotonic() - began
        total = progress.steps(length)
        if progress.step % max(1, total // CURVE_POINTS) == 0 or progress.done(length) >= 1:
            figures = _finite({name: round(float(value), 4) for name, value in told.items()})
            progress.curve.append({"step": progress.step, **figures})
        report.progress(progress.step, total, "steps", progress.step / progress.seconds, **figures)
        if time.monotonic() - last_save > CHECKPOINT_SECONDS or progress.done(length) >= 1:
            _save(trainer, progress, out, report)
            last_save = time.monotonic()
    rate = round(progress.seen / progress.seconds, 2)
    return {**figures, "steps": progress.step, "seconds": round(progress.seconds, 1), "images_per_s": rate}


def rate_factor(step: int, done: float) -> float:
    """Share of the peak learning rate: a short rise, then constant, then a cosine fall over the last 40 %.

    Args:
        done: share of the training that is over, 0 to 1.
    """
    fall = max(0.0, (done - (1 - FALL)) / FALL)
    return min(1.0, (step + 1) / WARMUP_STEPS) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * fall)))


def _finite(figures: dict[str, float]) -> dict[str, float]:
    if not all(math.isfinite(value) for value in figures.values()):
        raise StageError(
            "internal", "the losses are not numbers any more: the training diverged", "try another seed", "seed"
        )
    return figures


def _explained(error: RuntimeError) -> Exception:
    if not is_out_of_memory(error):
        return error
    return StageError(
        "out_of_memory",
        f"memory ran out: {str(error).splitlines()[0]}",
        "lower batch_size or size, or use a larger machine",
        "batch_size",
    )


def _save(trainer: GeneratorTrainer, progress: Progress, out: Path, report: Reporter) -> None:
    path = save_checkpoint(out, progress.step, trainer.state(), vars(progress))
    write_atomically(out / "curve.jsonl", "".join(json.dumps(row) + "\n" for row in progress.curve))
    report.checkpoint(progress.step, path)
