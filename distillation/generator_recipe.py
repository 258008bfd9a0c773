"""The recipe of a generator: which photos it learns from, and how long. No torch here: the API imports it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, field_validator, model_validator

from distillation.class_matching import match_classes
from distillation.errors import DatasetError
from distillation.recipe import MAX_MINUTES, MAX_STEPS, ClassSpec, Domain, Teacher, distinct_classes, named_classes
from distillation.recipe_fields import Location, Section, is_local, is_trained

DEFAULT_STEPS = 8500
"""About 70 minutes on two CPU cores at 64 pixels."""


class GeneratorRecipe(Section):
    """One training of a generator, whole. Give at most one of `steps`, `minutes`."""

    name: str = Field(min_length=1, max_length=80, description="For people, and for the model card.")
    dataset: Location = Field(
        min_length=1, description="Labelled photos: a dataset id (`ds_...`), or a path for the library."
    )
    classes: tuple[ClassSpec, ...] | None = Field(
        None,
        description="The classes to learn, with their synonyms for captions, as in `domain.classes` of a recipe; null: "
        "every class of the dataset. Photos of other classes are left out.",
    )
    teacher: Teacher = Field(
        Teacher(),  # type: ignore[call-arg]
        description="Whose features compare images with photos and whose text tower reads the captions: its image "
        "tower must be timm's, its text tower CLIP's.",
    )
    base: Location | None = Field(
        None,
        min_length=1,
        description="A generator to go on from, one trained here: `starter`, an id (`gen_...`), or a directory. It "
        "brings what it knows of drawing, and learns to read the teacher's texts first; classes that are not learnt "
        "again are forgotten. null: from nothing.",
    )
    size: int = Field(
        64, ge=32, le=256, multiple_of=16, description="Image side in pixels, a multiple of 16; 64 has been tried."
    )
    steps: int | None = Field(None, ge=1, le=MAX_STEPS, description=f"Training steps (default {DEFAULT_STEPS:,}).")
    minutes: float | None = Field(
        None, gt=0, le=MAX_MINUTES, description="A time budget; the schedule is fitted to it."
    )
    batch_size: int = Field(
        64,
        ge=8,
        le=4096,
        multiple_of=8,
        description="Images of a step, a multiple of 8.",
    )
    holdout: float = Field(
        0.1, gt=0, lt=1, description="Share of each class's photos that is kept for measuring what came of it."
    )
    seed: int = Field(0, ge=0, lt=2**31)
    licence: str = Field("", max_length=500, description="The photos' licence, repeated on the model card.")

    @field_validator("base")
    @classmethod
    def _trained_here(cls, value: str | None) -> str | None:
        if value is None or value == "starter" or is_trained(value) or is_local(value):
            return value
        raise ValueError("it is `starter`, the id of a trained generator (gen_...), or a directory (/... or ./...)")

    @field_validator("classes", mode="before")
    @classmethod
    def _names_are_classes(cls, value: Any) -> Any:
        return named_classes(value)

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, value: tuple[ClassSpec, ...] | None) -> tuple[ClassSpec, ...] | None:
        return value if value is None else distinct_classes(value)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.minutes is not None:
            raise ValueError("give only one of steps, minutes")
        return self


def load_generator_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON recipe as it is written, not yet validated.

    Raises:
        ValueError: the file is not YAML, or not an object.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no recipe: fields and their values are expected")
    return content


def classes_of(recipe: GeneratorRecipe, dataset_classes: Sequence[str]) -> tuple[Domain, dict[int, int], list[str]]:
    """The classes to learn, which of them each of the dataset's classes is (others are left out), and warnings.

    Raises:
        DatasetError: the dataset is not labelled, lacks a class that the recipe names, or has names that cannot stand
            for classes.
    """
    if not dataset_classes:
        raise DatasetError("the dataset has no labels", "put the photos in a folder for each class")
    if recipe.classes is not None:
        domain = Domain(name=recipe.name, classes=recipe.classes)  # type: ignore[call-arg]
        mapping, warnings = match_classes(dataset_classes, domain)
        if missing := [name for index, name in enumerate(domain.class_names) if index not in mapping.values()]:
            listed = ", ".join(f"'{name}'" for name in missing[:10])
            raise DatasetError(f"the dataset has no photos of {listed}", "name the folders and the classes alike")
        return domain, mapping, warnings
    named = [[" ".join(part.replace("_", " ").split()) for part in name.split(",")] for name in dataset_classes]
    shared = Counter(name.casefold() for names in named for name in {*names})
    try:
        classes = tuple(
            ClassSpec(name=first, synonyms=tuple(n for n in others if n and shared[n.casefold()] == 1))  # type: ignore[call-arg]
            for first, *others in named
        )
        domain = Domain(name=recipe.name, classes=classes)  # type: ignore[call-arg]
    except ValueError as error:
        raise DatasetError(
            f"the dataset's class names cannot be used: {error}", "say `classes` in the recipe"
        ) from error
    return domain, {index: index for index in range(len(classes))}, []


def unusable_teacher(model_cfg: Mapping[str, Any]) -> str | None:
    """Why an open_clip configuration's model cannot guide a generator, as far as the configuration tells; or None."""
    if "timm_model_name" not in model_cfg.get("vision_cfg", {}):
        return "its image tower is not a timm network, by whose features generated images are compared with photos"
    text = model_cfg.get("text_cfg", {})
    if "hf_model_name" in text or text.get("no_causal_mask"):
        return "its text tower is not a CLIP one, which a pipeline's text encoder must be"
    return None
