"""The starter generator: the product's own training of a generator on Tiny ImageNet's training photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillation.datasets import import_dataset, is_dataset
from distillation.generator_recipe import GeneratorRecipe
from distillation.pipeline import train_generator
from distillation.plan import StageTask
from starter.photos import class_names, files_of_classes

NAMES_OF_CLASS = 2
"""Names of a class that captions use: the rest of its synonyms are Latin or rare."""
LICENCE = "non-commercial research only: trained on Tiny ImageNet, whose photos are ImageNet's"


def taught(data: Path, labels: Sequence[int]) -> list[dict[str, Any]]:
    """Classes as a recipe has them: the usual name, and what else captions may say."""
    names = class_names(data)
    return [{"name": names[label][0], "synonyms": names[label][1:NAMES_OF_CLASS]} for label in labels]


def train_starter_generator(
    data: Path,
    out: Path,
    work: Path,
    *,
    labels: Sequence[int],
    steps: int,
    batch_size: int,
    seed: int,
    base: str | None,
    minutes: float | None = None,
) -> None:
    """Train the generator, or resume from ``work``, and put the pipeline into ``out``.

    Args:
        labels: the Tiny ImageNet classes to learn.
        base: a generator to go on from.
        minutes: how long to train, instead of ``steps``.
    """
    photos = work / "generator-photos"
    if not is_dataset(photos):
        with files_of_classes(data, "train", labels, work / "parquet") as source:
            import_dataset(source, photos)
    recipe = GeneratorRecipe.model_validate(
        {
            "name": "starter generator",
            "dataset": str(photos),
            "classes": taught(data, labels),
            "base": base,
            "steps": None if minutes else steps,
            "minutes": minutes,
            "batch_size": batch_size,
            "seed": seed,
            "licence": LICENCE,
        }
    )
    trained = train_generator(recipe, work / "generator", _show)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(trained, out)


def _show(_task: StageTask, event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)
