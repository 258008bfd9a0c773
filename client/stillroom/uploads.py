"""What `datasets add` sends: a zip or parquet file as it is, with the `classes.tsv` beside it; a folder as a zip."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from stillroom.errors import BadInput

CONTENT_TYPES = {".zip": "application/zip", ".parquet": "application/vnd.apache.parquet"}
CLASSES_FILE = "classes.tsv"


@contextmanager
def packed(source: Path) -> Iterator[Path]:
    """`source` as one file; a folder becomes a temporary zip.

    Raises:
        BadInput: it is not there, or of a kind the service does not read.
    """
    if source.is_dir():
        with tempfile.TemporaryDirectory(prefix="stillroom-") as scratch:
            archive = Path(scratch) / f"{source.resolve().name or 'photos'}.zip"
            _zip_folder(source, archive)
            yield archive
    elif not source.is_file():
        raise BadInput(f"{source} does not exist; give a folder with a sub-folder per class, a .zip or a .parquet file")
    elif source.suffix.lower() not in CONTENT_TYPES:
        raise BadInput(f"{source} is neither a .zip nor a .parquet file nor a folder with one sub-folder per class")
    else:
        yield source


def class_names_beside(source: Path) -> Path | None:
    """The file that says what a parquet file's numbered labels mean, where there is one."""
    beside = source.parent / CLASSES_FILE
    return beside if source.suffix.lower() == ".parquet" and beside.is_file() else None


def _zip_folder(source: Path, archive: Path) -> None:
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        raise BadInput(f"the folder {source} holds no files; put the photos of each class into a sub-folder")
    # Photos are compressed already: storing them costs no time and hardly a byte.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as out:
        for path in files:
            out.write(path, path.relative_to(source).as_posix())


class CountingReader(io.RawIOBase):
    """A file that tells how far it has been read, for a progress bar while httpx sends it."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self.file, self.on_bytes = file, on_bytes

    def read(self, size: int = -1) -> bytes:
        chunk = self.file.read(size)
        self.on_bytes(self.file.tell())
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def fileno(self) -> int:
        return self.file.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
