"""Download a file so that it can be cut off anywhere: Range requests, and the sha256 checked before it is called done.

The bytes so far lie in `NAME.<first digits of the sha256>.part`; the next try, in this run or another, goes on there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Protocol

import httpx

from stillroom.errors import BadInput, Corrupted, Unreachable, error_of
from stillroom.schemas import File

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each new try; the count starts again whenever bytes have come."""


class Opener(Protocol):
    """Starts a GET of the file with these headers; the response's body is not yet read."""

    def __call__(self, headers: dict[str, str]) -> httpx.Response: ...


def download_file(
    open_file: Opener, file: File, folder: Path, on_bytes: Callable[[int], None] = lambda size: None
) -> Path:
    """Bring one file into `folder`, resuming what an earlier try left there.

    Args:
        on_bytes: told the size of the file on disk as it grows, in bytes.

    Raises:
        Corrupted: the whole file came, twice, with another sha256.
        Unreachable: the connection broke and did not come back.
    """
    target = folder / safe_name(file["name"])
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and target.stat().st_size == file["size"] and sha256_of(target) == file["sha256"]:
        on_bytes(file["size"])
        return target
    part = target.with_name(f"{target.name}.{file['sha256'][:12]}.part")
    resumed = part.exists()
    while True:
        _fetch(open_file, file, part, on_bytes)
        actual = sha256_of(part)
        if actual == file["sha256"]:
            part.replace(target)
            return target
        part.unlink()
        if not resumed:
            raise Corrupted(file["name"], file["sha256"], actual)
        resumed = False  # what an earlier run left may be to blame: once more from the first byte


def _fetch(open_file: Opener, file: File, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Let `part` grow to the file's size, over as many connections as it takes."""
    tries = 0
    while True:
        have = part.stat().st_size if part.exists() else 0
        if have > file["size"]:
            part.unlink()
            have = 0
        if have == file["size"] and part.exists():
            return
        try:
            _receive(open_file, file, part, have, on_bytes)
            reason = "the connection closed early"
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        now = part.stat().st_size if part.exists() else 0
        if now == file["size"] and part.exists():
            return
        tries = 0 if now > have else tries + 1
        if tries >= len(PAUSES):
            raise Unreachable(
                file["name"], f"{reason}, {now} of {file['size']} bytes are kept; run the download again to go on"
            )
        time.sleep(PAUSES[tries])


def _receive(open_file: Opener, file: File, part: Path, have: int, on_bytes: Callable[[int], None]) -> None:
    """One connection: ask for the rest, write what comes."""
    headers = {"Accept-Encoding": "identity"}
    if have:
        # No If-Range: an object store behind a redirect has ETags of its own. The sha256 at the end decides anyway.
        headers["Range"] = f"bytes={have}-"
    response = open_file(headers)
    try:
        if response.status_code == 416:  # what is here does not fit the file there
            part.unlink(missing_ok=True)
            return
        if response.status_code >= 500:
            raise httpx.RemoteProtocolError(f"HTTP status {response.status_code}")
        if response.status_code not in (200, 206):
            response.read()
            raise error_of(response)
        goes_on = response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {have}-")
        if response.status_code == 206 and not goes_on:
            raise httpx.RemoteProtocolError("the answer is not the range that was asked for")
        size = have if goes_on else 0
        with part.open("ab" if goes_on else "wb") as out:
            for chunk in response.iter_raw():
                out.write(chunk)
                size += len(chunk)
                if size > file["size"]:
                    raise Corrupted(file["name"], file["sha256"], f"unknown, of more than {file['size']} bytes")
                on_bytes(size)
    except Corrupted:
        part.unlink(missing_ok=True)
        raise
    finally:
        response.close()


def safe_name(name: str) -> Path:
    """A file's name as a relative path that stays inside the folder.

    Raises:
        BadInput: it would not; the service is wrong, or somebody between is lying.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise BadInput(f"the service gave {name!r} as a file's name, which could leave the folder; nothing was written")
    return Path(*path.parts)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
