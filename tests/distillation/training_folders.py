"""Hand-made generate shards with views and features, small enough to train on in a test."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillation.corpus import Corpus
from distillation.embedding import Embedder
from distillation.protocol import Reporter, Request
from distillation.recipe import Recipe, Training
from distillation.trainer import Trainer
from models.students import build_student, student_config
from models.teachers import TeacherModel, load_teacher
from tests.distillation.stage_folders import NAMES, coloured_images

CPU = torch.device("cpu")
STUDENT_SIZE = 48


def training(**changes: Any) -> Training:
    return Training.model_validate({"batch_size": 8, "views": 2, "steps": 12, "ema": 0.9, **changes})


def training_recipe(teacher: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "domain": {"name": "Colours", "classes": [*NAMES]},
            "student": {"architecture": "test_resnet", "image_size": STUDENT_SIZE},
            "teacher": {"model": f"local-dir:{teacher}"},
            "training": training(**changes).model_dump(),
        }
    )


def write_training_shard(folder: Path, teacher: TeacherModel, seed: int) -> Path:
    """36 coloured images of 72 pixels, whole and one crop of each; every fourth is held out."""
    folder.mkdir(parents=True)
    images, labels = coloured_images(seed, 72)
    embedder = Embedder(teacher, [["red"], ["green"]], on_halved=lambda size: None)
    pixels = torch.from_numpy(images)
    seeds = [100 * seed + i for i in range(len(images))]
    views, features = embedder.views(pixels, embedder.whole(pixels), seeds, training())
    arrays = {
        "pixels": images,
        "labels": labels,
        "holdout": np.arange(len(labels)) % 4 == 0,
        "views": views.numpy(),
        "features": features.numpy().astype(np.float16),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    rows = [{"prompt": f"a photo of a {NAMES[label]}"} for label in labels]
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_training_shards(folder: Path, teacher_folder: Path) -> list[Path]:
    teacher = load_teacher(str(teacher_folder))
    return [write_training_shard(folder / f"generate-{seed}", teacher, seed) for seed in range(2)]


def new_trainer(corpus: Corpus, teacher: Any, wanted: Training) -> Trainer:
    torch.manual_seed(wanted.seed)
    student = build_student(student_config("test_resnet", STUDENT_SIZE, teacher.model_cfg))
    return Trainer(student, STUDENT_SIZE, wanted, teacher, corpus.device)


def request(stage: str, wanted: Recipe, inputs: dict[str, list[Path]], out: Path) -> Request:
    out.mkdir(exist_ok=True)
    return Request(stage, 0, "0" * 64, wanted, inputs, out)


class Heard(Reporter):
    """A reporter whose events a test can look at; it asks for a stop after ``stop_after`` progress events."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(stream=io.StringIO())
        self._left = stop_after

    def progress(self, done: int, total: int, unit: str, rate: float | None = None, **metrics: float) -> None:
        super().progress(done, total, unit, rate, **metrics)
        if self._left is not None:
            self._left -= 1
            self.stop_requested = self._left <= 0

    def events(self, kind: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.stream.getvalue().splitlines()]  # type: ignore[attr-defined]
        return [row for row in rows if row["event"] == kind]
