"""What the sweep gives back: files of checkpoints that nobody goes on from, and of jobs that were deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from state.blobs import BlobStore
from state.claims import claim_task, finish_task, record_checkpoint
from state.database import read_scope, session_scope
from state.garbage import sweep
from state.jobs import job_tasks
from state.tables import Checkpoint
from tests.state.examples import new_job


@pytest.fixture
def weights(blobs: BlobStore, tmp_path: Path) -> list[str]:
    """The bundles of three checkpoints."""
    for step in range(3):
        (tmp_path / str(step)).mkdir()
        (tmp_path / str(step) / "weights").write_text(f"weights {step}")
    return [blobs.put_bundle(tmp_path / str(step)) for step in range(3)]


def test_checkpoints_go_with_newer_ones_and_with_the_output(
    database: Engine, blobs: BlobStore, weights: list[str]
) -> None:
    with session_scope(database) as session:
        [task, *_] = job_tasks(session, new_job(session).id)
        claim = claim_task(session, task.id, "me", 60)
        assert claim
        for step, bundle in enumerate(weights):
            record_checkpoint(session, task.id, claim.token, step=step, path=f"c{step}", metrics={}, bundle=bundle)
    assert _files_after_sweep(database, blobs) == {"weights 1", "weights 2"}
    with session_scope(database) as session:
        finish_task(session, task.id, claim.token, bundle="c" * 64, files={}, summary={}, seconds=1)
    assert _files_after_sweep(database, blobs) == set()
    with read_scope(database) as session:
        assert session.scalars(select(Checkpoint.step)).all() == [0, 1, 2], "what they measured stays"


def test_a_file_that_is_put_again_during_a_sweep_stays(
    database: Engine, blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As photos are whose dataset was deleted, and that are uploaded again while a large store is swept."""
    contents = {blobs.put_bytes(content): content for content in (b"one", b"two")}
    for sha in contents:
        path = blobs.local_path(sha)
        assert path
        os.utime(path, (0, 0))
    first, second = sorted(contents)
    delete = blobs.delete

    def delete_slowly(sha: str) -> None:
        delete(sha)
        blobs.put_bytes(contents[second])

    monkeypatch.setattr(blobs, "delete", delete_slowly)
    assert sweep(database, blobs) == 1
    assert (blobs.exists(first), blobs.exists(second)) == (False, True)


def _files_after_sweep(engine: Engine, blobs: BlobStore) -> set[str]:
    sweep(engine, blobs, min_age_seconds=-60)
    contents = set()
    for sha in blobs.stored():
        with blobs.open(sha) as file:
            contents.add(file.read().decode())
    return {content for content in contents if content.startswith("weights")}
