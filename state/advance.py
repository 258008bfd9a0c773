"""How a job moves: what may start, what is reused, when it has ended. Callers hold the job's lock."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import select
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
    """Take over outputs that exist, let tasks start whose needs are met, end the job when all is done."""
    tasks = tasks_of(session, job.id)
    _reuse(session, job, [task for task in tasks if task.status in ("waiting", "ready")])
    unfinished = {task.stage for task in tasks if task.status != "done"}
    for task in tasks:
        if task.status == "waiting" and not unfinished.intersection(task.needs):
            task.status = "ready"
            announce(session, task)
    if not unfinished:
        _succeed(session, job, tasks)
        return
    show_stage(session, job, tasks)


def settle(session: Session, job: Job) -> None:
    """End a job that was cancelled once nothing of it runs."""
    if job.status not in TERMINAL and not any(task.status == "running" for task in tasks_of(session, job.id)):
        finish_job(session, job, "cancelled", "The job was cancelled.")


def stop_waiting(session: Session, job: Job) -> bool:
    """Cancel the tasks that nobody has begun; True if others are running."""
    tasks = tasks_of(session, job.id)
    now = database_now(session)
    for task in tasks:
        if task.status in ("waiting", "ready"):
            task.status, task.finished_at = "cancelled", now
    return any(task.status == "running" for task in tasks)


def show_stage(session: Session, job: Job, tasks: list[Task]) -> None:
    """Let the job's status follow the earliest stage that runs."""
    running = next((task for task in tasks if task.status == "running"), None)
    if running is not None and not stopped(job):
        set_status(session, job, STATUS_OF_STAGE[running.stage], f"The job is {STATUS_OF_STAGE[running.stage]}.")


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


def _reuse(session: Session, job: Job, tasks: list[Task]) -> None:
    results = {r.key: r for r in session.scalars(select(Result).where(Result.key.in_({task.key for task in tasks})))}
    reused: dict[str, int] = defaultdict(int)
    for task in tasks:
        if result := results.get(task.key):
            task.status, task.reused, task.finished_at = "done", True, database_now(session)
            task.bundle, task.summary, task.seconds = result.bundle, result.summary, 0.0
            reused[task.stage] += 1
    for stage, count in reused.items():
        message = f"Stage {stage}: {count} finished output{'s' if count > 1 else ''} of an earlier job reused."
        append_event(session, job.id, "stage", message, stage=stage, data={"status": "reused", "tasks": count})


def _succeed(session: Session, job: Job, tasks: list[Task]) -> None:
    if job.kind == "generator":
        fill_generator(session, job, session.get_one(Result, tasks[0].key))
        finish_job(session, job, "succeeded", "The generator is ready.")
        return
    exports = [task for task in tasks if task.stage == "export"]
    if exports:
        result = session.get_one(Result, exports[0].key)
        job.encoder_id = make_encoder(session, job, result).id
    finish_job(session, job, "succeeded", "The encoder is ready.")
