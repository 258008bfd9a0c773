"""Messages for the broker, kept in the database until they are sent. A message only says: look at this task."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from distillation.plan import QUEUES
from state.database import database_now
from state.tables import TERMINAL, Job, Outbox, Task


def announce(session: Session, *tasks: Task) -> None:
    """Write the messages that let workers look at ready tasks; they are sent after the commit."""
    if tasks:
        now = database_now(session)
        session.add_all(Outbox(task_id=task.id, queue=QUEUES[task.stage], created_at=now) for task in tasks)


def announce_twins(session: Session, task: Task) -> None:
    """Announce other jobs' ready tasks with the key of a task that has just stopped running.

    They could not be claimed while it ran; now their output exists, or one of them has to make it.
    """
    twins = select(Task).where(Task.key == task.key, Task.status == "ready", Task.id != task.id)
    announce(session, *session.scalars(twins))


def unpublished(session: Session, limit: int = 500) -> list[Outbox]:
    """Messages not yet sent, oldest first."""
    return list(session.scalars(select(Outbox).where(Outbox.published_at.is_(None)).order_by(Outbox.id).limit(limit)))


def mark_published(session: Session, message_ids: Sequence[int]) -> None:
    now = database_now(session)
    session.execute(update(Outbox).where(Outbox.id.in_(message_ids)).values(published_at=now))


def forget_published(session: Session, before: datetime) -> None:
    """Delete messages sent before a time; a ready task without any message is announced again."""
    session.execute(delete(Outbox).where(Outbox.published_at < before))


def overlooked(session: Session, sent_before: datetime) -> list[Task]:
    """Ready tasks that could run now but have no message on its way: none to be sent, the last sent before a time."""
    last = func.max(Outbox.published_at)
    return _without_message(session, or_(last.is_(None), last < sent_before))


def due_again(session: Session) -> list[Task]:
    """Failed tasks whose wait is over and that no message was written for since; a claim clears ``not_before``."""
    last = func.max(Outbox.created_at)
    return _without_message(session, Task.not_before.is_not(None), or_(last.is_(None), last < Task.not_before))


def _without_message(session: Session, *conditions: ColumnElement[bool]) -> list[Task]:
    """Ready tasks that could run now, have no message to be sent, and meet conditions on their messages."""
    now, twin = database_now(session), aliased(Task)
    query = (
        select(Task)
        .join(Job, Job.id == Task.job_id)
        .outerjoin(Outbox, Outbox.task_id == Task.id)
        .where(
            Task.status == "ready",
            Job.status.not_in(TERMINAL),
            or_(Task.not_before.is_(None), Task.not_before <= now),
            ~exists().where(twin.key == Task.key, twin.status == "running"),
        )
        .group_by(Task.id)
        .having(func.count(Outbox.id) == func.count(Outbox.published_at))
        .having(and_(*conditions))
        .order_by(Task.id)
    )
    return list(session.scalars(query))
