"""Shapes of datasets."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


class Rejected(BaseModel):
    file: str
    reason: str


class DatasetRead(BaseModel):
    """Real photos, checked on upload."""

    id: str = Field(description="For `evaluation.dataset`, `training.agnostic.source` and a generator's `dataset`.")
    name: str
    created_at: datetime
    images: int = Field(description="Usable photos.")
    classes: list[str]
    rejected_count: int = Field(description="Photos left out.")
    rejected: list[Rejected] = Field(description="The first 1,000 of them.")
    size: int = Field(description="Bytes kept.")
