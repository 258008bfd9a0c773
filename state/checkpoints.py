"""Saved states of running tasks, from which another attempt, or another job with the same key, goes on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from state.database import database_now
from state.events import append_event
from state.tables import Checkpoint, Job, Task

KEPT_CHECKPOINTS = 2


def newest_checkpoint(session: Session, key: str) -> tuple[str, str] | None:
    """The folder within the output and the bundle of the newest saved state of a key, if there is one."""
    saved = session.scalars(
        select(Checkpoint)
        .where(Checkpoint.key == key, Checkpoint.bundle.is_not(None))
        .order_by(Checkpoint.step.desc(), Checkpoint.id.desc())
    ).first()
    return (saved.path, saved.bundle) if saved and saved.bundle else None


def add_checkpoint(
    session: Session, job: Job, task: Task, *, step: int, path: str, metrics: dict[str, Any], bundle: str
) -> None:
    """Remember a saved state of a held task (see ``held_task``); the files of all but the newest few are let go."""
    row = Checkpoint(job_id=job.id, task_id=task.id, key=task.key, step=step, path=path, metrics=metrics)
    row.bundle, row.created_at = bundle, database_now(session)
    session.add(row)
    session.flush()
    kept = select(Checkpoint).where(Checkpoint.task_id == task.id, Checkpoint.bundle.is_not(None))
    for old in list(session.scalars(kept.order_by(Checkpoint.id.desc())))[KEPT_CHECKPOINTS:]:
        old.bundle = None
    data = {"step": step, "metrics": metrics, "checkpoint": row.id}
    append_event(session, job.id, "checkpoint", f"Checkpoint at step {step}.", stage=task.stage, data=data)


def let_checkpoints_go(session: Session, key: str) -> None:
    """Let go of the files of a key's saved states: its output exists, nobody goes on from them."""
    session.execute(update(Checkpoint).where(Checkpoint.key == key).values(bundle=None))
