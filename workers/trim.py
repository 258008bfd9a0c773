"""Removes working folders, cached inputs and what is left of uploads that nobody has used for days; each worker sees to
its own machine."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from sqlalchemy import Engine, select

from state.database import read_scope
from state.settings import Settings
from state.tables import TERMINAL, Job, Task

HOUR = 3600.0
DAY = 24 * HOUR
log = logging.getLogger(__name__)
_last = float("-inf")


def trim_if_due(engine: Engine, settings: Settings) -> None:
    """``trim``, at most once an hour in this process."""
    global _last
    if time.monotonic() - _last > HOUR:
        _last = time.monotonic()
        trim(engine, settings)


def trim(engine: Engine, settings: Settings) -> int:
    """Remove old folders that no unfinished job could need; returns how many. All of them can be made again."""
    with read_scope(engine) as session:
        query = select(Task.key, Task.bundle).join(Job, Job.id == Task.job_id).where(Job.status.not_in(TERMINAL))
        needed = {name for row in session.execute(query) for name in row if name}
    before = time.time() - settings.scratch_days * DAY
    old = [folder for root in (settings.scratch, settings.cache, settings.uploads) for folder in _older(root, before)]
    unused = [folder for folder in old if folder.name not in needed]
    for folder in unused:
        log.info("removing %s, unused for %g days", folder, settings.scratch_days)
        shutil.rmtree(folder, ignore_errors=True)
    return len(unused)


def _older(root: Path, before: float) -> list[Path]:
    return [folder for folder in root.iterdir() if folder.stat().st_mtime < before] if root.is_dir() else []
