"""The catalogue's rows, as the library knows them."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Engine, select

from api.catalogue.schemas import GeneratorRead, LossRead, StudentRead, TeacherRead
from distillation.catalogue import FULL_STUDENTS, SMALL_STUDENTS
from distillation.known_models import GENERATORS, LOSSES, TEACHERS
from distillation.taught_classes import taught_classes
from state.database import read_scope
from state.tables import Generator, Job


def teachers() -> list[TeacherRead]:
    return [TeacherRead.model_validate(row) for row in TEACHERS]


def students() -> list[StudentRead]:
    """Both tiers, each from weak to strong."""
    tiers = {"small": SMALL_STUDENTS, "full": FULL_STUDENTS}
    return [StudentRead.model_validate({**asdict(row), "tier": tier}) for tier, rows in tiers.items() for row in rows]


def generators(engine: Engine) -> list[GeneratorRead]:
    """Those that the library knows, and those trained here, newest first."""
    query = select(Generator, Job.recipe).join(Job, Job.id == Generator.job_id).where(Generator.bundle.is_not(None))
    with read_scope(engine) as session:
        trained = session.execute(query.order_by(Generator.id.desc())).all()
    known = [GeneratorRead(**asdict(row), classes=taught_classes(row.model)) for row in GENERATORS]
    return known + [
        GeneratorRead(
            model=row.id,
            lora=None,
            steps=1,
            guidance=0.0,
            size=recipe["size"],
            licence=row.report["licence"],
            note=f"trained here: {row.name}",
            classes=row.report["taught"],
        )
        for row, recipe in trained
    ]


def losses() -> list[LossRead]:
    return [LossRead.model_validate(row) for row in LOSSES]
