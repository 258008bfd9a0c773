"""Runs one task: claim, inputs, child process, outputs, and every way in which that can end."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from distillation.stage_process import StageProcess
from state.blobs import BlobStore
from state.claims import Claim, claim_task, fail_task, finish_task, release_task
from state.database import session_scope
from state.errors import StaleToken
from state.remake import forget_bundle, remake_input
from state.settings import Settings
from workers.failures import failure_of, failure_of_exception
from workers.lease import Lease
from workers.narration import Narration
from workers.workspace import InputGone, Output, StageFailed, discard, prepare, store_output

log = logging.getLogger(__name__)
Outcome = Literal["done", "failed", "released", "lost", "not claimed"]


class Stopped(Exception):
    """The child was stopped on request, its work saved: the job was cancelled or the worker shuts down."""


def run_task(
    task_id: int, *, engine: Engine, blobs: BlobStore, settings: Settings, shutdown: threading.Event
) -> Outcome:
    """Work on a task if it is there to be worked on.

    Args:
        shutdown: set when the worker should stop; the task is then given back.
    """
    claim = _claim(task_id, engine, settings, shutdown)
    if claim is None:
        return "not claimed"
    log.info("task %d (%s %d of %s) claimed", task_id, claim.stage, claim.shard, claim.job_id)
    folder = settings.scratch / claim.key
    with Lease(engine, claim, settings.lease_seconds, settings.heartbeat_seconds) as lease:
        try:
            output = _work(claim, lease, engine, blobs, settings, shutdown)
        except StaleToken:
            return _lost(claim)
        except Stopped:
            return _record(engine, settings, claim, "released", lambda s: release_task(s, task_id, claim.token))
        except InputGone as gone:
            held, bundle = (task_id, claim.token), gone.bundle
            return _record(
                engine, settings, claim, "released", lambda s: remake_input(s, *held, bundle, settings.max_attempts)
            )
        except Exception as error:
            failure = failure_of_exception(claim.stage, error)
            log.warning("task %d failed: %s", task_id, failure.error, exc_info=failure is not error)
            return _record(engine, settings, claim, "failed", lambda s: _fail(s, claim, failure, settings))
        outcome = _record(engine, settings, claim, "done", lambda session: _finish(session, claim, output))
    if outcome == "done":
        discard(folder)
    return outcome


def _claim(task_id: int, engine: Engine, settings: Settings, shutdown: threading.Event) -> Claim | None:
    """Claim the task, or None: there is nothing to do, or the worker stops.

    A database that is away must not cost the message: its task would wait until the whole queue is empty.
    """
    owner = f"{socket.gethostname()}:{os.getpid()}"
    while not shutdown.is_set():
        try:
            with session_scope(engine) as session:
                return claim_task(session, task_id, owner, settings.lease_seconds)
        except OperationalError as error:
            log.warning("task %d: the database does not answer, trying again: %s", task_id, error)
            shutdown.wait(1)
    return None


def _work(
    claim: Claim, lease: Lease, engine: Engine, blobs: BlobStore, settings: Settings, shutdown: threading.Event
) -> Output:
    request_file = prepare(claim, blobs, settings)
    folder = request_file.parent
    if not (folder / "out" / "manifest.json").is_file():  # else an attempt ended between its work and its record
        _run_child(claim, request_file, Narration(engine, claim, lease, blobs, folder), lease, settings, shutdown)
    return store_output(claim, folder, blobs)


def _run_child(
    claim: Claim, request_file: Path, narration: Narration, lease: Lease, settings: Settings, shutdown: threading.Event
) -> None:
    """Run the stage to its end.

    Raises:
        Stopped: it was stopped on request.
        StaleToken: the task is another worker's.
        StageFailed: it failed.
    """
    child = StageProcess(request_file, settings.stage_entry)
    try:
        asked = False
        while child.exit_status() is None and not asked:
            if (line := child.line()) is not None:
                narration.read(line)
            if lease.lost.is_set():
                raise StaleToken(f"task {claim.task_id} was given to another worker")
            asked = lease.stop_asked.is_set() or shutdown.is_set()
        if asked:
            child.stop(settings.grace_seconds)
        status = child.exit_status()
    finally:
        child.close()
    for line in child.remaining_lines():
        narration.read(line)
    if status == 0 and narration.error is None:
        return
    if asked:
        raise Stopped
    raise failure_of(claim.stage, child.exit_status() or 0, narration.error, child.stderr_tail)


def _finish(session: Session, claim: Claim, output: Output) -> None:
    finish_task(
        session,
        claim.task_id,
        claim.token,
        bundle=output.bundle,
        files=output.files,
        summary=output.summary,
        seconds=output.seconds,
        report=output.report,
    )


def _fail(session: Session, claim: Claim, failure: StageFailed, settings: Settings) -> None:
    fail_task(
        session,
        claim.task_id,
        claim.token,
        failure.error,
        retryable=failure.retryable,
        max_attempts=settings.max_attempts,
        retry_seconds=settings.retry_seconds,
    )
    if failure.gone:  # whatever makes it again must not take this one over
        forget_bundle(session, failure.gone)


def _record(
    engine: Engine, settings: Settings, claim: Claim, outcome: Outcome, write: Callable[[Session], None]
) -> Outcome:
    """Write how the task ended; a database that is away for a moment must not cost the work."""
    deadline = time.monotonic() + settings.lease_seconds
    while True:
        try:
            with session_scope(engine) as session:
                write(session)
            log.info("task %d: %s", claim.task_id, outcome)
            return outcome
        except StaleToken:
            return _lost(claim)
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise
            log.warning("task %d: the database does not answer, trying again: %s", claim.task_id, error)
            time.sleep(1)


def _lost(claim: Claim) -> Outcome:
    log.warning("task %d was taken over by another worker; nothing was written", claim.task_id)
    return "lost"
