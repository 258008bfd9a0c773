"""Shapes of encoders."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from api.archives import FileRead


class EncoderSummary(BaseModel):
    id: str
    job_id: str
    name: str
    created_at: datetime
    domain: str
    classes: int = Field(description="Number of classes.")
    student: dict[str, Any] = Field(description="`student` of the report: architecture, params, macs, savings.")
    size: int = Field(description="Bytes of all files.")


class EncoderRead(EncoderSummary):
    report: dict[str, Any] = Field(description="The evaluation report.")
    files: list[FileRead]
    archive_url: str


class Probability(BaseModel):
    label: str = Field(description="The class's name.")
    probability: float


class Classification(BaseModel):
    encoder_id: str
    model: str = Field(description="The file that was run.", examples=["classifier.onnx"])
    probabilities: list[Probability] = Field(description="The likeliest class first.")
    milliseconds: float = Field(description="Decoding, preprocessing and inference.")
