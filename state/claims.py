"""What workers do with tasks. Each function is one short transaction of the caller.

A claim is a conditional UPDATE that sets a lease, counts the attempt and raises the fencing token; every later
write carries the token and is refused if the task has moved on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import CursorResult, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from distillation.recipe_fields import is_trained
from state.advance import advance, fail_job, settle, show_stage, stopped, take_over, unfinished_stages
from state.checkpoints import add_checkpoint, let_checkpoints_go, newest_checkpoint
from state.database import database_now
from state.errors import StaleToken, error_of
from state.events import append_event, lock_job_of
from state.outbox import announce, announce_twins
from state.tables import Dataset, Generator, Job, Result, Task

Verdict = Literal["go on", "stop"]


@dataclass(frozen=True)
class Claim:
    """A task and all that its worker needs to know.

    Args:
        inputs: bundles by input name: of stages, and of what the recipe names (``dataset``, ``agnostic_source``,
            ``generator``, ``photos``, ``base``), None where that is gone.
        checkpoint: folder within the output and bundle of the newest saved state, if any.
    """

    task_id: int
    token: int
    attempt: int
    job_id: str
    stage: str
    shard: int
    key: str
    recipe: dict[str, Any]
    inputs: dict[str, list[str | None]]
    checkpoint: tuple[str, str] | None


def claim_task(session: Session, task_id: int, owner: str, lease_seconds: float) -> Claim | None:
    """Take a ready task, or None: it is not ready, its job has ended, or its output exists or is being made.

    A task whose key is running for another job stays ready; the end of that one announces it again.
    """
    job = lock_job_of(session, task_id)
    if job is None:
        return None
    task = session.get_one(Task, task_id, populate_existing=True)
    if stopped(job) or task.status != "ready":
        return None
    if take_over(session, job, [task]):
        advance(session, job)
        return None
    now = database_now(session)
    change = (
        update(Task)
        .where(Task.id == task_id, Task.status == "ready")
        .values(
            status="running",
            token=Task.token + 1,
            attempt=Task.attempt + 1,
            lease_owner=owner,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
            started_at=now,
            not_before=None,
            progress=None,
        )
        .execution_options(synchronize_session=False)
    )
    try:
        with session.begin_nested() as claiming:
            if _row_count(session, change) != 1:
                return None
            # Another may have made this very output since it was looked for; from here on none can.
            if made := session.get(Result, task.key) is not None:
                claiming.rollback()
    except IntegrityError:  # the unique index of running keys: another worker makes this very output
        return None
    session.refresh(task)
    if made:
        take_over(session, job, [task])
        advance(session, job)
        return None
    job.started_at = job.started_at or now
    show_stage(session, job)
    message = f"Stage {task.stage} started" + (f" (attempt {task.attempt})." if task.attempt > 1 else ".")
    append_event(session, job.id, "stage", message, stage=task.stage, data=_described(task, "running"))
    return _claim(session, job, task)


def heartbeat(
    session: Session, task_id: int, token: int, lease_seconds: float, progress: dict[str, Any] | None = None
) -> Verdict:
    """Extend the lease and store progress; the verdict says whether the task should still be worked on.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    values: dict[str, Any] = {"lease_expires_at": database_now(session) + timedelta(seconds=lease_seconds)}
    if progress is not None:
        values["progress"] = progress
    change = update(Task).where(Task.id == task_id, Task.token == token, Task.status == "running").values(values)
    if _row_count(session, change.execution_options(synchronize_session=False)) != 1:
        raise StaleToken(f"task {task_id} is no longer held with token {token}")
    job = session.scalars(select(Job).join(Task, Task.job_id == Job.id).where(Task.id == task_id)).one()
    return "stop" if stopped(job) else "go on"


def finish_task(
    session: Session,
    task_id: int,
    token: int,
    *,
    bundle: str,
    files: dict[str, Any],
    summary: dict[str, Any],
    seconds: float,
    report: dict[str, Any] | None = None,
) -> None:
    """Record an output and move its job on, all in this transaction.

    Args:
        files: the bundle's content, name -> ``{"sha256", "size"}``.
        report: the evaluation report, of the stages that have one.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    job, task = held_task(session, task_id, token)
    now = database_now(session)
    if session.get(Result, task.key) is None:  # the index of running keys keeps others from writing it meanwhile
        values = {"key": task.key, "stage": task.stage, "bundle": bundle, "seconds": seconds, "summary": summary}
        session.execute(insert(Result).values(**values, files=files, report=report, created_at=now))
    task.status, task.finished_at, task.lease_owner, task.lease_expires_at = "done", now, None, None
    task.bundle, task.summary, task.seconds = bundle, summary, seconds
    let_checkpoints_go(session, task.key)
    data = {**_described(task, "done"), "seconds": round(seconds, 2), "summary": summary}
    append_event(session, job.id, "stage", f"Stage {task.stage} done.", stage=task.stage, data=data)
    announce_twins(session, task)
    _go_on(session, job)


def fail_task(
    session: Session,
    task_id: int,
    token: int,
    error: dict[str, Any],
    *,
    retryable: bool,
    max_attempts: int = 3,
    retry_seconds: float = 5,
) -> None:
    """Record a failure: the task is tried again after a while, or its job fails with ``error``.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    job, task = held_task(session, task_id, token)
    _fail(session, job, task, error, retryable and task.attempt < max_attempts, retry_seconds)


def release_task(session: Session, task_id: int, token: int) -> None:
    """Give a task back unfinished: cancelled if its job was stopped, else ready, this attempt not counted.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    job, task = held_task(session, task_id, token)
    task.attempt -= 1
    _hand_back(session, job, task, "Stage {stage} was interrupted and will go on.")


def expire_leases(session: Session, max_attempts: int = 3) -> int:
    """Hand tasks whose worker fell silent to others; returns how many there were."""
    now = database_now(session)
    expired = select(Task).where(Task.status == "running", Task.lease_expires_at < now).order_by(Task.job_id, Task.id)
    count = 0
    for task in list(session.scalars(expired)):
        job = lock_job_of(session, task.id)
        if job is None:
            continue  # deleted meanwhile
        session.refresh(task)
        if task.status != "running" or task.lease_expires_at is None or task.lease_expires_at >= now:
            continue  # a heartbeat or another janitor came between
        count += 1
        if stopped(job) or task.attempt < max_attempts:
            _hand_back(session, job, task, "Stage {stage}: its worker fell silent, another one takes over.")
        else:
            message = f"The worker of stage {task.stage} fell silent {task.attempt} times."
            hint = "Look at the workers' logs; a machine that runs out of memory is the usual reason. Then retry."
            _fail(session, job, task, error_of("worker_lost", message, hint), again=False, retry_seconds=0)
    return count


def record_checkpoint(
    session: Session, task_id: int, token: int, *, step: int, path: str, metrics: dict[str, Any], bundle: str
) -> None:
    """Remember a saved state of the task.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    job, task = held_task(session, task_id, token)
    add_checkpoint(session, job, task, step=step, path=path, metrics=metrics, bundle=bundle)


def held_task(session: Session, task_id: int, token: int) -> tuple[Job, Task]:
    """A task and its locked job, for a worker that still holds it.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    job = lock_job_of(session, task_id)
    if job is None:
        raise StaleToken(f"task {task_id} does not exist")
    task = session.get_one(Task, task_id, populate_existing=True)
    if task.token != token or task.status != "running":
        raise StaleToken(f"task {task_id} is no longer held with token {token}")
    return job, task


def _go_on(session: Session, job: Job) -> None:
    session.flush()
    if not stopped(job):
        advance(session, job)
    elif not unfinished_stages(session, job):
        advance(session, job)  # cancelled too late: everything is there
    else:
        settle(session, job)


def _hand_back(session: Session, job: Job, task: Task, message: str) -> None:
    task.lease_owner = task.lease_expires_at = None
    if stopped(job):
        task.status, task.finished_at = "cancelled", database_now(session)
        append_event(session, job.id, "stage", f"Stage {task.stage} stopped.", "info", task.stage, _described(task))
        session.flush()
        settle(session, job)
    else:
        task.status, task.progress = "ready", None
        text = message.format(stage=task.stage)
        append_event(session, job.id, "stage", text, "warning", task.stage, _described(task))
        announce(session, task)
    announce_twins(session, task)


def _fail(session: Session, job: Job, task: Task, error: dict[str, Any], again: bool, retry_seconds: float) -> None:
    if stopped(job):
        _hand_back(session, job, task, "")
        return
    error = {**error, "stage": task.stage, "shard": task.shard}
    task.lease_owner = task.lease_expires_at = None
    if again:
        task.status, task.error = "ready", error
        # No message: the janitor announces it when the time has come.
        wait = timedelta(seconds=retry_seconds * 2 ** (task.attempt - 1))
        task.not_before = database_now(session) + wait
        text = f"Stage {task.stage} failed and will be tried again: {error['message']}"
        append_event(session, job.id, "error", text, "warning", task.stage, {**_described(task), "error": error})
    else:
        fail_job(session, job, task, error)
    announce_twins(session, task)


def _described(task: Task, status: str | None = None) -> dict[str, Any]:
    return {"status": status or task.status, "shard": task.shard, "attempt": task.attempt}


def _row_count(session: Session, statement: Any) -> int:
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount


def _claim(session: Session, job: Job, task: Task) -> Claim:
    inputs: dict[str, list[str | None]] = {name: [] for name in task.needs}
    made = select(Task.stage, Task.bundle).where(Task.job_id == job.id, Task.stage.in_(task.needs)).order_by(Task.shard)
    for stage, bundle in session.execute(made):
        inputs[stage].append(bundle)
    inputs |= {name: [bundle] for name, bundle in _named(session, task.stage, job.recipe).items()}
    return Claim(
        task_id=task.id,
        token=task.token,
        attempt=task.attempt,
        job_id=job.id,
        stage=task.stage,
        shard=task.shard,
        key=task.key,
        recipe=job.recipe,
        inputs=inputs,
        checkpoint=newest_checkpoint(session, task.key),
    )


def _named(session: Session, stage: str, recipe: dict[str, Any]) -> dict[str, str | None]:
    """The bundle of what the recipe names for a stage by an id, by the input's name."""

    def dataset(identity: str) -> str | None:
        return session.scalar(select(Dataset.bundle).where(Dataset.id == identity))

    def generator(identity: str) -> str | None:
        return session.scalar(select(Generator.bundle).where(Generator.id == identity))

    match stage:
        case "generate" if is_trained(model := recipe["data"]["generator"]["model"]):
            return {"generator": generator(model)}
        case "embed" if (source := recipe["training"]["agnostic"]["source"]).startswith("ds_"):
            return {"agnostic_source": dataset(source)}
        case "evaluate" if evaluated_on := recipe["evaluation"]["dataset"]:
            return {"dataset": dataset(evaluated_on)}
        case "generator":
            named = {"photos": dataset(recipe["dataset"])}
            base = recipe.get("base") or ""  # recipes of earlier versions have none
            return named | {"base": generator(base)} if is_trained(base) else named
    return {}
