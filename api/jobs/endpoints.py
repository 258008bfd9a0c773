"""``/v1/jobs``: a domain in words in, an encoder out."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from api.archives import FileRead
from api.deps import AfterJob, AfterNumber, BlobsDep, CeleryDep, EngineDep, Limit, SettingsDep
from api.errors import Problem, field_error
from api.files import blob_response
from api.jobs import events, outputs, preflight, service
from api.jobs.schemas import CheckpointRead, DryRun, EventRead, JobCreate, JobRead, JobSummary, SampleRead
from api.pages import Page
from api.refusals import explaining_route
from distillation.recipe import Recipe
from state.tables import JobStatus
from workers.dispatch import publish_outbox

RESTS_ON = {"student": ("teacher",), "domain": ("data", "generator"), "evaluation": ("domain",)}
router = APIRouter(
    prefix="/jobs", tags=["jobs"], route_class=explaining_route(Recipe, preflight.check, RESTS_ON, "recipe")
)
METADATA = re.compile(r"metadata\[([^\]]+)\]")
MAX_EVENT_ID = 2**63 - 1


@router.post(
    "",
    status_code=202,
    summary="Submit a job",
    description="The recipe is checked whole before anything is queued, and every error is reported at once. With "
    "`Idempotency-Key` the request may be repeated safely: the same body gives the same job.",
    response_model=JobRead,
    responses={200: {"model": DryRun, "description": "With `dry_run=true`: the plan and an estimate; nothing queued."}},
)
def create_job(
    body: JobCreate,
    response: Response,
    background: BackgroundTasks,
    engine: EngineDep,
    settings: SettingsDep,
    celery: CeleryDep,
    dry_run: Annotated[bool, Query(description="Only check, plan and estimate.")] = False,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, description="A name of your own for this request.")
    ] = None,
) -> Any:
    if dry_run:
        return JSONResponse(service.dry_run(engine, body).model_dump(mode="json"))
    job, replayed = service.create(
        engine, body, idempotency_key=idempotency_key, max_queued_jobs=settings.max_queued_jobs
    )
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotent-Replay"] = "true"
    else:
        # After the commit and after the answer: a broker that is away delays neither.
        background.add_task(publish_outbox, engine, celery)
    return job


@router.get(
    "",
    summary="List jobs, newest first",
    description="Filter by your own metadata with `metadata[key]=value`, as often as wanted; all must match.",
)
def list_jobs(
    request: Request,
    engine: EngineDep,
    after: AfterJob = None,
    limit: Limit = 20,
    status: Annotated[list[JobStatus] | None, Query(description="One or more statuses.")] = None,
) -> Page[JobSummary]:
    named = [(METADATA.fullmatch(key), value) for key, value in request.query_params.multi_items()]
    metadata = {match[1]: value for match, value in named if match}
    return service.list_jobs(engine, after=after, limit=limit, status=status or [], metadata=metadata)


@router.get("/{job_id}", summary="One job: stages, progress, time left, recipe")
def read_job(job_id: str, engine: EngineDep) -> JobRead:
    return service.read_job(engine, job_id)


@router.post("/{job_id}/cancel", status_code=202, summary="Cancel a job", description="Finished stages are kept.")
def cancel_job(job_id: str, engine: EngineDep) -> JobRead:
    return service.cancel(engine, job_id)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    summary="Retry a failed or cancelled job",
    description="Finished stages are kept; the others go on from their last checkpoint.",
)
def retry_job(job_id: str, background: BackgroundTasks, engine: EngineDep, celery: CeleryDep) -> JobRead:
    job = service.retry(engine, job_id)
    background.add_task(publish_outbox, engine, celery)
    return job


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Delete a job",
    description="With its events, saved states and outputs, and the encoder or generator it made; outputs that another "
    "job shares stay. 409 while it is not over, or its generator is used.",
)
def delete_job(job_id: str, engine: EngineDep) -> None:
    service.delete(engine, job_id)


@router.get(
    "/{job_id}/events",
    summary="Events of a job, as a page or as a live stream",
    description="With `Accept: text/event-stream` the events come as they happen, each with its id; a client that was "
    "cut off goes on with `Last-Event-ID`. The stream ends with an event `end` once the job has ended.",
    response_model=Page[EventRead],
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
def list_events(
    job_id: str,
    request: Request,
    engine: EngineDep,
    after: Annotated[int, Query(ge=0, le=MAX_EVENT_ID, description="Only events with a larger id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events on a page.")] = 100,
    last_event_id: Annotated[str | None, Header(description="Where a broken stream goes on.")] = None,
) -> Any:
    if "text/event-stream" not in request.headers.get("accept", ""):
        found = events.read_batch(engine, job_id, after, limit + 1).events
        page = found[:limit]
        return Page(data=page, next=str(page[-1].id) if len(found) > limit else None)
    if last_event_id:
        after = _event_id(last_event_id)
    events.read_batch(engine, job_id, after, 1)  # a 404 must come before the stream begins
    return StreamingResponse(
        events.stream_events(engine, job_id, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


@router.get("/{job_id}/samples", summary="Some of the synthetic images")
def list_samples(
    job_id: str,
    engine: EngineDep,
    blobs: BlobsDep,
    after: AfterNumber = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Samples on a page.")] = 100,
) -> Page[SampleRead]:
    return outputs.list_samples(engine, blobs, job_id, after=after, limit=limit)


@router.get(
    "/{job_id}/samples/{n}",
    summary="One synthetic image",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)
def read_sample(
    job_id: str, n: Annotated[int, Path(ge=0, le=MAX_EVENT_ID)], request: Request, engine: EngineDep, blobs: BlobsDep
) -> Response:
    sha256, size = outputs.sample_blob(engine, blobs, job_id, n)
    return blob_response(
        request, blobs, sha256, size=size, content_type="image/jpeg", filename=f"{n}.jpg", disposition="inline"
    )


@router.get(
    "/{job_id}/report",
    summary="The evaluation report",
    description="Teacher beside student, with the metric names of CLIP_benchmark. 404 before the evaluation.",
)
def read_report(job_id: str, engine: EngineDep) -> dict[str, Any]:
    return outputs.read_report(engine, job_id)


@router.get("/{job_id}/checkpoints", summary="Saved states of the training")
def list_checkpoints(job_id: str, engine: EngineDep) -> Page[CheckpointRead]:
    return Page(data=outputs.list_checkpoints(engine, job_id), next=None)


@router.get(
    "/{job_id}/artifacts",
    summary="Files the job has made",
    description="Empty until all is done.",
)
def list_artifacts(job_id: str, engine: EngineDep) -> Page[FileRead]:
    return Page(data=outputs.list_artifacts(engine, job_id), next=None)


def _event_id(header: str) -> int:
    if not header.isascii() or not header.isdigit() or int(header) > MAX_EVENT_ID:
        error = field_error("/last-event-id", "must be the id of an event, a whole number", location="header")
        raise Problem(422, "invalid_request", f"Last-Event-ID {error.message}", [error])
    return int(header)
