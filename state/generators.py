"""Generators that jobs train: made with their job, filled by its output, gone with it."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from state.database import database_now
from state.ids import new_id
from state.tables import TERMINAL, Generator, Job, Result

FOLDER = "generator/"
"""Where the stage puts the pipeline."""


def add_generator(session: Session, job: Job) -> None:
    """Write the row of the generator that a new job will train; the job is written already."""
    job.generator_id = new_id("gen")
    created_at = database_now(session)
    session.add(Generator(id=job.generator_id, job_id=job.id, name=job.name, created_at=created_at))
    session.flush()


def fill_generator(session: Session, job: Job, result: Result) -> None:
    """Record what a finished job has made."""
    generator = session.get_one(Generator, job.generator_id)
    generator.bundle, generator.report = result.bundle, result.report
    generator.files = {
        name.removeprefix(FOLDER): entry for name, entry in result.files.items() if name.startswith(FOLDER)
    }


def user_of(session: Session, generator_id: str) -> str | None:
    """An unfinished job whose recipe names the generator, if there is one."""
    drawn_with, gone_on_from = (Job.recipe[path].as_string() for path in (("data", "generator", "model"), "base"))
    named = or_(drawn_with == generator_id, gone_on_from == generator_id)
    return session.scalar(select(Job.id).where(Job.status.not_in(TERMINAL), named).limit(1))
