"""Removes blobs that no row refers to: of pruned checkpoints, deleted datasets and generators, uploads cut short."""

from __future__ import annotations

import time

from sqlalchemy import Engine, select

from state.blobs import BlobStore
from state.database import read_scope
from state.tables import Checkpoint, Dataset, EncoderFile, Generator, Result, Task

MIN_AGE_SECONDS = 24 * 3600.0
"""Younger blobs stay: their row may be about to be written."""


def sweep(engine: Engine, blobs: BlobStore, min_age_seconds: float = MIN_AGE_SECONDS) -> int:
    """Delete unreferenced blobs of a local store; returns how many.

    Object storage is left alone: there, putting a blob that exists does not make it young again, so a sweep could
    take it away from a row that is about to be written.
    """
    if not blobs.is_local:
        return 0
    before = time.time() - min_age_seconds
    old = {sha for sha, put_at in blobs.local_blobs() if put_at < before}
    if not old:
        return 0
    unused = old - _referenced(engine, blobs)
    for sha in unused:
        blobs.delete(sha)
    return len(unused)


def _referenced(engine: Engine, blobs: BlobStore) -> set[str]:
    with read_scope(engine) as session:
        columns = (Result.bundle, Task.bundle, Checkpoint.bundle, Dataset.bundle, Generator.bundle)
        bundles = {sha for column in columns for sha in session.scalars(select(column).distinct()) if sha}
        files = set(session.scalars(select(EncoderFile.sha256).distinct()))
    for sha in bundles:
        if blobs.exists(sha):
            files.update(entry["sha256"] for entry in blobs.bundle(sha).values())
    return files | bundles
