from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import httpx
import pytest
import s3fs
from sqlalchemy import Engine

from state.blobs import YOUNG_SECONDS, BlobStore
from state.database import database_now, make_engine, session_scope
from state.garbage import sweep
from state.tables import Dataset


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """A store in a folder, and one in a bucket."""
    return BlobStore(str(tmp_path / "blobs") if request.param == "folder" else request.getfixturevalue("s3_url"))


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
    assert store.presigned_url(path.name, 60, "attachment", "text/plain") is None
    assert store.local_path("0" * 64) is None


def test_a_damaged_transfer_is_noticed(s3_url: str, folder: Path, tmp_path: Path) -> None:
    store = BlobStore(s3_url)
    sha = store.put_bundle(folder, ["pixels.npy"])
    blob = hashlib.sha256(b"pixels").hexdigest()
    s3fs.S3FileSystem().pipe_file(f"{s3_url}/{blob[:2]}/{blob}", b"pixelz")
    with pytest.raises(OSError, match="damaged"):
        store.fetch_bundle(sha, tmp_path / "out")


def test_a_client_reads_from_object_storage_by_itself(s3_url: str, folder: Path) -> None:
    store = BlobStore(s3_url)
    sha = store.put_file(folder / "pixels.npy")
    url = store.presigned_url(sha, 60, 'attachment; filename="pixels.npy"', "application/x-numpy")
    assert url and "Expires" in url
    answer = httpx.get(url, headers={"Range": "bytes=3-"})
    assert answer.content == b"els" and answer.headers["content-type"] == "application/x-numpy"
    assert answer.headers["content-disposition"] == 'attachment; filename="pixels.npy"'
    assert store.local_path(sha) is None


def test_the_sweep_takes_only_old_blobs_that_nothing_refers_to(
    sqlite_url: str, store: BlobStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(sqlite_url)
    assert sweep(engine, store) == 0, "nothing was ever put"
    kept = store.put_bundle(folder, ["pixels.npy"])
    loose = store.put_file(folder / "scrap.tmp")
    young = store.put_file(folder / "samples" / "0.jpg")
    _keep(engine, kept)
    assert sweep(engine, store) == 0
    monkeypatch.setattr(store, "put_at", lambda sha: time.time() if sha == young else 0.0)
    assert sweep(engine, store) == 1
    assert not store.exists(loose) and store.exists(young)
    assert store.exists(kept) and store.exists(hashlib.sha256(b"pixels").hexdigest())
    engine.dispose()


def test_it_is_known_when_a_blob_was_put(store: BlobStore, folder: Path) -> None:
    put_at = store.put_at(store.put_file(folder / "scrap.tmp"))
    assert put_at is not None and abs(put_at - time.time()) < 60
    assert store.put_at("0" * 64) is None


def test_what_is_put_again_is_young_again(tmp_path: Path, folder: Path) -> None:
    store = BlobStore(str(tmp_path / "blobs"))
    os.utime(folder / "scrap.tmp", (0, 0))
    for _ in range(2):
        sha = store.put_file(folder / "scrap.tmp")
        assert (store.put_at(sha) or 0) > time.time() - YOUNG_SECONDS
        os.utime(store.local_path(sha) or "", (0, 0))


def test_an_old_object_is_uploaded_again(s3_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(s3_url)
    sha = store.put_file(folder / "scrap.tmp")
    path = f"{s3_url}/{sha[:2]}/{sha}"
    s3fs.S3FileSystem().pipe_file(path, b"crap!")
    store.put_file(folder / "scrap.tmp")
    assert s3fs.S3FileSystem().cat_file(path) == b"crap!", "it is there and young: nothing is sent"
    monkeypatch.setattr(store, "put_at", lambda _sha: time.time() - YOUNG_SECONDS - 1)
    store.put_file(folder / "scrap.tmp")
    assert s3fs.S3FileSystem().cat_file(path) == b"scrap"


def _keep(engine: Engine, bundle: str) -> None:
    with session_scope(engine) as session:
        row = Dataset(id="ds_1", name="photos", images=1, classes=[], rejected=[], bundle=bundle, size=6)
        row.created_at = database_now(session)
        session.add(row)
