"""A job's events as a live stream (server-sent events, WHATWG HTML 9.2)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from anyio import sleep, to_thread
from fastapi.sse import format_sse_event
from sqlalchemy import Engine

from api.jobs.schemas import EventRead
from api.jobs.service import require
from state.database import read_scope
from state.events import events_after
from state.tables import TERMINAL, Event

POLL_SECONDS = 0.5
PING_SECONDS = 15.0
BATCH = 200
RETRY_MS = 2000


@dataclass(frozen=True)
class Batch:
    """Events that were there at one look, and the job's status before that look."""

    events: list[EventRead]
    status: str


def read_batch(engine: Engine, job_id: str, after: int, limit: int) -> Batch:
    """One short transaction: a stream lives for hours and must not hold a connection.

    Raises:
        Problem: 404, there is no such job.
    """
    with read_scope(engine) as session:
        # The status first: once it is terminal, every event of the job has been committed.
        status = require(session, job_id).status
        return Batch([read_event(event) for event in events_after(session, job_id, after, limit)], status)


def read_event(event: Event) -> EventRead:
    return EventRead(
        id=event.id,
        at=event.at,
        level=event.level,
        type=event.type,
        stage=event.stage,
        message=event.message,
        data=event.data,
    )


async def stream_events(engine: Engine, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Events after ``after`` as they come, pings while none does, and ``end`` after the last one of a job."""
    yield format_sse_event(retry=RETRY_MS)
    spoken = time.monotonic()
    while True:
        batch = await to_thread.run_sync(read_batch, engine, job_id, after, BATCH)
        for event in batch.events:
            after = event.id
            # ASCII: some readers of streams end lines at more characters than the standard's, U+2028 for one.
            data = json.dumps(event.model_dump(mode="json"))
            yield format_sse_event(data_str=data, event=event.type, id=str(event.id))
        if batch.events:
            spoken = time.monotonic()
        if len(batch.events) == BATCH:
            continue
        if batch.status in TERMINAL:
            yield format_sse_event(data_str=json.dumps({"status": batch.status}), event="end")
            return
        if time.monotonic() - spoken > PING_SECONDS:
            spoken = time.monotonic()
            yield format_sse_event(comment="ping")
        await sleep(POLL_SECONDS)
