"""The recipe: everything that decides a job's result, validated. No torch here: the API and the CLI import it.

Unknown keys are refused and every error is reported at once, each with the path of its field.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from distillation.brace_patterns import count_paths
from distillation.recipe_data import Data
from distillation.recipe_fields import Location, Section, is_local, located

LossName = Literal["l2", "mse", "cosine", "i2i", "contrastive", "crd", "mfd", "gd", "icl", "afd"]
NEED_CAPTIONS: frozenset[LossName] = frozenset({"contrastive", "crd", "gd", "icl", "afd"})
"""Losses that images without a text cannot have."""
SizePreset = Literal["xs", "s", "m", "l"]
BUDGETS = ("max_params", "fewer_params", "max_macs")
MAX_CLASSES = 5000
MAX_FILES = 10_000
MAX_EPOCHS, MAX_STEPS, MAX_MINUTES = 100_000, 1_000_000_000, 1_000_000


class ClassSpec(Section):
    """One class of the domain."""

    name: str = Field(min_length=1, max_length=120, description="The name used in prompts and in the results.")
    synonyms: tuple[str, ...] = Field((), description="Other names; averaged into the zero-shot head.")
    description: str = Field(
        "",
        max_length=500,
        description="A few words that set the class apart: for prompts whose template has `{description}`, and for the "
        "language model. The teacher never sees them; it judges by name, synonyms and `domain.templates`.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, then its other names."""
        return (self.name, *self.synonyms)


def named_classes(value: Any) -> Any:
    """Plain names among classes become objects."""
    if isinstance(value, list | tuple):
        return [{"name": item} if isinstance(item, str) else item for item in value]
    return value


def distinct_classes(value: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
    """The classes, if they are 2 to ``MAX_CLASSES`` and no name stands for two of them.

    Raises:
        ValueError: they are not.
    """
    if len(value) < 2:
        raise ValueError(f"a domain needs at least 2 classes, this one has {len(value)}")
    if len(value) > MAX_CLASSES:
        raise ValueError(f"a domain may have at most {MAX_CLASSES} classes, this one has {len(value)}")
    seen: dict[str, int] = {}
    doubled = []
    for index, item in enumerate(value):
        for name in {name.casefold() for name in item.names}:
            if seen.setdefault(name, index) != index:
                doubled.append(f"'{name}' (classes {seen[name] + 1} and {index + 1})")
    if doubled:
        raise ValueError("these names stand for more than one class: " + ", ".join(doubled[:10]))
    return value


class Domain(Section):
    """What the student must recognise, in words."""

    name: str = Field(min_length=1, max_length=80, description="The domain's name, for people.")
    superclass: str = Field(
        "",
        max_length=80,
        description="What all classes are ('food', 'vehicle'): for prompts whose template has `{superclass}`.",
    )
    classes: tuple[ClassSpec, ...] = Field(
        description="The classes: names, or objects with `name`, `synonyms`, `description`. 2 to 5,000."
    )
    templates: tuple[str, ...] = Field(
        ("a photo of a {}",),
        min_length=1,
        description="By which the teacher judges images, in the filter and in every score; `{}` stands for the class "
        "name. A superclass is not added by itself: `a photo of a {}, a type of tool.`",
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _names_are_classes(cls, value: Any) -> Any:
        return named_classes(value)

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, value: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
        return distinct_classes(value)

    @field_validator("templates")
    @classmethod
    def _check_templates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for template in value:
            if [name for _, name, _, _ in string.Formatter().parse(template) if name is not None] != [""]:
                raise ValueError(f"the template {template!r} must contain {{}} exactly once, for the class name")
        return value

    @property
    def class_names(self) -> list[str]:
        return [item.name for item in self.classes]


class Student(Section):
    """The encoder to be made. Give one of `size`, `architecture`, or a budget.

    A budget is any of `max_params`, `fewer_params` and `max_macs`; the strongest student that meets them all is taken.
    """

    size: SizePreset | None = Field(None, description="Preset of the catalogue (default `s`).")
    max_params: int | None = Field(
        None, gt=0, le=10**12, description="Largest number of parameters of backbone + projection."
    )
    fewer_params: float | None = Field(
        None, gt=0, lt=100, description="At least so many per cent fewer parameters than the teacher's image tower."
    )
    max_macs: int | None = Field(
        None, gt=0, le=10**15, description="Largest number of multiply-accumulates for one image."
    )
    architecture: str | None = Field(None, description="Any timm architecture, by name.")
    image_size: int | None = Field(None, ge=32, le=1024, description="Input side in pixels (default: catalogue's).")
    init: Literal["base", "scratch"] = Field(
        "base",
        description="`base`: with the starter teacher, start from a shipped base student of this architecture. With "
        "any other teacher there is none, and training starts from random weights; `training.agnostic` gives a better "
        "start.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [self.size is not None, self.architecture is not None, bool(self.budget)]
        if sum(ways) > 1:
            raise ValueError(f"give only one of size, architecture, or a budget ({', '.join(BUDGETS)})")
        return self

    @property
    def budget(self) -> list[str]:
        """Names of the budgets that are given; all of them must be met."""
        return [name for name in BUDGETS if getattr(self, name) is not None]


class Teacher(Section):
    """The open_clip model whose image features are learnt."""

    model: Location = Field(
        "starter",
        description="`starter`, an open_clip name (`ViT-B-32`), `hf-hub:org/name`, or a directory (`/path`).",
    )
    pretrained: Location | None = Field(None, description="open_clip weight tag (`datacomp_xl_s13b_b90k`) or a file.")
    revision: str | None = Field(None, description="Commit of a hub model; required for `hf-hub:`.")
    licence: str = Field("", description="The weights' licence, repeated on the model card.")

    @field_validator("model")
    @classmethod
    def _as_open_clip_names_it(cls, value: str) -> str:
        return value if ":" in value or is_local(value) else value.replace("/", "-")

    @property
    def title(self) -> str:
        """For people: the model and its weights."""
        return self.model + (f"/{self.pretrained}" if self.pretrained else "")

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.model.startswith("hf-hub:") and not self.revision:
            raise located(("revision",), "a hub model needs `revision`, the commit to pin")
        named = self.model != "starter" and ":" not in self.model and not is_local(self.model)
        if named and not self.pretrained:
            raise located(("pretrained",), "an open_clip model by name needs `pretrained`, the tag of its weights")
        if self.pretrained and not named:
            raise located(("pretrained",), "only an open_clip model by name takes it; this one has its own weights")
        return self


class Agnostic(Section):
    """Phase 1 of the paper: domain-agnostic distillation on unlabelled natural images."""

    source: Location = Field(
        description="A dataset id (`ds_...`), or a path or URL of parquet or webdataset tar files."
    )
    max_images: int = Field(100_000, ge=16, le=1_000_000_000, description="Images used at most.")
    epochs: float = Field(1.0, gt=0, le=MAX_EPOCHS)
    steps: int | None = Field(None, gt=0, le=MAX_STEPS, description="Instead of `epochs`.")
    mix: float = Field(
        0, ge=0, lt=1, description="Share of these photos in the batches of the second phase, beside synthetic images."
    )

    @field_validator("source")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            count = count_paths(value, MAX_FILES)
        except ValueError as error:
            raise ValueError(r"braces name several files, as in {000..009}; write \{ for the character") from error
        if count > MAX_FILES:
            raise ValueError(f"it names more than {MAX_FILES:,} files; give the folder that holds them")
        return value


class Training(Section):
    """How the student learns. Give at most one of `epochs`, `steps`, `minutes`."""

    losses: dict[LossName, Annotated[float, Field(gt=0, le=1e15)]] = Field(
        {"l2": 1.0},
        min_length=1,
        description="Losses and their weights, summed. CLIP-KD's, with its weights: `crd` 1, `mse` (its FD) 2000, "
        "`mfd` 2000, `icl` 1, `afd` 1, `gd` 1e8 * (n / 1024)^2 for batches of n, each beside `contrastive` (its task "
        "loss) 1; its unified sum is `{crd: 1, mse: 2000, icl: 1, contrastive: 1}`.",
    )
    optimizer: Literal["adamw", "sgd", "lion", "muon"] = Field(
        "adamw", description="`muon` learns more in as many steps where the student starts from random weights."
    )
    lr: float = Field(
        1e-3, gt=0, le=10, description="Peak learning rate: 0.001 to 0.004 with `adamw`, 0.005 to 0.01 with `muon`."
    )
    weight_decay: float = Field(0.01, ge=0, le=1)
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps with rising learning rate.")
    epochs: float | None = Field(None, gt=0, le=MAX_EPOCHS, description="Passes over the training images (default 20).")
    steps: int | None = Field(None, gt=0, le=MAX_STEPS, description="Optimiser steps.")
    minutes: float | None = Field(
        None, gt=0, le=MAX_MINUTES, description="A time budget; the schedule is fitted to it."
    )
    batch_size: int = Field(128, ge=2, le=65536, description="Halved and retried when memory runs out.")
    views: int = Field(
        4,
        ge=1,
        le=64,
        description="Views of each image that the teacher embeds, once, and the student sees in turn: the whole image "
        "and random crops.",
    )
    crop_scale: tuple[float, float] = Field((0.5, 1.0), description="Area of the crops, as a share of the image.")
    flip: bool = Field(
        True, description="Show each view mirrored every other time; switch off where left and right matter."
    )
    ema: float | None = Field(0.998, gt=0, lt=1, description="Decay of the averaged weights; null: none.")
    checkpoint_seconds: float = Field(60, gt=0, le=86_400, description="Seconds between checkpoints.")
    agnostic: Agnostic | None = None
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("crop_scale")
    @classmethod
    def _check_scale(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("crop_scale is (smallest, largest) with 0 < smallest <= largest <= 1")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if sum(item is not None for item in (self.epochs, self.steps, self.minutes)) > 1:
            raise ValueError("give only one of epochs, steps, minutes")
        return self

    @property
    def mix(self) -> float:
        """Share of unlabelled photos in the batches of the second phase."""
        return self.agnostic.mix if self.agnostic else 0.0

    @model_validator(mode="after")
    def _photos_have_no_captions(self) -> Self:
        needing = [name for name in self.losses if name in NEED_CAPTIONS]
        if self.mix and needing:
            names = ", ".join(needing)
            message = f"photos have no captions, which {names} need; leave `mix` out or choose other losses"
            raise located(("agnostic", "mix"), message)
        return self


class Evaluation(Section):
    """What the student is measured on, beside held-out synthetic images."""

    dataset: Location | None = Field(
        None, description="Real photos: a dataset id (`ds_...`), or a path for the library."
    )
    latency: bool = Field(True, description="Measure onnxruntime latency at batch 1 and 32 on this machine.")


class Exports(Section):
    """Files beside the open_clip directory, which is always made."""

    onnx: bool = True
    int8: bool = Field(
        True,
        description="Kept only if, on views of held-out images, the mean cosine with fp32 is at least 0.99 and top-1 "
        "falls by at most half a point; else the report says why.",
    )
    torchscript: bool = False


class Recipe(Section):
    """One job, whole."""

    domain: Domain
    student: Student = Student()  # type: ignore[call-arg]
    teacher: Teacher = Teacher()  # type: ignore[call-arg]
    data: Data = Data()  # type: ignore[call-arg]
    training: Training = Training()  # type: ignore[call-arg]
    evaluation: Evaluation = Evaluation()  # type: ignore[call-arg]
    exports: Exports = Exports()  # type: ignore[call-arg]

    @property
    def name(self) -> str:
        return self.domain.name

    @property
    def seed(self) -> int:
        return self.data.seed

    @model_validator(mode="after")
    def _explicit_prompts_cover_classes(self) -> Self:
        explicit = self.data.prompts.explicit
        if explicit is not None:
            names = set(self.domain.class_names)
            missing = [name for name in self.domain.class_names if not explicit.get(name)]
            unknown = [name for name in explicit if name not in names]
            wrong = [f"no prompt for {missing[:10]}"] * bool(missing) + [f"unknown classes {unknown[:10]}"] * bool(
                unknown
            )
            if wrong:
                raise located(("data", "prompts", "explicit"), "; ".join(wrong))
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a YAML or JSON recipe.

    Raises:
        ValueError: the file is not YAML, or (pydantic's ValidationError) the recipe is not valid.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    return Recipe.model_validate(content)
