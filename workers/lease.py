"""Keeps a claim alive while its task is worked on, from a thread of its own: uploads may take long."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from state.claims import Claim, heartbeat
from state.database import session_scope
from state.errors import StaleToken

PROGRESS_SECONDS = 2.0
log = logging.getLogger(__name__)


class Lease:
    """A context in which heartbeats are sent.

    ``stop_asked`` is set when the job should not go on, ``lost`` when the task may be another worker's: then
    nothing may be written any more.
    """

    def __init__(self, engine: Engine, claim: Claim, lease_seconds: float, heartbeat_seconds: float) -> None:
        self.stop_asked, self.lost, self._over = threading.Event(), threading.Event(), threading.Event()
        self._engine, self._claim = engine, claim
        self._lease_seconds, self._heartbeat_seconds = lease_seconds, heartbeat_seconds
        self._progress: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.task_id}", daemon=True)

    def show(self, progress: dict[str, Any]) -> None:
        """Let the next heartbeat carry progress; it comes within about two seconds."""
        self._progress = progress

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._over.wait(min(PROGRESS_SECONDS, self._heartbeat_seconds)):
            now = time.monotonic()
            if self._progress is None and now - last < self._heartbeat_seconds:
                continue
            progress, self._progress = self._progress, None
            try:
                with session_scope(self._engine) as session:
                    verdict = heartbeat(session, self._claim.task_id, self._claim.token, self._lease_seconds, progress)
                last = now
                if verdict == "stop":
                    self.stop_asked.set()
            except StaleToken:
                self.lost.set()
                return
            except SQLAlchemyError as problem:
                log.warning("heartbeat of task %d failed: %s", self._claim.task_id, problem)
                if time.monotonic() - last > self._lease_seconds:  # others may have taken it by now
                    self.lost.set()
                    return
