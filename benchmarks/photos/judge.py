"""Accuracy on corrupted photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.photos.bench import DomainBench
from benchmarks.photos.corruptions import corrupted
from distillation.distilling import load_recipe_teacher
from distillation.image_sets import ImageSet, real_images
from distillation.preprocess import embed, student_preprocess
from distillation.prompts import zero_shot_prompts
from distillation.protocol import write_atomically
from distillation.student_folder import read_student
from models.students import student_features

MOST_PHOTOS = 200
"""Photos of a domain that are corrupted, drawn once, each of them in 45 ways."""


class Judge:
    """Mean accuracy of models on the corrupted photos of one domain, which are kept in a folder."""

    def __init__(self, bench: DomainBench, kept: Path) -> None:
        recipe = bench.recipe
        self._teacher = load_recipe_teacher(recipe, torch.device("cpu"))
        self._head = self._teacher.zero_shot_head(zero_shot_prompts(recipe.domain)).numpy()
        photos, _ = real_images(bench.measured, recipe.domain)
        chosen = photos.sample(MOST_PHOTOS, 0)
        kept /= f"{len(chosen)}-photos"
        self._sets = corrupted(chosen, 0, kept)
        self._of_teacher = kept / "teacher.json"

    def accuracies(self, student: Path) -> dict[str, Any]:
        """Of the teacher, measured once, and of a student's folder."""
        if not self._of_teacher.is_file():
            accuracy = self._mean(self._teacher.encode_image, self._teacher.preprocess_cfg)
            write_atomically(self._of_teacher, json.dumps(accuracy))
        model, described = read_student(student)
        cfg = student_preprocess(self._teacher.preprocess_cfg, described["image_size"])
        return {
            "student_corrupted": self._mean(lambda pixels: student_features(model, pixels, autocast=False), cfg),
            "teacher_corrupted": json.loads(self._of_teacher.read_text(encoding="utf-8")),
            "corruptions": len(self._sets),
        }

    @torch.inference_mode()
    def _mean(self, encode: Any, cfg: dict[str, Any]) -> float:
        return float(np.mean([self._accuracy(encode, images, cfg) for images in self._sets]))

    def _accuracy(self, encode: Any, images: ImageSet, cfg: dict[str, Any]) -> float:
        features = embed(encode, images, cfg, on_batch=lambda _count: None, on_halved=lambda _size: None)
        return float(((features @ self._head).argmax(1) == images.labels).mean())
