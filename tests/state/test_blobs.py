from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from sqlalchemy import Engine

from state.blobs import BlobStore
from state.database import database_now, make_engine, session_scope
from state.garbage import sweep
from state.tables import Dataset


@pytest.fixture(params=["folder", "object storage"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    """A store in a folder, and one behind fsspec's general interface."""
    if request.param == "folder":
        yield BlobStore(str(tmp_path / "blobs"))
        return
    yield BlobStore("memory://blobs")
    fsspec.filesystem("memory").rm("/blobs", recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "samples").mkdir(parents=True)
    (made / "pixels.npy").write_bytes(b"pixels")
    (made / "samples" / "0.jpg").write_bytes(b"jpeg")
    (made / "scrap.tmp").write_bytes(b"scrap")
    return made


def test_a_file_goes_in_and_out(store: BlobStore, folder: Path) -> None:
    sha = store.put_file(folder / "pixels.npy")
    assert sha == hashlib.sha256(b"pixels").hexdigest() == store.put_file(folder / "pixels.npy")
    assert store.size(sha) == 6 and store.exists(sha)
    with store.open(sha) as file:
        file.seek(3)
        assert file.read() == b"els"


def test_a_bundle_goes_in_and_out(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    sha = store.put_bundle(folder, ["samples/0.jpg", "pixels.npy"])
    assert store.bundle(sha)["samples/0.jpg"] == {"sha256": hashlib.sha256(b"jpeg").hexdigest(), "size": 4}
    out = store.fetch_bundle(sha, tmp_path / "cache" / sha)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == [
        "pixels.npy",
        "samples",
        "samples/0.jpg",
    ]
    assert store.fetch_bundle(sha, out) == out
    assert [path.name for path in out.parent.iterdir()] == [sha]


def test_what_is_missing_is_said_and_leaves_nothing(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    sha = store.put_bundle(folder)
    store.delete(hashlib.sha256(b"jpeg").hexdigest())
    with pytest.raises(FileNotFoundError):
        store.fetch_bundle(sha, tmp_path / "cache" / sha)
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(FileNotFoundError):
        store.open("0" * 64)
    with pytest.raises(FileNotFoundError):
        store.open("../../../../etc/passwd")


def test_a_bundle_cannot_write_outside_its_folder(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    blob = store.put_file(folder / "pixels.npy")
    sha = store.put_bytes(f'{{"../escaped": {{"sha256": "{blob}", "size": 6}}}}'.encode())
    with pytest.raises(OSError, match="outside"):
        store.fetch_bundle(sha, tmp_path / "cache" / sha)
    assert not (tmp_path / "cache" / "escaped").exists() and not (tmp_path / "escaped").exists()


def test_local_blobs_are_links_and_read_only(tmp_path: Path, folder: Path) -> None:
    store = BlobStore(str(tmp_path / "blobs"))
    path = store.local_path(store.put_file(folder / "pixels.npy"))
    assert path and path.samefile(folder / "pixels.npy")
    assert path.stat().st_mode & 0o222 == 0
    assert store.presigned_url(path.name, 60) is None
    assert store.local_path("0" * 64) is None


def test_a_damaged_transfer_is_noticed(folder: Path, tmp_path: Path) -> None:
    store = BlobStore("memory://damaged")
    sha = store.put_bundle(folder, ["pixels.npy"])
    memory = fsspec.filesystem("memory")
    blob = hashlib.sha256(b"pixels").hexdigest()
    memory.pipe_file(f"/damaged/{blob[:2]}/{blob}", b"pixelz")
    with pytest.raises(OSError, match="damaged"):
        store.fetch_bundle(sha, tmp_path / "out")
    memory.rm("/damaged", recursive=True)


def test_the_sweep_takes_only_old_blobs_that_nothing_refers_to(sqlite_url: str, blobs: BlobStore, folder: Path) -> None:
    engine = make_engine(sqlite_url)
    kept = blobs.put_bundle(folder, ["pixels.npy"])
    loose = blobs.put_file(folder / "scrap.tmp")
    young = blobs.put_file(folder / "samples" / "0.jpg")
    _keep(engine, kept)
    assert sweep(engine, blobs) == 0
    for sha in (kept, loose, hashlib.sha256(b"pixels").hexdigest()):
        path = blobs.local_path(sha)
        assert path
        os.utime(path, (0, 0))
    assert sweep(engine, blobs) == 1
    assert not blobs.exists(loose) and blobs.exists(young)
    assert blobs.exists(kept) and blobs.exists(hashlib.sha256(b"pixels").hexdigest())
    os.utime(folder / "scrap.tmp", (0, 0))
    again = blobs.local_path(blobs.put_file(folder / "scrap.tmp"))
    assert again and again.stat().st_mtime > 0  # what is put again counts as young
    engine.dispose()


def _keep(engine: Engine, bundle: str) -> None:
    with session_scope(engine) as session:
        row = Dataset(id="ds_1", name="photos", images=1, classes=[], rejected=[], bundle=bundle, size=6)
        row.created_at = database_now(session)
        session.add(row)
