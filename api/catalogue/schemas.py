"""Shapes of the catalogue's rows."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    note: str = ""


class TeacherRead(Row):
    """An open_clip model; anything else that open_clip loads works too."""

    model: str = Field(description="`teacher.model` of a recipe.")
    pretrained: str | None = Field(description="`teacher.pretrained`.")
    image_size: int
    embed_dim: int
    params_image_tower: int = Field(description="0 where the shipped weights decide.")
    params_total: int
    licence: str


class StudentRead(Row):
    """A timm architecture at one image size; any other name may be given as `student.architecture`."""

    architecture: str
    image_size: int
    preset: Literal["xs", "s", "m", "l"] | None = Field(description="`student.size` that picks it.")
    tier: Literal["small", "full"] = Field(description="Small: for teachers of at most 128 pixels.")
    params: int = Field(description="Of the backbone, without the projection.")
    macs: int = Field(description="Multiply-accumulates of the backbone for one image.")
    top1: float | None = Field(description="ImageNet accuracy in per cent of timm's weights: a hint of capacity.")


class GeneratorRead(Row):
    """A diffusers text-to-image pipeline with settings to begin with."""

    model: str = Field(description="`data.generator.model`; a hub id also needs a pinned `revision`.")
    lora: str | None
    steps: int
    guidance: float
    size: int = Field(description="Image side in pixels.")
    licence: str
    classes: list[list[str]] | None = Field(
        None, description="Names of the classes it was taught; null: anything that its text encoder understands."
    )


class LossRead(Row):
    name: str = Field(description="Key of `training.losses`.")
    formula: str
    source: str
