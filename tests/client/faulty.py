"""A service that breaks when told to: it cuts connections, sends wrong bytes, refuses. Its answers have the API's
own schemas, so it cannot drift away from the real one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from anyio import sleep
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from api import errors
from api.archives import FileRead
from api.encoders.schemas import EncoderRead
from api.jobs.schemas import EventRead, JobErrorRead, JobRead, StageProgress, StageRead
from state.tables import JobStatus, Level

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
JOB, ENCODER = "job_" + "0" * 26, "enc_" + "0" * 26


@dataclass
class Faults:
    """What to break, and what was asked.

    Args:
        cuts: byte counts after which the next downloads break off.
        content: what is really sent for the file.
        ignore_range: answer ranges with the whole file, as some proxies do.
        stream_cuts: numbers of events after which the next streams break off.
        stays: the event stream never ends.
        away: statuses of the next answers about the job, of a service that restarts behind its proxy.
    """

    cuts: list[int] = field(default_factory=list)
    content: bytes = CONTENT
    ignore_range: bool = False
    stream_cuts: list[int] = field(default_factory=list)
    stays: bool = False
    away: list[int] = field(default_factory=list)
    status: JobStatus = "succeeded"
    events: list[EventRead] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    last_event_ids: list[str | None] = field(default_factory=list)
    submitted: list[tuple[dict[str, Any], str | None]] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    cancels: int = 0


def event(number: int, type: str = "log", level: Level = "info", **data: Any) -> EventRead:
    return EventRead(id=number, at=NOW, level=level, type=type, stage=None, message=f"event {number}", data=data)


def job(status: JobStatus) -> dict[str, Any]:
    over = status in ("succeeded", "failed", "cancelled")
    progress = StageProgress(done=30, total=60, unit="images", rate=12.5, metrics={"agrees": 0.5})
    stages = [
        StageRead(
            stage="prompts",
            status="done",
            tasks=1,
            done=1,
            reused=1,
            fraction=1,
            progress=None,
            seconds=0,
            eta_seconds=None,
        ),
        StageRead(
            stage="generate",
            status="failed" if status == "failed" else "done" if over else "running",
            tasks=2,
            done=2 if over else 1,
            reused=0,
            fraction=1 if over else 0.5,
            progress=progress,
            seconds=4.2,
            eta_seconds=None if over else 4,
        ),
    ]
    error = JobErrorRead(code="disk_full", message="the disk is full", hint="free some space", stage="generate")
    made = JobRead(
        id=JOB,
        name="fruit",
        kind="encoder",
        status=status,
        domain="fruit",
        classes=2,
        metadata={"team": "kitchen"},
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW if over else None,
        cancel_requested=False,
        attempt=1,
        progress=1 if over else 0.4,
        encoder_id=ENCODER if status == "succeeded" else None,
        generator_id=None,
        error=error if status == "failed" else None,
        eta_seconds=None,
        stages=stages,
        recipe={"domain": {"name": "fruit"}},
    )
    return made.model_dump(mode="json")


def make_app(faults: Faults) -> FastAPI:
    app = FastAPI()
    errors.install(app)

    @app.post("/v1/jobs", status_code=202)
    async def submit(request: Request) -> Any:
        body = await request.json()
        faults.submitted.append((body, request.headers.get("idempotency-key")))
        if body["recipe"]["domain"].get("name") == "wrong":
            wrong = [
                errors.field_error("/recipe/domain/classes", "a domain needs at least 2 classes, this one has 1"),
                errors.field_error("/recipe/student/size", "must be one of xs, s, m, l"),
                errors.field_error("/recipe/training/lr", "must be greater than 0"),
            ]
            raise errors.Problem(422, "invalid_request", "3 fields are not valid", wrong)
        return job(faults.status)

    @app.get("/v1/jobs")
    def jobs(limit: int, after: str | None = None) -> Any:
        """Two pages of one job each."""
        faults.limits.append(limit)
        return {"data": [job(faults.status)], "next": None if after else "cursor"}

    @app.get("/v1/jobs/{job_id}")
    def read(job_id: str) -> Any:
        if faults.away:
            return PlainTextResponse("upstream is away", faults.away.pop(0))
        if job_id == "job_proxy":
            return PlainTextResponse("upstream is away", 502)
        if job_id == "job_locked":
            raise errors.Problem(401, "unauthorized", "this server wants its API key")
        if job_id != JOB:
            raise errors.not_found("job", job_id)
        return job(faults.status)

    @app.post("/v1/jobs/{job_id}/cancel", status_code=202)
    def cancel(job_id: str) -> Any:
        faults.cancels += 1
        raise errors.Problem(409, "conflict", f"{job_id} has succeeded already, it cannot be cancelled")

    @app.get("/v1/jobs/{job_id}/events")
    async def events(request: Request, after: int = 0) -> Any:
        if "text/event-stream" not in request.headers["accept"]:
            found = [item.model_dump(mode="json") for item in faults.events if item.id > after]
            return {"data": found, "next": None}
        if faults.away and faults.last_event_ids:
            return PlainTextResponse("upstream is away", faults.away.pop(0))
        last = request.headers.get("last-event-id")
        faults.last_event_ids.append(last)
        cut = faults.stream_cuts.pop(0) if faults.stream_cuts else None
        return StreamingResponse(_stream(faults, int(last or 0), cut), media_type="text/event-stream")

    @app.get("/v1/encoders/{encoder_id}")
    def encoder(encoder_id: str) -> Any:
        files = [
            FileRead(
                name=name,
                sha256=DIGEST,
                size=len(CONTENT),
                content_type="application/octet-stream",
                url=f"/v1/encoders/{encoder_id}/files/{name}",
            )
            for name in (["../outside"] if encoder_id == "enc_evil" else ["image_encoder.onnx", "tokenizer/words.json"])
        ]
        found = EncoderRead(
            id=encoder_id,
            job_id=JOB,
            name="fruit",
            created_at=NOW,
            domain="fruit",
            classes=2,
            student={"architecture": "tiny"},
            size=len(CONTENT),
            report={},
            files=files,
            archive_url="",
        )
        return found.model_dump(mode="json")

    @app.get("/v1/encoders/{encoder_id}/files/{name:path}")
    def file(request: Request) -> Response:
        wanted = request.headers.get("range")
        faults.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and not faults.ignore_range else 0
        part = faults.content[start:]
        headers = {"Content-Length": str(len(part))}
        if wanted and not faults.ignore_range:
            headers["Content-Range"] = f"bytes {start}-{len(faults.content) - 1}/{len(faults.content)}"
        cut = faults.cuts.pop(0) if faults.cuts else None
        return StreamingResponse(_bytes(part, cut), 206 if "Content-Range" in headers else 200, headers)

    @app.get("/v1/catalogue/{kind}")
    def catalogue(kind: str) -> Any:
        return JSONResponse({"data": [{"name": f"some {kind}", "params": 1000}], "next": None})

    return app


def _bytes(content: bytes, cut: int | None) -> Iterator[bytes]:
    yield content[:cut]
    if cut is not None:
        raise ConnectionError("cut off by the test")


async def _stream(faults: Faults, after: int, cut: int | None) -> AsyncIterator[str]:
    yield "retry: 10\n\n: ping\n\n"
    for count, item in enumerate(item for item in faults.events if item.id > after):
        if count == cut:
            yield f'id: {item.id}\nevent: {item.type}\ndata: {{"id": {item.id}, '  # breaks off within an event
            raise ConnectionError("cut off by the test")
        yield f"id: {item.id}\nevent: {item.type}\ndata: {item.model_dump_json()}\n\n"
    while faults.stays:
        yield ": ping\n\n"
        await sleep(0.05)
    yield 'event: end\ndata: {"status": "succeeded"}\n\n'
