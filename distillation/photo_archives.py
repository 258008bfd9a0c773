"""Photos in a folder per class: as a directory tree, or as a zip that is read in place and never extracted."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from distillation.errors import DatasetError
from distillation.photo_files import MAX_FILE_BYTES, Photo, PhotoSource

MAX_ENTRIES = 1_000_000
MAX_DIRECTORY_BYTES = 100 * 2**20
MAX_RATIO = 50
SIDECARS = frozenset({".txt", ".md", ".tsv", ".csv", ".json", ".jsonl", ".xml", ".html", ".yaml", ".yml", ".pdf"})


def unique_classes(names: list[str]) -> tuple[list[str], list[int]]:
    """Merge names that differ only in case: the distinct names in order, and each name's index among them."""
    first: dict[str, int] = {}
    classes: list[str] = []
    for name in names:
        if first.setdefault(name.casefold(), len(classes)) == len(classes):
            classes.append(name)
    return classes, [first[name.casefold()] for name in names]


def is_photo_name(path: PurePosixPath) -> bool:
    """False for hidden files, macOS leftovers and text beside the photos."""
    hidden = any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() not in SIDECARS


def class_of(path: PurePosixPath) -> str:
    """The name of the folder a photo lies in, made printable; empty at the top level."""
    name = "".join(c for c in path.parent.name if c.isprintable()).strip()
    return name[:120] if name not in (".", "..") else ""


def _labels(paths: list[PurePosixPath]) -> tuple[list[str], list[int]]:
    names = [class_of(path) for path in paths]
    classes, _ = unique_classes(sorted({name for name in names if name}))
    index = {name.casefold(): i for i, name in enumerate(classes)}
    return classes, [index[name.casefold()] if name else -1 for name in names]


def folder_source(folder: Path) -> PhotoSource:
    """Photos of a directory tree, sorted by path. Directory links are not followed."""
    paths = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        for name in files:
            path = PurePosixPath(Path(parent, name).relative_to(folder).as_posix())
            if is_photo_name(path):
                paths.append(path)
    paths.sort()
    classes, labels = _labels(paths)

    def photos() -> Iterator[Photo]:
        for path, label in zip(paths, labels, strict=True):
            try:
                with (folder / path).open("rb") as file:
                    size = os.fstat(file.fileno()).st_size  # Python sets aside as much as is asked for
                    yield Photo(str(path), label, file.read(min(size, MAX_FILE_BYTES) + 1))
            except OSError as error:
                yield Photo(str(path), label, b"", f"cannot be read: {error.strerror}")

    return PhotoSource(classes, photos)


def _directory_bytes(path: Path) -> int:
    """Size of the zip's table of contents, read before ``zipfile`` loads all of it into memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65_557 - 76))
        tail = file.read()
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or end + 20 > len(tail):
            return 0  # zipfile says what is wrong
        directory: int = struct.unpack_from("<L", tail, end + 12)[0]
        if tail[max(0, end - 20) : end].startswith(b"PK\x06\x07"):
            file.seek(min(struct.unpack_from("<Q", tail, end - 12)[0], size))
            record = file.read(56)
            if len(record) == 56:
                directory = max(struct.unpack_from("<Q", record, 40)[0], 0 if directory == 0xFFFFFFFF else directory)
    return directory


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip after checking its counts and declared sizes.

    Raises:
        DatasetError: not a zip, too many entries, or it unpacks to far more than photos can.
    """
    hint = "make a plain zip (no password) with a folder per class, or with parquet files and classes.tsv"
    if _directory_bytes(path) > MAX_DIRECTORY_BYTES:
        raise DatasetError("the zip lists too many files", hint)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise DatasetError(f"the zip cannot be read: {error}", hint) from error
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    problem = ""
    if len(members) > MAX_ENTRIES:
        problem = f"the zip holds {len(members)} files; at most {MAX_ENTRIES} are allowed"
    elif total > MAX_RATIO * path.stat().st_size + 2**20:
        problem = f"the zip unpacks to {total} bytes, more than {MAX_RATIO} times its own size"
    if problem:
        archive.close()
        raise DatasetError(problem, hint)
    return archive


def files_of(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """All members but folders. ``ZipInfo.is_dir`` fails on an empty name, which a stranger's zip may hold."""
    return [member for member in archive.infolist() if not member.filename.endswith(("/", "\\"))]


def member_path(member: zipfile.ZipInfo) -> PurePosixPath:
    """A member's path, for labels and messages only: nothing is ever written under it."""
    return PurePosixPath(member.filename.replace("\\", "/"))


def member_problem(member: zipfile.ZipInfo, max_bytes: int) -> str:
    """Why a member must not be read, or an empty string."""
    path = member_path(member)
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "a link or a special file"
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return "its name leads out of the archive"
    if member.flag_bits & 0x1:
        return "encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed by a method other than deflate"
    if member.file_size > max_bytes:
        return f"larger than {max_bytes // 2**20} MiB"
    if member.file_size > 2**16 and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        return f"compressed more than {MAX_RATIO} times"
    return ""


def zip_source(archive: zipfile.ZipFile) -> PhotoSource:
    """Photos of a zip, sorted by name, each read into memory alone. The caller closes the archive."""
    members = [m for m in files_of(archive) if is_photo_name(member_path(m))]
    members.sort(key=lambda m: m.filename)
    safe = [member_path(m) if not member_problem(m, MAX_FILE_BYTES) else PurePosixPath("x") for m in members]
    classes, labels = _labels(safe)

    def photos() -> Iterator[Photo]:
        for member, label in zip(members, labels, strict=True):
            name = "".join(c for c in member.filename if c.isprintable())[:300]
            reason = member_problem(member, MAX_FILE_BYTES)
            content = b""
            if not reason:
                try:
                    with archive.open(member) as file:
                        content = file.read(MAX_FILE_BYTES + 1)
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
                    reason = f"cannot be unpacked: {error}"
            yield Photo(name, label, content, reason)

    return PhotoSource(classes, photos)
