"""Every setting of the service, read from the environment (``STILLROOM_...``) in this one place."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from distillation.stage_process import ENTRY


class Settings(BaseSettings):
    """Settings of API, workers and janitor. What is not set follows from ``home``: the embedded service."""

    model_config = SettingsConfigDict(env_prefix="STILLROOM_", extra="ignore")

    home: Path = Field(default=Path(".stillroom"), description="Folder of everything kept on this machine.")
    database_url: str = Field(default="", description="SQLAlchemy URL; default: SQLite in `home`.")
    broker_url: str = Field(
        default="", description="Celery broker URL; default: a folder in `home` (kombu filesystem)."
    )
    blobs_url: str = Field(
        default="", description="fsspec URL of the blob store (`s3://bucket/prefix`); default: in `home`."
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8321, ge=0, le=65535, description="Port the API listens on.")
    api_key: str | None = Field(
        default=None, description="If set, requests under `/v1` need `Authorization: Bearer <key>`."
    )
    lease_seconds: float = Field(
        default=60, gt=0, description="A task whose worker is silent this long goes to another one."
    )
    heartbeat_seconds: float = Field(
        default=10, gt=0, description="Longest time between two signs of life of a worker."
    )
    grace_seconds: float = Field(default=20, gt=0, description="Time a stage has to save its work before it is killed.")
    janitor_seconds: float = Field(default=5, gt=0, description="Time between two rounds of the janitor.")
    retry_seconds: float = Field(
        default=5, ge=0, description="Wait before a failed task is tried again; doubles each time."
    )
    max_attempts: int = Field(default=3, ge=1, description="Tries of one task before its job fails.")
    max_upload_bytes: int = Field(default=2 << 30, gt=0, description="Largest upload of a dataset.")
    max_queued_jobs: int = Field(default=1000, gt=0, description="Unfinished jobs accepted at a time.")
    scratch_days: float = Field(
        default=7, gt=0, description="Age at which unused folders of work, cache and uploads are removed."
    )
    alive_file: Path | None = Field(
        default=None, description="File that a worker or janitor touches as a sign of life, for health checks."
    )
    stage_entry: str = Field(
        default=ENTRY,
        pattern=r"^[\w.]+:\w+$",
        description="`module:function` that a stage's process calls with its request file.",
    )

    @model_validator(mode="after")
    def _fill_from_home(self) -> Self:
        self.home = self.home.expanduser().absolute()
        self.api_key = self.api_key or None  # an empty variable means: not set
        self.database_url = self.database_url or f"sqlite:///{self.home / 'stillroom.db'}"
        self.broker_url = self.broker_url or f"filesystem://{self.home / 'broker'}"
        self.blobs_url = self.blobs_url or str(self.home / "blobs")
        if self.heartbeat_seconds > self.lease_seconds / 2:
            raise ValueError(
                f"heartbeat_seconds ({self.heartbeat_seconds:g}) must be at most half of lease_seconds "
                f"({self.lease_seconds:g}): one late heartbeat would lose the task"
            )
        return self

    @property
    def scratch(self) -> Path:
        """Working folders of stages, one per task key."""
        return self.home / "scratch"

    @property
    def uploads(self) -> Path:
        """One folder per upload, while it is received and checked."""
        return self.home / "uploads"

    @property
    def cache(self) -> Path:
        """Inputs of stages, one folder per bundle."""
        return self.home / "cache"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with some settings replaced, for a process to be started."""
    return {**os.environ, **{f"STILLROOM_{name.upper()}": value for name, value in settings.items()}}
