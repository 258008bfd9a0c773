"""The events of a job: written once, read as pages and as live streams."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from state.database import database_now, storable
from state.errors import NoSuchJob
from state.tables import Event, Job, Level, Task

TYPES = ("status", "stage", "progress", "checkpoint", "warning", "log", "error")
"""status: the job's status changed. stage: a task was started, finished, reused, retried, cancelled. The others come
from the stages; error ends a task."""


NO_KEY_UPDATE = {"key_share": True}
"""The weaker of PostgreSQL's row locks: rows that refer to the job may still be inserted by others."""


def lock_job(session: Session, job_id: str) -> Job:
    """The job's row, locked until the transaction ends (PostgreSQL; on SQLite every writer is alone anyway).

    Every change of a job or its tasks takes this lock first: two shards that finish together would otherwise each
    see the other as unfinished, and none would start the next stage.
    """
    job = session.get(Job, job_id, with_for_update=NO_KEY_UPDATE, populate_existing=True)
    if job is None:
        raise NoSuchJob(job_id)
    return job


def lock_job_of(session: Session, task_id: int) -> Job | None:
    """The locked job of a task, or None: it has been deleted."""
    query = select(Job).join(Task, Task.job_id == Job.id).where(Task.id == task_id)
    locked = query.with_for_update(of=Job, key_share=True).execution_options(populate_existing=True)
    return session.scalars(locked).one_or_none()


def add_event(
    session: Session,
    job_id: str,
    type: str,
    message: str,
    level: Level = "info",
    stage: str | None = None,
    data: dict[str, Any] | None = None,
) -> Event:
    """Append an event; ``type`` is one of ``TYPES``.

    The job is locked, so that ids within a job are committed in order: a reader that has seen an id never
    misses a smaller one.
    """
    lock_job(session, job_id)
    return append_event(session, job_id, type, message, level, stage, data)


def append_event(
    session: Session,
    job_id: str,
    type: str,
    message: str,
    level: Level = "info",
    stage: str | None = None,
    data: dict[str, Any] | None = None,
) -> Event:
    """``add_event`` for callers that hold the job's lock."""
    now = database_now(session)
    text = storable(message)
    event = Event(job_id=job_id, at=now, level=level, type=type, stage=stage, message=text, data=data or {})
    session.add(event)
    session.flush()
    return event


def events_after(session: Session, job_id: str, after_id: int = 0, limit: int = 100) -> list[Event]:
    """The events of a job with an id above ``after_id``, oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.id > after_id).order_by(Event.id).limit(limit)
    return list(session.scalars(query))
