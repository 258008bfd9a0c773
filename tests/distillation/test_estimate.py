"""What a job is said to cost: the disk by the formula of docs/scale.md, and models that the catalogue does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.growth import Image
from distillation.catalogue import resolve_student
from distillation.estimate import Estimate, estimate
from distillation.plan import recipe_teacher_shape
from distillation.recipe import Recipe

CLASSES, PHOTOS = 2, 500_000


def told(**sections: Any) -> Estimate:
    recipe = Recipe.model_validate({"domain": {"name": "d", "classes": ["lemon", "pizza"]}, **sections})
    teacher = recipe_teacher_shape(recipe)
    return estimate(recipe, resolve_student(recipe.student, teacher), teacher)


@pytest.mark.parametrize(
    ("size", "width", "stored", "views"), [(224, 512, 256, 4), (336, 768, 384, 4), (224, 512, 256, 1)]
)
def test_bytes_are_those_of_what_the_stages_store(
    size: int, width: int, stored: int, views: int, tmp_path: Path
) -> None:
    """Images of the starter generator as they are, at 64 pixels; photos as large as the teacher needs them."""
    described = {"model_cfg": {"embed_dim": width, "vision_cfg": {"image_size": size}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))

    def needed(images: int, photos: int | None = None) -> int:
        agnostic = photos and {"source": "photos.tar", "max_images": photos}
        training = {"views": views, "agnostic": agnostic}
        teacher = {"model": f"local-dir:{tmp_path}"}
        return told(teacher=teacher, training=training, data={"images_per_class": images})["bytes"]

    jpeg = 64 * 64 // 4
    assert needed(200) - needed(100) == 100 * CLASSES * (Image(64, views, width).array_bytes + jpeg)
    assert needed(100, PHOTOS) - needed(100) == PHOTOS * Image(stored, views, width).array_bytes


def test_a_student_that_the_catalogue_does_not_know_is_taken_for_the_costliest() -> None:
    """Both phases are counted, and what was assumed is said."""
    training = {"steps": 1000, "agnostic": {"source": "photos.tar", "steps": 1000}}
    unknown, costliest = (
        told(student={"architecture": name, "image_size": 80}, training=training) for name in ("resnet18", "resnet10t")
    )
    assert unknown["minutes"] == costliest["minutes"] > 10 and unknown["bytes"] == costliest["bytes"]
    assert unknown["basis"] == f"{costliest['basis']}; the costs of resnet18 are unknown, those of resnet10t are taken"


def test_a_teacher_of_unknown_size_is_said_to_be_guessed() -> None:
    def basis(model: str) -> str:
        return told(teacher={"model": model, "pretrained": "openai"})["basis"]

    guessed = "; the size of ViT-L-14-336 is unknown, that of a ViT-B-32 is taken"
    assert basis("ViT-L-14-336") == basis("ViT-L-14") + guessed
