"""Shapes of what the service answers, as plain dictionaries with known keys."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

JobStatus = Literal[
    "queued",
    "preparing",
    "generating",
    "training",
    "evaluating",
    "exporting",
    "succeeded",
    "failed",
    "cancelling",
    "cancelled",
]
OVER: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")
"""Statuses a job does not leave by itself."""


class Progress(TypedDict, total=False):
    done: float
    total: float
    unit: str
    rate: float
    metrics: dict[str, float]


class Stage(TypedDict):
    stage: str
    status: str
    tasks: int
    done: int
    reused: int
    fraction: float
    progress: Progress | None
    seconds: float | None
    eta_seconds: float | None


class JobError(TypedDict):
    code: str
    message: str
    hint: str | None
    field: str | None
    stage: str | None


class JobSummary(TypedDict):
    id: str
    name: str
    kind: Literal["encoder", "generator"]
    status: JobStatus
    domain: str | None
    classes: int | None
    metadata: dict[str, str]
    created_at: str
    started_at: str | None
    finished_at: str | None
    cancel_requested: bool
    attempt: int
    progress: float
    encoder_id: str | None
    generator_id: str | None
    error: JobError | None


class Job(JobSummary):
    eta_seconds: float | None
    stages: list[Stage]
    recipe: dict[str, Any]


class Event(TypedDict):
    id: int
    at: str
    level: str
    type: str
    stage: str | None
    message: str
    data: dict[str, Any]


class File(TypedDict):
    name: str
    sha256: str
    size: int


class EncoderSummary(TypedDict):
    id: str
    job_id: str
    name: str
    created_at: str
    domain: str
    classes: int
    student: dict[str, Any]
    size: int


class Encoder(EncoderSummary):
    files: list[File]
    report: dict[str, Any]


class Probability(TypedDict):
    label: str
    probability: float


class GeneratorSummary(TypedDict):
    id: str
    job_id: str
    name: str
    status: JobStatus
    progress: float
    created_at: str
    dataset: str
    image_size: int
    classes: int | None
    teacher_acc1: float | None
    size: int
    error: JobError | None


class Generator(GeneratorSummary):
    recipe: dict[str, Any]
    report: dict[str, Any] | None
    files: list[File]
