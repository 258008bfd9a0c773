"""``/v1/catalogue``: what a recipe may name."""

from __future__ import annotations

from fastapi import APIRouter

from api.catalogue import service
from api.catalogue.schemas import GeneratorRead, LossRead, StudentRead, TeacherRead
from api.deps import EngineDep
from api.pages import Page

router = APIRouter(prefix="/catalogue", tags=["catalogue"])


@router.get("/teachers", summary="Teachers")
async def list_teachers() -> Page[TeacherRead]:
    return Page(data=service.teachers(), next=None)


@router.get("/students", summary="Students: sizes, parameters, multiply-accumulates")
async def list_students() -> Page[StudentRead]:
    return Page(data=service.students(), next=None)


@router.get("/generators", summary="Generators")
def list_usable_generators(engine: EngineDep) -> Page[GeneratorRead]:
    return Page(data=service.generators(engine), next=None)


@router.get("/losses", summary="Losses")
async def list_losses() -> Page[LossRead]:
    return Page(data=service.losses(), next=None)
