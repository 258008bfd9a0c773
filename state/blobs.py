"""The blob store: files named by their sha256, in a folder or on object storage (any fsspec URL).

A *bundle* is a folder's content: a JSON blob ``{name: {"sha256", "size"}}``. In a local store, blobs are hard links
to the files put in and taken out, so nothing is copied; they are read-only, and whoever holds a link must not write.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

Bundle = dict[str, dict[str, Any]]
READ_ONLY = 0o444
YOUNG_SECONDS = 12 * 3600.0
"""An object put longer ago is uploaded again when it is put again: the sweep of unused blobs goes by age."""


class BlobStore:
    """A content-addressed store at an fsspec URL; credentials come from the file system's own environment."""

    def __init__(self, url: str) -> None:
        # Other processes put and delete too: a listing that was kept would tell what is past.
        self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.is_local = isinstance(self._fs, LocalFileSystem)
        self._is_s3 = "s3" in self._fs.protocol

    def put_file(self, path: Path) -> str:
        """Store a file and return its sha256. Locally the file itself becomes the blob and read-only."""
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._path(sha)
        if self.is_local:
            self._link_in(path, Path(target))
        elif not self._is_young(sha) or self._fs.size(target) != path.stat().st_size:
            self._fs.put_file(str(path), target)
        return sha

    def put_bytes(self, content: bytes) -> str:
        """Store a small content and return its sha256."""
        with tempfile.TemporaryDirectory(prefix="stillroom-") as folder:
            path = Path(folder) / "content"
            path.write_bytes(content)
            return self.put_file(path)

    def put_bundle(self, folder: Path, names: Iterable[str] | None = None) -> str:
        """Store files of a folder (default: all) and return the bundle's sha256."""
        if names is None:
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        bundle = {n: {"sha256": self.put_file(folder / n), "size": (folder / n).stat().st_size} for n in sorted(names)}
        return self.put_bytes(json.dumps(bundle, sort_keys=True).encode())

    def bundle(self, sha: str) -> Bundle:
        """A bundle's content: name -> sha256 and size.

        Raises:
            FileNotFoundError: the store does not hold it.
        """
        with self.open(sha) as file:
            return cast(Bundle, json.load(file))

    def fetch_bundle(self, sha: str, folder: Path) -> Path:
        """Make ``folder`` hold a bundle's files, unless it is there already; it appears whole or not at all.

        Raises:
            FileNotFoundError: the store lacks a file of it.
            OSError: a file arrived damaged.
        """
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".fresh-", dir=folder.parent))
        try:
            for name, entry in self.bundle(sha).items():
                target = fresh / name
                if not target.resolve().is_relative_to(fresh.resolve()):
                    raise OSError(f"bundle {sha} names a file outside its folder: {name!r}")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(entry["sha256"], target)
            fresh.chmod(0o755)
            fresh.rename(folder)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            if not folder.is_dir():  # else another process was faster
                raise
        return folder

    def open(self, sha: str) -> BinaryIO:
        """A blob for reading; seekable.

        Raises:
            FileNotFoundError: the store does not hold it.
        """
        return cast(BinaryIO, self._fs.open(self._path(sha), "rb"))

    def local_path(self, sha: str) -> Path | None:
        """The blob's file, if the store is a folder on this machine and holds it."""
        path = Path(self._path(sha))
        return path if self.is_local and path.is_file() else None

    def size(self, sha: str) -> int:
        """Size in bytes.

        Raises:
            FileNotFoundError: the store does not hold it.
        """
        return int(self._fs.size(self._path(sha)))

    def exists(self, sha: str) -> bool:
        """Whether the store holds a blob; unlike fsspec's, it raises if the store does not answer."""
        try:
            self.size(sha)
        except FileNotFoundError:
            return False
        return True

    def presigned_url(self, sha: str, seconds: int, disposition: str, content_type: str) -> str | None:
        """A URL at which a client can GET the blob for a while, where the store can make one.

        Args:
            disposition, content_type: headers of its answer, where the store lets a URL ask for them (S3).
        """
        if self.is_local:
            return None
        asked = {"ResponseContentDisposition": disposition, "ResponseContentType": content_type}
        try:
            return str(self._fs.sign(self._path(sha), expiration=seconds, **(asked if self._is_s3 else {})))
        except NotImplementedError:
            return None

    def stored(self) -> Iterator[str]:
        """Every blob's sha256."""
        names = (path.rpartition("/")[2] for path in self._fs.find(self._root))
        return filter(self._is_sha, names)

    def put_at(self, sha: str) -> float | None:
        """When a blob was last put, in seconds since the epoch, or None: it is not there."""
        try:
            modified: datetime = self._fs.modified(self._path(sha))
        except FileNotFoundError:
            return None
        return modified.timestamp()

    def delete(self, sha: str) -> None:
        """Remove a blob; nothing happens if it is not there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(sha))

    def _is_young(self, sha: str) -> bool:
        put_at = self.put_at(sha)
        return put_at is not None and time.time() - put_at < YOUNG_SECONDS

    @staticmethod
    def _is_sha(name: str) -> bool:
        return len(name) == 64 and set(name) <= set("0123456789abcdef")

    def _path(self, sha: str) -> str:
        if not self._is_sha(sha):
            raise FileNotFoundError(f"{sha!r} is not the sha256 of a blob")
        return f"{self._root}/{sha[:2]}/{sha}"

    def _link_in(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.stat().st_size == path.stat().st_size:
            os.utime(target)  # it is in use again: the sweep of unused blobs goes by age
            return
        fresh = target.with_name(f".{target.name}-{os.getpid()}-{time.monotonic_ns()}")
        try:
            _link_or_copy(path, fresh)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.chmod(READ_ONLY)
            os.utime(fresh)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)

    def _fetch(self, sha: str, target: Path) -> None:
        source = self._path(sha)
        if self.is_local:
            _link_or_copy(Path(source), target)
            return
        self._fs.get_file(source, str(target))
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha:
                raise OSError(f"blob {sha} arrived damaged from the store")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
