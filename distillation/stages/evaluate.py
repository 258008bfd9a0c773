"""Stage ``evaluate``: teacher and student side by side, zero-shot, on held-out synthetic images and on real photos."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillation.distilling import load_recipe_teacher
from distillation.image_sets import ImageSet, cached_teacher_features, real_images, synthetic_images
from distillation.metrics import agreement, classification_metrics, confusions, feature_cosine, per_class_table
from distillation.photo_notes import photo_notes
from distillation.preprocess import embed, student_preprocess
from distillation.prompts import zero_shot_prompts
from distillation.protocol import Interrupted, Reporter, Request, StageError, versions, write_atomically
from distillation.student_folder import read_student
from models.students import student_features
from models.teachers import TeacherModel

MOST_HELD_OUT = 50_000
"""Synthetic images measured: more tell nothing new (their share of hits has a standard error of 0.2 points at most)."""


@dataclass(frozen=True)
class Measured:
    """Both models on one set of images: scores ``(n, classes)`` and features ``(n, embed_dim)``."""

    labels: NDArray[np.int64]
    teacher: NDArray[np.float32]
    student: NDArray[np.float32]
    head: NDArray[np.float32]

    @property
    def predictions(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Predicted classes of teacher and student, each ``(n,)``."""
        return (self.teacher @ self.head).argmax(1), (self.student @ self.head).argmax(1)

    def section(self) -> dict[str, Any]:
        """The report's section about this set."""
        return {
            "images": len(self.labels),
            "teacher": classification_metrics(self.teacher @ self.head, self.labels),
            "student": classification_metrics(self.student @ self.head, self.labels),
            "agreement": agreement(*self.predictions),
            "feature_cosine": feature_cosine(self.teacher, self.student),
        }


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write ``report.json`` and return its scores."""
    recipe = request.recipe
    shards, distilled = request.inputs["generate"], request.inputs["distil"][0]
    held_out = synthetic_images(shards, holdout=True).sample(MOST_HELD_OUT, recipe.seed)
    if not len(held_out):
        raise StageError(
            "too_many_dropped",
            "no generated image is held out of training, so nothing can be measured",
            "raise data.images_per_class or data.holdout",
            "data.holdout",
        )
    photos: ImageSet | None = None
    if request.inputs.get("dataset"):
        photos, warnings = real_images(request.inputs["dataset"][0], recipe.domain)
        for message in warnings:
            report.warning("dataset_classes", message)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_recipe_teacher(recipe, device)
    encoders = _Encoders(teacher, distilled, device, report, len(held_out) + 2 * len(photos or ()))
    head = teacher.zero_shot_head(zero_shot_prompts(recipe.domain)).cpu().numpy()
    synthetic = Measured(held_out.labels, cached_teacher_features(shards, held_out), encoders.student(held_out), head)
    real = None
    if photos is not None:
        real = Measured(photos.labels, encoders.teacher(photos), encoders.student(photos), head)
    notes: list[str] = []
    if photos is not None:
        seen = _summary(shards[0]).get("learnt_from", [])  # absent in a shard of an earlier version
        notes = photo_notes(recipe, request.inputs["dataset"][0], seen, teacher.image_size)
        for note in notes:
            report.warning("real_photos", note)
    content = {
        **_models(request, teacher),
        **_scores(recipe.domain.class_names, synthetic, real, notes, request),
        "generation": _generation(shards),
        "training": _training(request, distilled),
        "versions": versions(),
    }
    write_atomically(request.out / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return {name: content[name] for name in ("synthetic", "real", "gap")}


class _Encoders:
    """Teacher and student as functions from an image set to features, with progress and a stop between batches."""

    def __init__(self, teacher: TeacherModel, folder: Path, device: torch.device, report: Reporter, total: int) -> None:
        self._teacher, self._device, self._report = teacher, device, report
        self._student, described = read_student(folder)
        self._student = self._student.to(device).eval()
        self._student_cfg = student_preprocess(teacher.preprocess_cfg, described["image_size"])
        self._done, self._total = 0, total

    def teacher(self, images: ImageSet) -> NDArray[np.float32]:
        return self._embed(self._teacher.encode_image, images, self._teacher.preprocess_cfg)

    def student(self, images: ImageSet) -> NDArray[np.float32]:
        features = self._embed(self._encode_student, images, self._student_cfg)
        if not np.isfinite(features).all():
            raise StageError(
                "internal", "the student's features are not finite numbers", "lower training.lr", "training.lr"
            )
        return features

    @torch.inference_mode()
    def _encode_student(self, pixels: Tensor) -> Tensor:
        # fp32, as in the exported files.
        return student_features(self._student, pixels.to(self._device), autocast=False)

    def _embed(self, encode: Any, images: ImageSet, cfg: dict[str, Any]) -> NDArray[np.float32]:
        return embed(encode, images, cfg, on_batch=self._count, on_halved=self._halved)

    def _count(self, images: int) -> None:
        if self._report.stop_requested:
            raise Interrupted
        self._done += images
        self._report.progress(self._done, self._total, "images")

    def _halved(self, size: int) -> None:
        self._report.warning("batch_halved", f"memory ran out: measuring {size} images at once")


def _models(request: Request, teacher: TeacherModel) -> dict[str, Any]:
    recipe = request.recipe
    student = json.loads((request.inputs["distil"][0] / "student.json").read_text(encoding="utf-8"))
    return {
        "domain": recipe.domain.name,
        "classes": len(recipe.domain.classes),
        "teacher": {
            "model": recipe.teacher.title,
            "params_image_tower": teacher.params_image_tower,
            "params_total": teacher.params_total,
        },
        "student": {
            "architecture": student["architecture"],
            "image_size": student["image_size"],
            "params": student["params"],
            # Whole: with the teacher's text tower, which it is used with.
            "params_total": student["params"] + teacher.params_total - teacher.params_image_tower,
            "macs": student["macs"],
            "saving_vs_image_tower": 1 - student["params"] / teacher.params_image_tower,
            "saving_vs_whole": 1 - student["params"] / teacher.params_total,
            "init": student["init"],
        },
    }


def _scores(
    names: list[str], synthetic: Measured, real: Measured | None, notes: list[str], request: Request
) -> dict[str, Any]:
    """Sections ``synthetic`` to ``confusions``; tables are about real photos where there are any."""
    sections: dict[str, Any] = {"synthetic": synthetic.section(), "real": None, "gap": None}
    if real is not None:
        dataset = Path(request.recipe.evaluation.dataset or request.inputs["dataset"][0]).name
        sections["real"] = {**real.section(), "dataset": dataset, "notes": notes}
        sections["gap"] = {
            who: sections["synthetic"][who]["acc1"] - sections["real"][who]["acc1"] for who in ("teacher", "student")
        }
    shown, on = (synthetic, "synthetic") if real is None else (real, "real")
    teacher, student = shown.predictions
    sections["per_class"] = per_class_table(names, shown.labels, teacher, student, on)
    sections["confusions"] = confusions(names, shown.labels, student)
    return sections


def _generation(shards: list[Path]) -> dict[str, Any]:
    """The generate shards' summaries as one."""
    summaries = [_summary(shard) for shard in shards]
    images = [int(item["images"]) for item in summaries]
    total = max(sum(images), 1)
    seconds = sum(count / max(item["images_per_s"], 1e-9) for count, item in zip(images, summaries, strict=True))
    reasons = sorted({reason for item in summaries for reason in item["dropped"]})
    return {
        "images": sum(images),
        "dropped": {reason: sum(item["dropped"].get(reason, 0) for item in summaries) for reason in reasons},
        "images_per_s": round(total / max(seconds, 1e-9), 2),
        "teacher_acc1": sum(n * item["teacher_acc1"] for n, item in zip(images, summaries, strict=True)) / total,
    }


def _training(request: Request, distilled: Path) -> dict[str, Any]:
    summary = _summary(distilled)
    return {
        "steps": summary["steps"],
        "batch_size": request.recipe.training.batch_size,
        "images_per_s": summary["images_per_s"],
        "losses": dict(request.recipe.training.losses),
    }


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["summary"]
    return summary
