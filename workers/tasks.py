"""The Celery task: load, call, send what follows."""

from __future__ import annotations

import threading
from functools import lru_cache

from celery.signals import heartbeat_sent, worker_ready, worker_shutting_down

from distillation.stage_process import warm_up
from state.blobs import BlobStore
from state.database import default_engine
from state.settings import get_settings
from workers.alive import beat
from workers.celery_app import RUN_TASK, app
from workers.dispatch import publish_outbox
from workers.supervisor import Outcome
from workers.supervisor import run_task as supervise
from workers.trim import trim_if_due

SHUTDOWN = threading.Event()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _import_ahead(**_: object) -> None:
    warm_up(get_settings().stage_entry)


@heartbeat_sent.connect  # type: ignore[untyped-decorator]
def _sign_of_life(**_: object) -> None:
    beat(get_settings())


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_children(**_: object) -> None:
    """On SIGTERM Celery waits for the running task: let that be short."""
    SHUTDOWN.set()


@app.task(name=RUN_TASK)  # type: ignore[untyped-decorator]
def run_task(task_id: int) -> Outcome:
    engine = default_engine()
    outcome = supervise(task_id, engine=engine, blobs=_blobs(), settings=get_settings(), shutdown=SHUTDOWN)
    publish_outbox(engine, app)
    trim_if_due(engine, get_settings())
    return outcome


@lru_cache(maxsize=1)
def _blobs() -> BlobStore:
    return BlobStore(get_settings().blobs_url)
