"""``/v1/generators``: labelled photos in, a text-to-image pipeline out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Request, Response

from api.archives import archive_response
from api.deps import AfterGenerator, BlobsDep, CeleryDep, EngineDep, Limit, SettingsDep
from api.files import BINARY, FILE_DESCRIPTION, FILE_RESPONSES, blob_response
from api.generators import preflight, service
from api.generators.schemas import GeneratorRead, GeneratorSummary
from api.pages import Page
from api.refusals import explaining_route
from distillation.generator_recipe import GeneratorRecipe
from workers.dispatch import publish_outbox

RESTS_ON = {"dataset": ("classes",), "classes": ("dataset",)}
router = APIRouter(
    prefix="/generators",
    tags=["generators"],
    route_class=explaining_route(GeneratorRecipe, preflight.check, RESTS_ON),
)


@router.post(
    "",
    status_code=202,
    summary="Train a generator",
    description="On the photos of a dataset. It is trained by a job, `job_id` of the answer, whose events, `cancel` "
    "and `retry` are those of any job. With `Idempotency-Key` the request may be repeated safely.",
)
def create_generator(
    body: GeneratorRecipe,
    response: Response,
    background: BackgroundTasks,
    engine: EngineDep,
    settings: SettingsDep,
    celery: CeleryDep,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, description="A name of your own for this request.")
    ] = None,
) -> GeneratorRead:
    generator, replayed = service.create(
        engine, body, idempotency_key=idempotency_key, max_queued_jobs=settings.max_queued_jobs
    )
    response.headers["Location"] = f"/v1/generators/{generator.id}"
    if replayed:
        response.headers["Idempotent-Replay"] = "true"
    else:
        background.add_task(publish_outbox, engine, celery)
    return generator


@router.get("", summary="List generators, newest first")
def list_generators(engine: EngineDep, after: AfterGenerator = None, limit: Limit = 20) -> Page[GeneratorSummary]:
    return service.list_generators(engine, after=after, limit=limit)


@router.get("/{generator_id}", summary="One generator: status, report and files")
def read_generator(generator_id: str, engine: EngineDep) -> GeneratorRead:
    return service.read_generator(engine, generator_id)


@router.head("/{generator_id}/files/{name:path}", include_in_schema=False)
@router.get(
    "/{generator_id}/files/{name:path}",
    summary="Download one file of a generator",
    description=FILE_DESCRIPTION,
    response_class=Response,
    responses=FILE_RESPONSES,
)
def download_generator_file(
    generator_id: str, name: str, request: Request, engine: EngineDep, blobs: BlobsDep
) -> Response:
    file = service.read_file(engine, generator_id, name)
    return blob_response(
        request, blobs, file.sha256, size=file.size, content_type=file.content_type, filename=name.rpartition("/")[2]
    )


@router.get(
    "/{generator_id}/archive",
    summary="Download the pipeline's directory as one zip",
    response_class=Response,
    responses={200: {"content": {"application/zip": BINARY}}},
)
def download_generator_archive(generator_id: str, request: Request, engine: EngineDep, blobs: BlobsDep) -> Response:
    return archive_response(request, blobs, generator_id, service.read_files(engine, generator_id))


@router.delete(
    "/{generator_id}",
    status_code=204,
    summary="Delete a generator",
    description="With the job that trained it; what was made with it stays. 409 while it is trained or used.",
)
def delete_generator(generator_id: str, engine: EngineDep) -> None:
    service.delete(engine, generator_id)
