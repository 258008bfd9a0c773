"""Shapes of jobs and of what belongs to them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from distillation.recipe import Recipe
from distillation.recipe_fields import printable
from state.tables import JobKind, JobStatus, Level, TaskStatus

# A double quote cannot be written in SQLite's JSON paths, brackets would end the filter `metadata[key]`.
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r'^[^"\[\]\\]+$')]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]

EXAMPLE: dict[str, Any] = {
    "recipe": {
        "domain": {"name": "breakfast", "superclass": "food", "classes": ["espresso", "pretzel", "orange"]},
        "student": {"size": "xs"},
    },
    "metadata": {"team": "kitchen"},
}


class JobCreate(BaseModel):
    """What a job is made from."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    recipe: Recipe
    name: str | None = Field(None, min_length=1, max_length=120, description="For people (default: the domain's name).")
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=16, description="Anything of your own; jobs can be filtered by it."
    )

    _printable = field_validator("name", "metadata")(printable)


class StageProgress(BaseModel):
    done: float
    total: float
    unit: str
    rate: float = Field(description="Units per second, of all running tasks together.")
    metrics: dict[str, float]


class StageRead(BaseModel):
    """All tasks of one stage taken together."""

    stage: str
    status: TaskStatus
    tasks: int
    done: int = Field(description="Tasks that are done.")
    reused: int = Field(description="Tasks whose output another job had made.")
    fraction: float = Field(description="0 to 1.")
    progress: StageProgress | None
    seconds: float | None = Field(description="Seconds of work, summed over tasks; reused tasks cost none.")
    eta_seconds: float | None


class JobErrorRead(BaseModel):
    code: str
    message: str
    hint: str | None = None
    field: str | None = Field(None, description="The recipe's field at fault, as a dotted path.")
    stage: str | None = None


class JobSummary(BaseModel):
    id: str = Field(examples=["job_01k9z3v7q8c4m5n6p7r8s9t0vw"])
    name: str
    kind: JobKind = Field(description="What it makes; that of a generator is submitted at `/v1/generators`.")
    status: JobStatus
    domain: str | None = Field(description="Null for a job that trains a generator, as is `classes`.")
    classes: int | None = Field(description="Number of classes.")
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    attempt: int
    progress: float = Field(description="0 to 1, by the usual share of each stage.")
    encoder_id: str | None
    generator_id: str | None
    error: JobErrorRead | None


class JobRead(JobSummary):
    eta_seconds: float | None
    stages: list[StageRead]
    recipe: dict[str, Any] = Field(description="With every default filled in.")


class PlannedTask(BaseModel):
    stage: str
    shard: int
    key: str = Field(description="Hash of everything that decides the output.")
    reused: bool


class TeacherRead(BaseModel):
    """What decides which student a size or a budget stands for."""

    image_size: int
    embed_dim: int
    params_image_tower: int
    known: bool = Field(description="False where these are guesses, until a worker has loaded the teacher.")


class StudentRead(BaseModel):
    """The student that the recipe's size, budget or architecture stands for."""

    architecture: str
    image_size: int
    params: int = Field(description="With the projection; 0 for an architecture outside the catalogue.")
    macs: int = Field(description="For one image; 0 for an architecture outside the catalogue.")
    preset: str | None


class EstimateRead(BaseModel):
    images: int
    steps: int | None = Field(description="Null under a time budget.")
    minutes: float
    bytes: int
    basis: str


class DryRun(BaseModel):
    """What `POST /v1/jobs` would do."""

    recipe: dict[str, Any] = Field(description="With every default filled in.")
    teacher: TeacherRead
    student: StudentRead
    tasks: list[PlannedTask]
    estimate: EstimateRead
    warnings: list[str]


class EventRead(BaseModel):
    id: int
    at: datetime
    level: Level
    type: str
    stage: str | None
    message: str
    data: dict[str, Any]


class SampleRead(BaseModel):
    """One of the synthetic images."""

    n: int
    class_: str = Field(alias="class")
    prompt: str
    seed: int
    url: str


class CheckpointRead(BaseModel):
    id: int
    stage: str
    step: int
    metrics: dict[str, Any]
    created_at: datetime
