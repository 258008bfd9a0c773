"""Generators: check and queue their training, look up, delete."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from api.archives import FileRead
from api.errors import Problem, not_found
from api.generators import preflight
from api.generators.files import list_generator_files
from api.generators.schemas import GeneratorRead, GeneratorSummary
from api.jobs.progress import job_fraction, read_stages
from api.jobs.service import body_hash, queue
from api.pages import Page, cut
from distillation.generator_recipe import GeneratorRecipe
from state.database import read_scope, session_scope
from state.jobs import delete_job
from state.tables import Generator, Job


def create(
    engine: Engine, recipe: GeneratorRecipe, *, idempotency_key: str | None, max_queued_jobs: int
) -> tuple[GeneratorRead, bool]:
    """Queue a training; True if the key had made it before.

    Raises:
        Problem: 422 it cannot work, 429 too many jobs wait.
        IdempotencyConflict: the key was used with another body.
    """
    return queue(
        engine,
        lambda session: (recipe, preflight.check(session, recipe)),
        _of_job,
        digest=body_hash(recipe),
        idempotency_key=idempotency_key,
        max_queued_jobs=max_queued_jobs,
    )


def list_generators(engine: Engine, *, after: str | None, limit: int) -> Page[GeneratorSummary]:
    """Newest first."""
    query = select(Generator, Job).join(Job, Job.id == Generator.job_id).order_by(Generator.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Generator.id < after)
    with read_scope(engine) as session:
        rows, more = cut(session.execute(query).all(), limit)
        data = [GeneratorSummary(**_summary(session, generator, job)) for generator, job in rows]
    return Page(data=data, next=data[-1].id if more else None)


def read_generator(engine: Engine, generator_id: str) -> GeneratorRead:
    with read_scope(engine) as session:
        return _read(session, _require(session, generator_id))


def read_file(engine: Engine, generator_id: str, name: str) -> FileRead:
    """One file; names are looked up, never joined to a path."""
    with read_scope(engine) as session:
        files = list_generator_files(_require(session, generator_id))
    found = next((file for file in files if file.name == name), None)
    if found is None:
        raise not_found("file", name)
    return found


def read_files(engine: Engine, generator_id: str) -> list[FileRead]:
    """All files.

    Raises:
        Problem: 409, it is not trained yet.
    """
    with read_scope(engine) as session:
        generator = _require(session, generator_id)
    if generator.files is None:
        raise Problem(409, "conflict", f"{generator_id} is not trained yet; its job is {generator.job_id}")
    return list_generator_files(generator)


def delete(engine: Engine, generator_id: str) -> None:
    """Forget a generator and the job that trained it; the blobs go with the next sweep of unused blobs.

    Raises:
        Problem: 404.
        NotDeletable: it is being trained, or an unfinished job uses it.
    """
    with session_scope(engine) as session:
        delete_job(session, _require(session, generator_id).job_id)


def _require(session: Session, generator_id: str) -> Generator:
    row = session.get(Generator, generator_id)
    if row is None:
        raise not_found("generator", generator_id)
    return row


def _of_job(session: Session, job: Job) -> GeneratorRead:
    return _read(session, session.get_one(Generator, job.generator_id))


def _read(session: Session, generator: Generator) -> GeneratorRead:
    job = session.get_one(Job, generator.job_id)
    return GeneratorRead(
        **_summary(session, generator, job),
        recipe=job.recipe,
        report=generator.report,
        files=list_generator_files(generator),
        archive_url=f"/v1/generators/{generator.id}/archive",
    )


def _summary(session: Session, generator: Generator, job: Job) -> dict[str, Any]:
    report = generator.report or {}
    return {
        "id": generator.id,
        "job_id": job.id,
        "name": generator.name,
        "status": job.status,
        "progress": job_fraction(read_stages(session, [job.id])[job.id]),
        "created_at": generator.created_at,
        "dataset": job.recipe["dataset"],
        "image_size": job.recipe["size"],
        "classes": report.get("classes"),
        "teacher_acc1": report.get("teacher_acc1", {}).get("generated"),
        "size": sum(entry["size"] for entry in (generator.files or {}).values()),
        "error": job.error,
    }
