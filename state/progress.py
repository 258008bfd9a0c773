"""How far jobs are, counted by the database: a job may have thousands of tasks, of which few rows are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session

from distillation.plan import STAGES
from state.tables import Task, TaskStatus


@dataclass
class StageTally:
    """All tasks of one stage of a job.

    Args:
        statuses: tasks by status.
        seconds: of work on record; None where there is none.
        done_total: what the tasks that are done had to do, by their last word on it.
        told: rows of the tasks that run or stopped on their way, and of the last one that has told how far it is.
    """

    stage: str
    statuses: dict[TaskStatus, int] = field(default_factory=dict)
    reused: int = 0
    seconds: float | None = None
    done_total: float = 0.0
    told: list[Task] = field(default_factory=list)


def tally(session: Session, job_ids: Sequence[str]) -> dict[str, list[StageTally]]:
    """The stages of jobs, by job, in the order they run."""
    found: dict[tuple[str, str], StageTally] = {}
    of_jobs, has_told = Task.job_id.in_(job_ids), Task.progress.is_not(None)
    counts = select(
        Task.job_id,
        Task.stage,
        Task.status,
        func.count(),
        func.sum(case((Task.reused, 1), else_=0)),
        func.sum(case((Task.reused, 0.0), else_=Task.seconds)),
        func.sum(Task.progress["total"].as_float()),
    ).where(of_jobs)
    grouped = counts.group_by(Task.job_id, Task.stage, Task.status)
    for job_id, stage, status, tasks, reused, seconds, total in session.execute(grouped):
        entry = found.setdefault((job_id, stage), StageTally(stage))
        entry.statuses[status] = tasks
        entry.reused += reused
        if seconds is not None:
            entry.seconds = (entry.seconds or 0.0) + seconds
        if status == "done":
            entry.done_total = total or 0.0
    on_the_way = and_(Task.status != "done", or_(Task.status == "running", has_told))
    last = select(func.max(Task.id)).where(of_jobs, has_told).group_by(Task.job_id, Task.stage)
    rows = select(Task).where(of_jobs, or_(on_the_way, Task.id.in_(last))).order_by(Task.shard)
    for task in session.scalars(rows):
        found[task.job_id, task.stage].told.append(task)
    return {id_: [found[id_, stage] for stage in STAGES if (id_, stage) in found] for id_ in job_ids}
