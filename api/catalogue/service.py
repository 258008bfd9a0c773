"""The catalogue's rows, as the library knows them."""

from __future__ import annotations

from dataclasses import asdict

from api.catalogue.schemas import GeneratorRead, LossRead, StudentRead, TeacherRead
from distillation.catalogue import FULL_STUDENTS, SMALL_STUDENTS
from distillation.known_models import GENERATORS, LOSSES, TEACHERS
from distillation.taught_classes import taught_classes


def teachers() -> list[TeacherRead]:
    return [TeacherRead.model_validate(row) for row in TEACHERS]


def students() -> list[StudentRead]:
    """Both tiers, each from weak to strong."""
    tiers = {"small": SMALL_STUDENTS, "full": FULL_STUDENTS}
    return [StudentRead.model_validate({**asdict(row), "tier": tier}) for tier, rows in tiers.items() for row in rows]


def generators() -> list[GeneratorRead]:
    return [GeneratorRead(**asdict(row), classes=taught_classes(row.model)) for row in GENERATORS]


def losses() -> list[LossRead]:
    return [LossRead.model_validate(row) for row in LOSSES]
