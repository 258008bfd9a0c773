"""Removes blobs that no row refers to: of checkpoints let go, deleted jobs and datasets, uploads cut short."""

from __future__ import annotations

import time
from contextlib import suppress

from sqlalchemy import Engine, select

from state.blobs import YOUNG_SECONDS, BlobStore
from state.database import read_scope
from state.tables import Checkpoint, Dataset, EncoderFile, Generator, Result, Task

MIN_AGE_SECONDS = 2 * YOUNG_SECONDS
"""Younger blobs stay: their row may be about to be written. What is put again is made young, if it is not."""


def sweep(engine: Engine, blobs: BlobStore, min_age_seconds: float = MIN_AGE_SECONDS) -> int:
    """Delete old unreferenced blobs; returns how many."""
    unused = set(blobs.stored())
    if unused:
        unused -= _referenced(engine, blobs)
    before = time.time() - min_age_seconds
    deleted = 0
    for sha in sorted(unused):
        # Its age last of all: one that was put again meanwhile is young.
        if (put_at := blobs.put_at(sha)) is not None and put_at < before:
            blobs.delete(sha)
            deleted += 1
    return deleted


def _referenced(engine: Engine, blobs: BlobStore) -> set[str]:
    with read_scope(engine) as session:
        columns = (Result.bundle, Task.bundle, Checkpoint.bundle, Dataset.bundle, Generator.bundle)
        bundles = {sha for column in columns for sha in session.scalars(select(column).distinct()) if sha}
        used = bundles | set(session.scalars(select(EncoderFile.sha256).distinct()))
        # Most bundles are results', whose content the database has: no request to the store.
        for bundle, files in session.execute(select(Result.bundle, Result.files)).yield_per(1000):
            used.update(entry["sha256"] for entry in files.values())
            bundles.discard(bundle)
    for sha in bundles:
        with suppress(FileNotFoundError):
            used.update(entry["sha256"] for entry in blobs.bundle(sha).values())
    return used
