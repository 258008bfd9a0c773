"""Jobs as their users see them: create, list, cancel, retry, delete. What workers do is in ``claims.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from distillation.generator_recipe import GeneratorRecipe
from distillation.plan import StageTask
from distillation.recipe import Recipe
from state.advance import advance, finish_job, set_status, stop_waiting, tasks_of
from state.database import database_now
from state.errors import IdempotencyConflict, NotDeletable, NotRetryable
from state.events import append_event, lock_job
from state.generators import add_generator, user_of
from state.ids import new_id
from state.tables import TERMINAL, Job, Result, Task


def create_job(
    session: Session,
    recipe: Recipe | GeneratorRecipe,
    *,
    tasks: Sequence[StageTask],
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    body_hash: str | None = None,
) -> Job:
    """Write a job, its tasks, its first event and the first messages, in the caller's transaction.

    The job of a :class:`GeneratorRecipe` also gets the row of its generator.

    Tasks whose output exists already are done from the start. A known ``idempotency_key`` returns the job it
    made; use ``find_idempotent`` before to tell the two apart.

    Raises:
        IdempotencyConflict: the key was used with another body.
    """
    job = Job(
        id=new_id("job"),
        status="queued",
        name=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        metadata_=dict(metadata or {}),
        idempotency_key=idempotency_key,
        body_hash=body_hash,
        created_at=database_now(session),
    )
    if idempotency_key is not None:
        if known := find_idempotent(session, idempotency_key, body_hash):
            return known
        try:
            with session.begin_nested():
                session.add(job)
        except IntegrityError:  # another request with the same key was faster
            known = find_idempotent(session, idempotency_key, body_hash)
            if known is None:
                raise
            return known
    session.add(job)
    session.flush()
    if isinstance(recipe, GeneratorRecipe):
        add_generator(session, job)
    session.add_all(
        Task(job_id=job.id, stage=t.stage, shard=t.shard, key=t.key, needs=list(t.needs), status="waiting")
        for t in tasks
    )
    append_event(session, job.id, "status", "The job is queued.", data={"status": "queued"})
    session.flush()
    advance(session, job)
    return job


def find_idempotent(session: Session, idempotency_key: str, body_hash: str | None) -> Job | None:
    """The job that this key made, if any.

    Raises:
        IdempotencyConflict: it was made from another body.
    """
    job = session.scalar(select(Job).where(Job.idempotency_key == idempotency_key))
    if job is not None and job.body_hash != body_hash:
        raise IdempotencyConflict(f"the key {idempotency_key!r} was used for {job.id} with another body")
    return job


def get_job(session: Session, job_id: str) -> Job | None:
    return session.get(Job, job_id)


def list_jobs(
    session: Session,
    *,
    after: str | None = None,
    limit: int = 20,
    status: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[Job]:
    """Jobs, newest first; ``after`` is the last id of the page before. ``metadata`` entries must all match."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if after is not None:
        query = query.where(Job.id < after)
    if status:
        query = query.where(Job.status.in_(status))
    for name, value in (metadata or {}).items():
        if '"' in name:  # cannot be written in SQLite's JSON paths; such keys are refused on creation
            return []
        query = query.where(Job.metadata_[name].as_string() == value)
    return list(session.scalars(query))


def count_unfinished(session: Session) -> int:
    """Jobs that have not come to an end, for ``max_queued_jobs``."""
    return session.scalar(select(func.count()).select_from(Job).where(Job.status.not_in(TERMINAL))) or 0


def job_tasks(session: Session, job_id: str) -> list[Task]:
    """The tasks of a job in the order of its stages."""
    return tasks_of(session, job_id)


def request_cancel(session: Session, job_id: str) -> Job:
    """Ask for a job to end. What runs is stopped by its worker; a job that has ended stays as it is.

    Raises:
        NoSuchJob: it is not there.
    """
    job = lock_job(session, job_id)
    if job.status in TERMINAL or job.cancel_requested:
        return job
    job.cancel_requested = True
    if stop_waiting(session, job):
        set_status(session, job, "cancelling", "Cancelling: the running stage is asked to stop.")
    else:
        finish_job(session, job, "cancelled", "The job was cancelled.")
    return job


def retry_job(session: Session, job_id: str) -> Job:
    """Start a failed or cancelled job again; finished tasks stay done, checkpoints are used.

    Raises:
        NoSuchJob: it is not there.
        NotRetryable: the job has not failed.
    """
    job = lock_job(session, job_id)
    if job.status not in ("failed", "cancelled"):
        raise NotRetryable(f"{job_id} is {job.status}; only a failed or cancelled job can be retried")
    job.attempt += 1
    job.cancel_requested, job.error, job.finished_at = False, None, None
    for task in tasks_of(session, job_id):
        if task.status in ("failed", "cancelled"):
            task.status, task.attempt, task.not_before = "waiting", 0, None
            task.error, task.progress, task.finished_at = None, None, None
    set_status(session, job, "queued", f"The job is queued again (attempt {job.attempt}).")
    session.flush()
    advance(session, job)
    return job


def delete_job(session: Session, job_id: str) -> None:
    """Forget a job, its outputs and the encoder or generator it made; the blobs go with the next sweep of unused ones.

    An output that another job shares stays.

    Raises:
        NoSuchJob: it is not there.
        NotDeletable: it is not over, or an unfinished job uses its generator.
    """
    job = lock_job(session, job_id)
    if job.status not in TERMINAL:
        raise NotDeletable(f"{job_id} is {job.status}; cancel it, then delete it once it is cancelled")
    if job.generator_id is not None and (user := user_of(session, job.generator_id)):
        raise NotDeletable(f"{user} uses {job.generator_id}; cancel that job or wait for its end")
    other = aliased(Task)
    shared = exists().where(other.key == Result.key, other.job_id != job_id)
    mine = Result.key.in_(select(Task.key).where(Task.job_id == job_id))
    session.execute(delete(Result).where(mine, ~shared).execution_options(synchronize_session=False))
    session.delete(job)  # the database deletes what hangs on it
