"""Jobs: check and queue, look up, stop, start again, delete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session

from api.errors import Problem
from api.jobs import preflight
from api.jobs.progress import job_eta, job_fraction, read_stages
from api.jobs.rates import measured_rates
from api.jobs.schemas import (
    DryRun,
    EstimateRead,
    JobCreate,
    JobRead,
    JobSummary,
    PlannedTask,
    StudentRead,
    TeacherRead,
)
from api.pages import Page, cut
from distillation.estimate import estimate
from distillation.generator_recipe import GeneratorRecipe
from distillation.plan import StageTask
from distillation.recipe import Recipe
from state import jobs
from state.database import read_scope, session_scope
from state.errors import NoSuchJob
from state.tables import TERMINAL, Encoder, Job, Result

Answer = TypeVar("Answer")


def create(
    engine: Engine, body: JobCreate, *, idempotency_key: str | None, max_queued_jobs: int
) -> tuple[JobRead, bool]:
    """Queue a job; True if the key had made it before.

    Raises:
        Problem: 422 it cannot work, 429 too many jobs wait.
        IdempotencyConflict: the key was used with another body.
    """

    def check(session: Session) -> tuple[Recipe, list[StageTask]]:
        checked = preflight.check(session, body.recipe)
        return checked.recipe, checked.tasks

    def name(session: Session, job: Job) -> None:
        if body.name:
            _rename(session, job, body.name)

    return queue(
        engine,
        check,
        read,
        metadata=body.metadata,
        digest=body_hash(body),
        idempotency_key=idempotency_key,
        max_queued_jobs=max_queued_jobs,
        on_created=name,
    )


def queue(
    engine: Engine,
    check: Callable[[Session], tuple[Recipe | GeneratorRecipe, list[StageTask]]],
    read_as: Callable[[Session, Job], Answer],
    *,
    digest: str,
    idempotency_key: str | None,
    max_queued_jobs: int,
    metadata: Mapping[str, str] | None = None,
    on_created: Callable[[Session, Job], None] = lambda _session, _job: None,
) -> tuple[Answer, bool]:
    """Queue a job of any kind; True if the key had made it before.

    Args:
        check: the recipe to be queued, all filled in, and its tasks; or a Problem.
        read_as: what the answer shows of the job.
        digest: hash of the request's body.

    Raises:
        Problem: of ``check``, or 429 too many jobs wait.
        IdempotencyConflict: the key was used with another body.
    """
    with read_scope(engine) as session:
        if idempotency_key and (known := jobs.find_idempotent(session, idempotency_key, digest)):
            return read_as(session, known), True
        # The checks hash model files: they are done before the short transaction that writes.
        recipe, tasks = check(session)
    inserted: list[object] = []
    with session_scope(engine) as session:
        event.listen(session, "pending_to_persistent", lambda _session, row: inserted.append(row))
        if jobs.count_unfinished(session) >= max_queued_jobs:
            detail = f"{max_queued_jobs} jobs are unfinished, the most this server takes; wait or cancel one"
            raise Problem(429, "too_many_jobs", detail, headers={"Retry-After": "30"})
        job = jobs.create_job(
            session,
            recipe,
            tasks=tasks,
            metadata=metadata,
            idempotency_key=idempotency_key,
            body_hash=digest,
        )
        # Two requests with one key may race: the slower one is given the job of the faster one.
        created = job in inserted
        if created:
            on_created(session, job)
        return read_as(session, job), not created


def dry_run(engine: Engine, body: JobCreate) -> DryRun:
    """What :func:`create` would queue, and what it would cost."""
    with read_scope(engine) as session:
        checked = preflight.check(session, body.recipe)
        keys = {task.key for task in checked.tasks}
        made = set(session.scalars(select(Result.key).where(Result.key.in_(keys))))
        rates = measured_rates(session, body.recipe)
    tasks = [PlannedTask(stage=t.stage, shard=t.shard, key=t.key, reused=t.key in made) for t in checked.tasks]
    whole = {task.stage for task in tasks} - {task.stage for task in tasks if not task.reused}
    cost = estimate(checked.recipe, checked.student, checked.teacher, reused=frozenset(whole), measured=rates)
    return DryRun(
        recipe=checked.recipe.model_dump(mode="json"),
        teacher=TeacherRead.model_validate(checked.teacher._asdict()),
        student=StudentRead.model_validate(checked.student._asdict()),
        tasks=tasks,
        estimate=EstimateRead.model_validate(cost),
        warnings=checked.warnings,
    )


def body_hash(body: BaseModel) -> str:
    """Equal for bodies that mean the same, whatever their spacing, order of keys or left-out defaults."""
    return hashlib.sha256(json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def list_jobs(
    engine: Engine, *, after: str | None, limit: int, status: Sequence[str], metadata: Mapping[str, str]
) -> Page[JobSummary]:
    with read_scope(engine) as session:
        rows = jobs.list_jobs(session, after=after, limit=limit + 1, status=status, metadata=metadata)
        found, more = cut(rows, limit)
        stages = read_stages(session, [job.id for job in found])
        data = [JobSummary(**_summary(job), progress=job_fraction(stages[job.id])) for job in found]
    return Page(data=data, next=data[-1].id if more else None)


def read_job(engine: Engine, job_id: str) -> JobRead:
    with read_scope(engine) as session:
        return read(session, require(session, job_id))


def cancel(engine: Engine, job_id: str) -> JobRead:
    """Ask for the end of a job; one that has ended stays as it is.

    Raises:
        Problem: 409, it has succeeded or failed already.
    """
    with session_scope(engine) as session:
        job = require(session, job_id)
        if job.status in TERMINAL - {"cancelled"}:
            raise Problem(409, "conflict", f"{job_id} has {job.status} already, it cannot be cancelled")
        return read(session, jobs.request_cancel(session, job_id))


def retry(engine: Engine, job_id: str) -> JobRead:
    """Go on with a failed or cancelled job.

    Raises:
        NotRetryable: it is neither.
    """
    with session_scope(engine) as session:
        require(session, job_id)
        return read(session, jobs.retry_job(session, job_id))


def delete(engine: Engine, job_id: str) -> None:
    """Forget a job and what it made.

    Raises:
        NoSuchJob: it is not there.
        NotDeletable: it is not over, or its generator is in use.
    """
    with session_scope(engine) as session:
        jobs.delete_job(session, job_id)


def require(session: Session, job_id: str) -> Job:
    job = jobs.get_job(session, job_id)
    if job is None:
        raise NoSuchJob(job_id)
    return job


def read(session: Session, job: Job) -> JobRead:
    session.flush()
    stages = read_stages(session, [job.id])[job.id]
    over = job.status in TERMINAL
    return JobRead(
        **_summary(job),
        progress=job_fraction(stages),
        eta_seconds=None if over else job_eta(stages),
        stages=stages,
        recipe=job.recipe,
    )


def _summary(job: Job) -> dict[str, Any]:
    domain = job.recipe.get("domain")
    return {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "status": job.status,
        "domain": domain and domain["name"],
        "classes": domain and len(domain["classes"]),
        "metadata": job.metadata_,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "cancel_requested": job.cancel_requested,
        "attempt": job.attempt,
        "encoder_id": job.encoder_id,
        "generator_id": job.generator_id,
        "error": job.error,
    }


def _rename(session: Session, job: Job, name: str) -> None:
    """A job whose every output exists already has its encoder from the first moment."""
    job.name = name
    if job.encoder_id is not None:
        session.get_one(Encoder, job.encoder_id).name = name
