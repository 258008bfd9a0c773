"""Puts right what crashes and lost messages left: ``python -m workers.janitor``. Several may run.

The worker of a task is lost: its lease expires, another one gets it. A message is lost: the task is announced again.
The broker was away: what waits in the outbox is sent.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from celery import Celery
from sqlalchemy import Engine

from distillation.plan import QUEUES
from state.blobs import BlobStore
from state.claims import expire_leases
from state.database import database_now, default_engine, session_scope
from state.garbage import sweep
from state.outbox import announce, due_again, forget_published, overlooked
from state.settings import Settings, get_settings
from workers.alive import beat
from workers.celery_app import QUEUE_NAMES, make_app
from workers.dispatch import publish_outbox, queue_length

SWEEP_SECONDS = 6 * 3600.0
KEPT_MESSAGES = timedelta(days=1)
log = logging.getLogger(__name__)


def run(engine: Engine, celery: Celery, blobs: BlobStore, settings: Settings, stop: threading.Event) -> None:
    """Work in rounds until ``stop`` is set; a step that fails is tried again in the next round."""
    swept = float("-inf")
    sweeper: threading.Thread | None = None
    while not stop.is_set():
        if _attempt("round", lambda: run_round(engine, celery, settings)):
            beat(settings)
        if time.monotonic() - swept > SWEEP_SECONDS and not (sweeper and sweeper.is_alive()):
            swept = time.monotonic()
            # Beside the rounds: a large bucket takes minutes to list, and leases and messages cannot wait for it.
            sweeper = threading.Thread(target=_attempt, args=("sweep", lambda: sweep(engine, blobs)), daemon=True)
            sweeper.start()
        stop.wait(settings.janitor_seconds)


def run_round(engine: Engine, celery: Celery, settings: Settings) -> None:
    """One look at leases, forgotten tasks and unsent messages."""
    with session_scope(engine) as session:
        if expired := expire_leases(session, settings.max_attempts):
            log.warning("%d tasks were taken from workers that fell silent", expired)
    announce_overlooked(engine, celery, settings)
    publish_outbox(engine, celery)
    with session_scope(engine) as session:
        forget_published(session, database_now(session) - KEPT_MESSAGES)


def announce_overlooked(engine: Engine, celery: Celery, settings: Settings) -> None:
    """Announce failed tasks whose time has come, and ready ones whose message is gone.

    A failed task was never announced for its next try. While a queue of the broker holds messages, its other ready
    tasks just wait for their turn: announcing them again would fill the broker. Once it is empty, whatever is still
    ready a moment later has been missed.
    """
    drained = {queue for queue in QUEUE_NAMES if queue_length(celery, queue) == 0}
    with session_scope(engine) as session:
        announce(session, *due_again(session))
        if drained:
            moment_ago = database_now(session) - timedelta(seconds=settings.janitor_seconds)
            announce(session, *(task for task in overlooked(session, moment_ago) if QUEUES[task.stage] in drained))


def _attempt(name: str, step: Callable[[], object]) -> bool:
    try:
        step()
    except Exception:  # the janitor outlives whatever is away: database, broker, disk
        log.exception("the janitor's %s failed and will be tried again", name)
        return False
    return True


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = get_settings()
    run(default_engine(), make_app(settings), BlobStore(settings.blobs_url), settings, stop)


if __name__ == "__main__":
    main()
