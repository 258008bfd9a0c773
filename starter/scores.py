"""The starter weights' figures, each printed by ``python -m starter scores``: none of the photos was trained on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillation.embedding import Embedder
from distillation.plan import STARTER
from distillation.student_folder import read_student
from distillation.views import apply_views, whole_views
from models.generators import load_generator
from models.sampling import Sampler
from models.teachers import TeacherModel, load_teacher
from starter.classes import GENERATED
from starter.photos import class_names, load_photos

TEMPLATE = "a photo of a {}"


def score_all(data: Path, *, images_per_class: int, seed: int) -> dict[str, Any]:
    """Teacher and base students on the 5,000 validation photos, and what the teacher says of generated images."""
    teacher = load_teacher(str(STARTER / "teacher"))
    names = [synonyms[0] for synonyms in class_names(data)]
    embedder = Embedder(teacher, [[TEMPLATE.format(name)] for name in names], on_halved=lambda _size: None)
    validation = load_photos(data, "validation")
    features = _features(embedder, validation.images)
    logits = features @ embedder.head.cpu().numpy()
    figures: dict[str, Any] = {
        "teacher": {
            "image_tower_params": teacher.params_image_tower,
            "params": teacher.params_total,
            "acc1_validation_200_classes": _percent(logits.argmax(1) == validation.labels),
            **_among_generated(logits, validation.labels, names),
        },
        "students": {
            folder.name: _student(folder, teacher, embedder, validation.images, validation.labels, features)
            for folder in sorted((STARTER / "students").glob("*"))
        },
        "generator": _generator(data, embedder, names, images_per_class, seed),
    }
    return figures


def _among_generated(
    logits: NDArray[np.float32], labels: NDArray[np.int64], names: list[str]
) -> dict[str, float | dict[str, float]]:
    """The teacher on real photos of the generator's classes, to compare its images with."""
    asked = np.isin(labels, GENERATED)
    labels, right = labels[asked], _right_among(logits[asked], labels[asked])
    return {
        f"acc1_validation_{len(GENERATED)}_classes": _percent(right),
        f"per_class_{len(GENERATED)}": _per_class(right, labels, names),
    }


def _right_among(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the label has the highest logit among the generator's classes."""
    within = np.array(GENERATED)
    right: NDArray[np.bool_] = within[logits[:, within].argmax(1)] == labels
    return right


def _per_class(right: NDArray[np.bool_], labels: NDArray[np.int64], names: list[str]) -> dict[str, float]:
    return {names[label]: _percent(right[labels == label]) for label in GENERATED}


def _features(embedder: Embedder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    parts = [embedder.whole(torch.from_numpy(part)).cpu().numpy() for part in np.array_split(images, 40)]
    return np.concatenate(parts)


def _student(
    folder: Path,
    teacher: TeacherModel,
    embedder: Embedder,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    target: NDArray[np.float32],
) -> dict[str, float]:
    student, described = read_student(folder)
    mean, std = torch.tensor(teacher.mean), torch.tensor(teacher.std)
    parts = []
    with torch.inference_mode():
        for part in np.array_split(images, 40):
            pixels = apply_views(torch.from_numpy(part), whole_views(len(part)), described["image_size"], mean, std)
            parts.append(torch.nn.functional.normalize(student.eval()(pixels).float(), dim=-1).numpy())
    features = np.concatenate(parts)
    return {
        "params": described["params"],
        "acc1_validation_200_classes": _percent((features @ embedder.head.cpu().numpy()).argmax(1) == labels),
        "feature_cosine": round(float((features * target).sum(1).mean()), 4),
    }


def _generator(data: Path, embedder: Embedder, names: list[str], images_per_class: int, seed: int) -> dict[str, Any]:
    """Teacher's top-1 among all 200 classes on images of each class, and how near they come to training photos."""
    pipeline = load_generator(str(STARTER / "generator"), device=torch.device("cpu"))
    sampler = Sampler(pipeline, steps=1, guidance=0.0, batch_size=64)
    labels = np.repeat(GENERATED, images_per_class)
    prompts = [TEMPLATE.format(names[label]) for label in labels]
    began = time.monotonic()
    images = sampler.sample(prompts, [seed + i for i in range(len(prompts))])
    seconds = time.monotonic() - began
    made = images.cpu().numpy()
    logits = _features(embedder, made) @ embedder.head.cpu().numpy()
    right, among = logits.argmax(1) == labels, _right_among(logits, labels)
    nearest, reference = _nearest_photos(data, made, labels)
    return {
        "images": len(labels),
        "images_per_s": round(len(labels) / seconds, 1),
        "teacher_acc1_200_classes": _percent(right),
        f"teacher_acc1_{len(GENERATED)}_classes": _percent(among),
        "per_class_200": _per_class(right, labels, names),
        f"per_class_{len(GENERATED)}": _per_class(among, labels, names),
        "median_rms_to_nearest_training_photo": round(float(np.median(nearest)), 4),
        "smallest_rms_to_nearest_training_photo": round(float(nearest.min()), 4),
        "validation_photos_median_rms": round(float(np.median(reference)), 4),
        "validation_photos_smallest_rms": round(float(reference.min()), 4),
    }


def _nearest_photos(
    data: Path, made: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Root-mean-square pixel distance (of [0, 1]) to the nearest training photo of the class, mirrored ones too.

    Returns:
        for the generated images, and, for comparison, for unseen validation photos of the same classes.
    """
    train, validation = load_photos(data, "train"), load_photos(data, "validation")
    ours: list[NDArray[np.float64]] = []
    theirs: list[NDArray[np.float64]] = []
    for label in GENERATED:
        photos = _small(train.images[train.labels == label])
        photos = np.concatenate([photos, photos.reshape(-1, 16, 16, 3)[:, :, ::-1].reshape(len(photos), -1)])
        for images, found in ((made[labels == label], ours), (validation.images[validation.labels == label], theirs)):
            distance = np.square(_small(images)[:, None] - photos[None]).mean(-1).min(1)
            found.append(np.sqrt(distance))
    return np.concatenate(ours), np.concatenate(theirs)


def _small(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over 4 x 4 pixels, flattened: robust to tiny shifts, quick to compare."""
    means = images.reshape(len(images), 16, 4, 16, 4, 3).mean((2, 4)) / 255
    small: NDArray[np.float32] = means.reshape(len(images), -1).astype(np.float32)
    return small


def _percent(hits: NDArray[np.bool_]) -> float:
    return round(100 * float(hits.mean()), 2)


def write_scores(figures: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
