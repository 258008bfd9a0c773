"""A generator of a domain's own, where the starter's draws too few of its classes: the product's training of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.photos.domains import PhotoDomain, photos_of
from distillation.generator_recipe import GeneratorRecipe
from distillation.pipeline import train_generator
from distillation.plan import StageTask
from starter.generator import LICENCE, NAMES_OF_CLASS


def own_generator(data: Path, domain: PhotoDomain, minutes: float, work: Path) -> Path:
    """The pipeline's directory; it goes on from the starter generator with the domain's training photos, once."""
    photos = photos_of(data, "train", domain.labels, work / "photos" / f"{domain.name}-train")
    classes = [{"name": name, "synonyms": others[: NAMES_OF_CLASS - 1]} for name, *others in domain.classes]
    content = {"name": domain.name, "dataset": str(photos), "classes": classes, "licence": LICENCE}

    def tell(task: StageTask, event: dict[str, Any]) -> None:
        if event["event"] not in ("progress", "checkpoint"):
            console.print(f"{domain.name}: {task.stage}: {event.get('message', event['event'])}", highlight=False)

    recipe = GeneratorRecipe.model_validate({**content, "base": "starter", "minutes": minutes})
    return train_generator(recipe, work / "generators" / f"{domain.name}-{minutes:g}", tell)
