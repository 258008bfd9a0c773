"""How the service does, as plain queries; the API exports them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from distillation.plan import QUEUES
from state.database import database_now
from state.tables import Job, Outbox, Task


@dataclass(frozen=True)
class Metrics:
    """A moment of the service.

    Args:
        jobs: jobs by status.
        tasks: tasks by (stage, status).
        queue_depth: ready tasks by queue.
        lease_ages: seconds since the start of each running task, by task id.
        lease_left: seconds until each running task's lease ends, by task id; negative if it has ended.
        oldest_unsent: seconds the oldest unsent message has waited; 0 if there is none.
    """

    jobs: dict[str, int]
    tasks: dict[tuple[str, str], int]
    queue_depth: dict[str, int]
    lease_ages: dict[int, float]
    lease_left: dict[int, float]
    oldest_unsent: float


def read_metrics(session: Session) -> Metrics:
    """Count everything once."""
    now = database_now(session)
    jobs = {
        str(status): count for status, count in session.execute(select(Job.status, func.count()).group_by(Job.status))
    }
    rows = session.execute(select(Task.stage, Task.status, func.count()).group_by(Task.stage, Task.status))
    tasks = {(stage, str(status)): count for stage, status, count in rows}
    depth = dict.fromkeys(sorted(set(QUEUES.values())), 0)
    for (stage, status), count in tasks.items():
        if status == "ready":
            depth[QUEUES[stage]] += count
    ages, left = {}, {}
    for task in session.scalars(select(Task).where(Task.status == "running")):
        if task.started_at and task.lease_expires_at:
            ages[task.id] = (now - task.started_at).total_seconds()
            left[task.id] = (task.lease_expires_at - now).total_seconds()
    oldest = session.scalar(select(func.min(Outbox.created_at)).where(Outbox.published_at.is_(None)))
    return Metrics(
        jobs=jobs,
        tasks=tasks,
        queue_depth=depth,
        lease_ages=ages,
        lease_left=left,
        oldest_unsent=(now - oldest).total_seconds() if oldest else 0.0,
    )
