"""The tables. Portable between PostgreSQL and SQLite; changed only together with a migration."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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
JobKind = Literal["encoder", "generator"]
TaskStatus = Literal["waiting", "ready", "running", "done", "failed", "cancelled"]
Level = Literal["info", "warning", "error"]
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
STATUS_OF_STAGE: dict[str, JobStatus] = {
    "prompts": "preparing",
    "generate": "generating",
    "embed": "preparing",
    "agnostic": "training",
    "distil": "training",
    "evaluate": "evaluating",
    "export": "exporting",
    "generator": "training",
}


class UTCDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC; SQLite, which has no time zones, keeps them naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables. Every constraint has a name, or SQLite migrations could not drop it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        JobStatus: String(16),
        TaskStatus: String(16),
        Level: String(16),
    }


class Job(Table):
    """One job: a recipe on its way to an encoder, or to the generator that ``generator_id`` names from the start."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    status: Mapped[JobStatus] = mapped_column(index=True)
    name: Mapped[str] = mapped_column(String(120))
    recipe: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    body_hash: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]
    encoder_id: Mapped[str | None] = mapped_column(String(30))
    generator_id: Mapped[str | None] = mapped_column(String(30))
    attempt: Mapped[int] = mapped_column(default=1)

    @property
    def kind(self) -> JobKind:
        """What the job makes."""
        return "generator" if self.generator_id else "encoder"


class Task(Table):
    """One stage, or one shard of it.

    ``token`` grows with every claim; writes with an older one are refused. It starts anywhere: SQLite gives the ids of
    deleted tasks again, and the worker of one must not write into another job's.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("job_id", "stage", "shard"),
        # The database itself forbids that two workers make the same output at the same time.
        Index(
            "uq_tasks_running_key",
            "key",
            unique=True,
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
        Index("ix_tasks_status_lease_expires_at", "status", "lease_expires_at"),
        Index("ix_tasks_key", "key"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    stage: Mapped[str] = mapped_column(String(32))
    shard: Mapped[int]
    key: Mapped[str] = mapped_column(String(64))
    needs: Mapped[list[Any]]
    status: Mapped[TaskStatus]
    token: Mapped[int] = mapped_column(default=lambda: secrets.randbelow(2**30))
    attempt: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(String(255))
    lease_expires_at: Mapped[datetime | None]
    progress: Mapped[dict[str, Any] | None]
    summary: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    reused: Mapped[bool] = mapped_column(default=False)
    bundle: Mapped[str | None] = mapped_column(String(64))
    seconds: Mapped[float | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Event(Table):
    """What happened in a job, for people and for live streams; ids grow within a job."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    level: Mapped[Level]
    type: Mapped[str] = mapped_column(String(32))
    stage: Mapped[str | None] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]


class Outbox(Table):
    """Messages for the broker, written with the state they announce and sent after the commit."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), index=True)
    queue: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None] = mapped_column(index=True)


class Result(Table):
    """The output of a key, shared by every job that asks for it.

    ``files``: the bundle's content, name -> sha256 and size. ``report``: the evaluation report, where there is one.
    """

    __tablename__ = "results"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    stage: Mapped[str] = mapped_column(String(32))
    bundle: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    summary: Mapped[dict[str, Any]]
    files: Mapped[dict[str, Any]]
    report: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class Checkpoint(Table):
    """A saved state of a running task, from which another attempt goes on.

    ``path`` is the checkpoint's folder within the task's output. ``bundle`` is null once its files were let go.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (Index("ix_checkpoints_key_step", "key", "step"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(64))
    step: Mapped[int]
    path: Mapped[str] = mapped_column(String(255))
    metrics: Mapped[dict[str, Any]]
    bundle: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]


class Encoder(Table):
    """What a job made: a small image encoder."""

    __tablename__ = "encoders"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime]
    report: Mapped[dict[str, Any]]


class EncoderFile(Table):
    """One file of an encoder; ``sha256`` names its blob."""

    __tablename__ = "encoder_files"

    encoder_id: Mapped[str] = mapped_column(ForeignKey("encoders.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str] = mapped_column(String(100))


class Generator(Table):
    """A generator trained on a dataset. What its job makes is null until it is made.

    ``bundle`` names the whole output's blob; ``files``: the pipeline's, name within its folder -> sha256 and size.
    """

    __tablename__ = "generators"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime]
    bundle: Mapped[str | None] = mapped_column(String(64))
    files: Mapped[dict[str, Any] | None]
    report: Mapped[dict[str, Any] | None]


class Dataset(Table):
    """Real photos, uploaded and checked. ``bundle`` names the dataset directory's blob.

    ``rejected`` lists the first 1,000 of ``rejected_count`` photos left out.
    """

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    images: Mapped[int]
    classes: Mapped[list[Any]]
    rejected: Mapped[list[Any]]
    rejected_count: Mapped[int] = mapped_column(server_default="0")
    bundle: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
