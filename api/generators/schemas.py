"""Shapes of generators."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from api.archives import FileRead
from api.jobs.schemas import JobErrorRead
from state.tables import JobStatus


class GeneratorSummary(BaseModel):
    id: str = Field(description="For `data.generator.model` of a recipe, once `status` is `succeeded`.")
    job_id: str = Field(description="The job that trains it: its events, `cancel` and `retry` are under `/v1/jobs`.")
    name: str
    status: JobStatus
    progress: float = Field(description="0 to 1.")
    created_at: datetime
    dataset: str
    image_size: int = Field(description="Side in pixels.")
    classes: int | None = Field(description="Number of classes; null until it is trained.")
    teacher_acc1: float | None = Field(description="The teacher's top-1 on generated images; null until then.")
    size: int = Field(description="Bytes of all files.")
    error: JobErrorRead | None


class GeneratorRead(GeneratorSummary):
    recipe: dict[str, Any] = Field(description="With every default filled in.")
    report: dict[str, Any] | None = Field(description="Its figures; null until it is trained.")
    files: list[FileRead]
    archive_url: str
