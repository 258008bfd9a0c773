"""A stage's lines become events, checkpoints and progress; anything may come, nothing stops the supervisor."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from state.blobs import BlobStore
from state.claims import Claim, record_checkpoint
from state.database import session_scope
from state.events import add_event
from state.tables import Level
from workers.lease import Lease
from workers.workspace import store_checkpoint

log = logging.getLogger(__name__)
LOG_EVENTS = 100
MESSAGE_CHARACTERS = 2000
PROGRESS_FIELDS = ("done", "total", "unit", "rate", "metrics")


class Narration:
    """Reads one child's lines. ``error`` is the error event it sent, if any."""

    def __init__(self, engine: Engine, claim: Claim, lease: Lease, blobs: BlobStore, folder: Path) -> None:
        self.error: dict[str, Any] | None = None
        self._engine, self._claim, self._lease, self._blobs, self._folder = engine, claim, lease, blobs, folder
        self._began = time.monotonic()
        self._last_progress = float("-inf")
        self._logged = 0

    def read(self, line: str) -> None:
        """Take one line of the child's standard output.

        Raises:
            StaleToken: a checkpoint came from a task that is another worker's by now.
        """
        match parse(line):
            case {"event": "progress", "done": int() | float(), "total": int() | float()} as event:
                self._progress({name: event[name] for name in PROGRESS_FIELDS if name in event})
            case {"event": "checkpoint", "step": int(step), "path": str(path)} as event:
                self._checkpoint(step, path, event.get("metrics") or {})
            case {"event": "warning", "code": str(code), "message": str(message)}:
                self._tell("warning", message, "warning", {"code": code})
            case {"event": "error", "code": str(), "message": str()} as event:
                self.error = self.error or event  # of several processes the first to fail knows why
            case {"event": "done"}:
                pass  # the manifest says it all
            case _:
                self._log(line)

    def _progress(self, progress: dict[str, Any]) -> None:
        self._lease.show(progress)
        now = time.monotonic()
        # About a hundred events for each e-fold of the running time: an hour makes some 500, a day 800.
        interval = max(1.0, (now - self._began) / 100)
        if now - self._last_progress >= interval or progress["done"] >= progress["total"]:
            self._last_progress = now
            text = f"Stage {self._claim.stage}: {progress['done']} of {progress['total']} {progress.get('unit', '')}"
            self._tell("progress", text.rstrip(), "info", {**progress, "shard": self._claim.shard})

    def _checkpoint(self, step: int, path: str, metrics: dict[str, Any]) -> None:
        try:
            bundle = store_checkpoint(self._folder, path, self._blobs)
            with session_scope(self._engine) as session:
                held = (self._claim.task_id, self._claim.token)
                record_checkpoint(session, *held, step=step, path=path, metrics=metrics, bundle=bundle)
        except (OSError, SQLAlchemyError) as error:  # the stage can go on; only a fresh start would miss it
            log.warning("checkpoint %s of task %d was not stored: %s", path, self._claim.task_id, error)
            self._tell("warning", f"A checkpoint was not stored: {error}", "warning", {"code": "checkpoint_not_stored"})

    def _log(self, line: str) -> None:
        self._logged += 1
        if line.strip() and self._logged <= LOG_EVENTS:
            self._tell("log", line, "info", {"shard": self._claim.shard})

    def _tell(self, type: str, message: str, level: Level, data: dict[str, Any]) -> None:
        try:
            with session_scope(self._engine) as session:
                add_event(
                    session, self._claim.job_id, type, message[:MESSAGE_CHARACTERS], level, self._claim.stage, data
                )
        except SQLAlchemyError as error:  # events are for people; the work does not depend on them
            log.warning("an event of task %d was not written: %s", self._claim.task_id, error)


def parse(line: str) -> Any:
    """The line's JSON, without NaN, which PostgreSQL refuses; None if it is none."""
    try:
        return json.loads(line, parse_constant=lambda _: None)
    except ValueError:
        return None
