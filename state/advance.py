"""How a job moves: what may start, what is reused, when it has ended. Callers hold the job's lock.

A job may have thousands of shards, and moves with the end of each: rows are loaded only of tasks that wait.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from distillation.plan import STAGES
from state.database import database_now
from state.encoders import make_encoder
from state.events import append_event
from state.generators import fill_generator
from state.outbox import announce
from state.tables import STATUS_OF_STAGE, TERMINAL, Job, JobStatus, Level, Result, Task


def tasks_of(session: Session, job_id: str) -> list[Task]:
    """The tasks of a job in the order of its stages and shards."""
    tasks = session.scalars(select(Task).where(Task.job_id == job_id))
    return sorted(tasks, key=lambda task: (STAGES.index(task.stage), task.shard))


def stopped(job: Job) -> bool:
    """True if nothing more of this job should run."""
    return job.cancel_requested or job.status in TERMINAL


def advance(session: Session, job: Job) -> None:
    """Let tasks start whose needs are met, or take their output where it exists; end the job when all is done."""
    reused = True
    while reused:  # what waited for these may start now
        if not (unfinished := unfinished_stages(session, job)):
            _succeed(session, job)
            return
        waiting = session.scalars(select(Task).where(Task.job_id == job.id, Task.status == "waiting").order_by(Task.id))
        free = [task for task in waiting if not unfinished.intersection(task.needs)]
        reused = take_over(session, job, free)
        ready = [task for task in free if task.status == "waiting"]
        for task in ready:
            task.status = "ready"
        announce(session, *ready)
    show_stage(session, job)


def settle(session: Session, job: Job) -> None:
    """End a job that was cancelled once nothing of it runs."""
    if job.status not in TERMINAL and not _stages(session, job, Task.status == "running"):
        finish_job(session, job, "cancelled", "The job was cancelled.")


def stop_waiting(session: Session, job: Job) -> bool:
    """Cancel the tasks that nobody has begun; True if others are running."""
    now = database_now(session)
    for task in session.scalars(select(Task).where(Task.job_id == job.id, Task.status.in_(("waiting", "ready")))):
        task.status, task.finished_at = "cancelled", now
    return bool(_stages(session, job, Task.status == "running"))


def show_stage(session: Session, job: Job) -> None:
    """Let the job's status follow the earliest stage that runs."""
    running = _stages(session, job, Task.status == "running")
    if running and not stopped(job):
        status = STATUS_OF_STAGE[min(running, key=STAGES.index)]
        set_status(session, job, status, f"The job is {status}.")


def unfinished_stages(session: Session, job: Job) -> set[str]:
    """The stages of which some task is not done."""
    return _stages(session, job, Task.status != "done")


def set_status(session: Session, job: Job, status: JobStatus, message: str, level: Level = "info") -> None:
    """Change a job's status, with its event; nothing happens if it is the same."""
    if job.status == status:
        return
    job.status = status
    data: dict[str, Any] = {"status": status}
    if job.error:
        data["error"] = job.error
    append_event(session, job.id, "status", message, level, data=data)


def finish_job(
    session: Session, job: Job, status: JobStatus, message: str, error: dict[str, Any] | None = None
) -> None:
    """Give a job its last status."""
    job.finished_at, job.error = database_now(session), error
    set_status(session, job, status, message, "error" if error else "info")


def fail_job(session: Session, job: Job, task: Task, error: dict[str, Any]) -> None:
    """End a task and its job with an error that names stage and shard."""
    task.status, task.error, task.finished_at = "failed", error, database_now(session)
    append_event(session, job.id, "error", error["message"], "error", task.stage, {"error": error})
    session.flush()
    stop_waiting(session, job)
    finish_job(session, job, "failed", f"The job failed in stage {task.stage}: {error['message']}", error)


def take_over(session: Session, job: Job, tasks: Sequence[Task]) -> bool:
    """Let tasks be done whose output exists already; whether there were any."""
    results = {r.key: r for r in session.scalars(select(Result).where(Result.key.in_({task.key for task in tasks})))}
    reused: dict[str, int] = defaultdict(int)
    now = database_now(session) if results else None
    for task in tasks:
        if result := results.get(task.key):
            task.status, task.reused, task.finished_at = "done", True, now
            task.bundle, task.summary, task.seconds = result.bundle, result.summary, 0.0
            reused[task.stage] += 1
    for stage, count in reused.items():
        message = f"Stage {stage}: {count} finished output{'s' if count > 1 else ''} of an earlier job reused."
        append_event(session, job.id, "stage", message, stage=stage, data={"status": "reused", "tasks": count})
    return bool(reused)


def _stages(session: Session, job: Job, condition: ColumnElement[bool]) -> set[str]:
    """The stages of a job that have a task like this."""
    return set(session.scalars(select(Task.stage).where(Task.job_id == job.id, condition).distinct()))


def _succeed(session: Session, job: Job) -> None:
    last = "generator" if job.kind == "generator" else "export"
    key = session.scalar(select(Task.key).where(Task.job_id == job.id, Task.stage == last))
    if key is not None and job.kind == "generator":
        fill_generator(session, job, session.get_one(Result, key))
    elif key is not None:
        job.encoder_id = make_encoder(session, job, session.get_one(Result, key)).id
    finish_job(session, job, "succeeded", f"The {job.kind} is ready.")
