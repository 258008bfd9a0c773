"""The starter weights' figures, each printed by ``python -m starter scores``, on photos that were not trained on.

One exception: how much better the teacher knows the photos it was trained on, which students learn from too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillation.embedding import Embedder
from distillation.generator_training.evaluation import evaluate_pipeline
from distillation.generator_training.photos import Photos as LabelledPhotos
from distillation.plan import STARTER
from distillation.prompts import zero_shot_prompts
from distillation.recipe import Domain
from distillation.student_folder import read_student
from distillation.views import apply_views, whole_views
from models.generators import load_generator
from models.sampling import Sampler
from models.teachers import TeacherModel, load_teacher
from starter.classes import GENERATED
from starter.generator import taught
from starter.photos import Photos, class_names, load_photos

TEMPLATE = "a photo of a {}"
SEED, OF_CLASS = 1_000_000, 128
"""Of the images that are measured: seeds that training does not draw, images of a class."""


def score_all(data: Path) -> dict[str, Any]:
    """Teacher and base students on the 5,000 validation photos, and the generator's images beside photos."""
    teacher = load_teacher(str(STARTER / "teacher"))
    names = [synonyms[0] for synonyms in class_names(data)]
    embedder = Embedder(teacher, [[TEMPLATE.format(name)] for name in names], on_halved=lambda _size: None)
    validation, training = load_photos(data, "validation"), load_photos(data, "train")
    learnt = slice(None, None, len(training.labels) // len(validation.labels))
    features = _features(embedder, validation.images)
    figures: dict[str, Any] = {
        "teacher": {
            "image_tower_params": teacher.params_image_tower,
            "params": teacher.params_total,
            "acc1_validation_200_classes": _acc1(embedder, features, validation.labels),
            "acc1_training_200_classes": _acc1(
                embedder, _features(embedder, training.images[learnt]), training.labels[learnt]
            ),
        },
        "students": {
            folder.name: _student(folder, teacher, embedder, validation.images, validation.labels, features)
            for folder in sorted((STARTER / "students").glob("*"))
        },
        "generator": _generator(data, teacher, training, validation) | _among_all(embedder, names),
    }
    return figures


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
        "acc1_validation_200_classes": _acc1(embedder, features, labels),
        "feature_cosine": round(float((features * target).sum(1).mean()), 4),
    }


def _generator(data: Path, teacher: TeacherModel, training: Photos, validation: Photos) -> dict[str, Any]:
    """What a trained generator's report has, with the validation photos as those held out."""
    domain = Domain.model_validate({"name": "starter", "classes": taught(data, GENERATED)})
    embedder = Embedder(teacher, zero_shot_prompts(domain), on_halved=lambda _size: None)
    photos = (_of_generated(one) for one in (training, validation))
    return evaluate_pipeline(STARTER / "generator", embedder, domain, *photos, batch_size=64, seed=SEED)


def _among_all(embedder: Embedder, names: list[str]) -> dict[str, float]:
    """How many images the teacher takes for the intended class among all 200, not only among the generator's."""
    pipeline = load_generator(str(STARTER / "generator"), device=torch.device("cpu"))
    labels = np.repeat(GENERATED, OF_CLASS)
    prompts, seeds = [TEMPLATE.format(names[label]) for label in labels], list(range(SEED, SEED + len(labels)))
    images = Sampler(pipeline, steps=1, guidance=0.0, batch_size=64).sample(prompts, seeds)
    return {"teacher_acc1_200_classes": _acc1(embedder, _features(embedder, images.cpu().numpy()), labels)}


def _of_generated(photos: Photos) -> LabelledPhotos:
    rows = np.isin(photos.labels, GENERATED)
    labels = np.searchsorted(GENERATED, photos.labels[rows])
    return LabelledPhotos(torch.from_numpy(photos.images[rows]), torch.from_numpy(labels))


def _acc1(embedder: Embedder, features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    hits = (features @ embedder.head.cpu().numpy()).argmax(1) == labels
    return round(100 * float(hits.mean()), 2)


def write_scores(figures: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
