"""The training loop: schedule, progress, checkpoints, interruption, memory running out."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distillation.checkpoints import load_newest, save_checkpoint
from distillation.corpus import Corpus
from distillation.distributed import largest, size
from distillation.mixed_corpus import MixedCorpus
from distillation.protocol import Interrupted, Reporter, StageError, write_atomically
from distillation.recipe import Training
from distillation.schedules import lr_factor
from distillation.trainer import Trainer
from models.memory import is_out_of_memory

CURVE_POINTS = 100
MEASUREMENTS = 4
STEPS_AHEAD = 2
SMALLEST_BATCH = 2
"""Batch normalisation needs two images."""


@dataclass(frozen=True)
class Length:
    """How long to train: a number of images (counting repeats), or seconds."""

    images: int | None
    seconds: float | None = None


@dataclass
class Progress:
    """How far the training is; saved with every checkpoint.

    Args:
        seen: images so far, counting repeats.
        seconds: spent in steps, over all attempts.
    """

    batch_size: int
    step: int = 0
    seen: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)

    def done(self, length: Length) -> float:
        """Share of the training that is over."""
        by_time = self.seconds / length.seconds if length.seconds else 0.0
        by_images = self.seen / length.images if length.images else 0.0
        return min(1.0, max(by_time, by_images))

    def steps(self, length: Length) -> int:
        """All steps of the training; under a time budget, as far as the speed so far tells."""
        if length.images is not None:
            return self.step + math.ceil(max(0, length.images - self.seen) / self.batch_size)
        done = self.done(length)
        return self.step if done >= 1 else max(self.step + 1, round(self.step / done) if done else 0)


def train(
    trainer: Trainer,
    corpus: Corpus | MixedCorpus,
    training: Training,
    length: Length,
    out: Path,
    report: Reporter,
    measure: Callable[[], dict[str, float]],
) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint in ``out``; writes ``curve.jsonl``.

    Args:
        measure: scores of the student as it is, for the curve.

    Returns:
        The stage's summary: steps, images_per_s, loss and the last scores.

    Raises:
        Interrupted: a stop was requested; a checkpoint is in ``out``.
        StageError: out_of_memory with the smallest batch, or the loss is not a number any more.
    """
    progress = Progress(min(training.batch_size, max(SMALLEST_BATCH, corpus.count)))
    if (saved := load_newest(out)) is not None:
        trainer.load_state(saved[0])
        progress = Progress(**saved[1])
    if progress.batch_size < size():
        raise StageError(
            "too_many_dropped",
            f"there are {corpus.count} training images for {size()} GPUs, fewer than one for each",
            "make more images, or let the worker see fewer GPUs (CUDA_VISIBLE_DEVICES)",
            "data.images_per_class",
        )
    measured = int(MEASUREMENTS * progress.done(length))
    losses: list[torch.Tensor] = []
    ahead: deque[torch.cuda.Event] = deque()
    last_save = time.monotonic()
    while (done := progress.done(length)) < 1:
        if largest(report.stop_requested):
            _save(trainer, progress, out, report)
            raise Interrupted
        began = time.monotonic()
        lr = training.lr * lr_factor(done, training.schedule, training.warmup)
        failed = ""
        try:
            batch = corpus.batch(progress.seen, progress.batch_size, training.seed)
            losses.append(trainer.step(batch, progress.step, lr))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failed = str(error).splitlines()[0]
        if failed:
            # Outside the handler, where the exception no longer holds the tensors of the failed step.
            _halve(progress, failed, report)
            continue
        if corpus.device.type == "cuda":
            keep_pace(ahead)
        progress.step += 1
        progress.seen += progress.batch_size
        progress.seconds = largest(progress.seconds + time.monotonic() - began)
        total, quarter = progress.steps(length), int(MEASUREMENTS * progress.done(length))
        if quarter > measured or progress.step % max(1, total // CURVE_POINTS) == 0:
            scores = measure() if quarter > measured else {}
            progress.curve.append({"step": progress.step, "loss": _mean(losses), "lr": lr, **scores})
            losses.clear()
            measured = quarter
        report.progress(progress.step, total, "steps", progress.step / progress.seconds, **_metrics(progress))
        if time.monotonic() - last_save > training.checkpoint_seconds and progress.done(length) < 1:
            _save(trainer, progress, out, report)
            last_save = time.monotonic()
    if report.leads:
        _write_curve(progress, out)
    last = {name: value for name, value in progress.curve[-1].items() if name not in ("step", "lr")}
    return {"steps": progress.step, "images_per_s": round(progress.seen / progress.seconds, 2), **last}


def keep_pace(ahead: deque[torch.cuda.Event]) -> None:
    """Wait until the GPU is at most ``STEPS_AHEAD`` steps behind: the clock counts its work, and batches sent to it do
    not pile up."""
    ahead.append(torch.cuda.Event())
    ahead[-1].record()
    if len(ahead) > STEPS_AHEAD:
        ahead.popleft().synchronize()


def _metrics(progress: Progress) -> dict[str, float]:
    rate = {"images_per_s": round(progress.seen / progress.seconds, 1)}
    return {**rate, "loss": round(progress.curve[-1]["loss"], 4)} if progress.curve else rate


def _mean(losses: list[torch.Tensor]) -> float:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise StageError(
            "internal", "the loss is not a number any more: the training diverged", "lower training.lr", "training.lr"
        )
    return mean


def _halve(progress: Progress, failed: str, report: Reporter) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if size() > 1 or progress.batch_size // 2 < SMALLEST_BATCH:
        # Of several processes the others are in the middle of the step, and cannot be called back from it.
        smaller = "lower training.batch_size, " if size() > 1 else ""
        raise StageError(
            "out_of_memory",
            f"memory ran out with {progress.batch_size} images in the batch: {failed}",
            f"{smaller}choose a smaller student or image size, or a machine with more memory",
            "training.batch_size",
        )
    progress.batch_size //= 2
    report.warning("batch_halved", f"memory ran out: training goes on with {progress.batch_size} images in the batch")


def _save(trainer: Trainer, progress: Progress, out: Path, report: Reporter) -> None:
    if not report.leads:
        return
    path = save_checkpoint(out, progress.step, trainer.state(), vars(progress))
    _write_curve(progress, out)
    report.checkpoint(progress.step, path, **(_metrics(progress) if progress.step else {}))


def _write_curve(progress: Progress, out: Path) -> None:
    write_atomically(out / "curve.jsonl", "".join(json.dumps(row) + "\n" for row in progress.curve))
