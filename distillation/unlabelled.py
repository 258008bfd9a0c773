"""Unlabelled photos for the domain-agnostic phase, from a dataset directory, parquet or webdataset tar files."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import braceexpand
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distillation.errors import DatasetError
from distillation.photo_files import MAX_FILE_BYTES, Photo
from distillation.photo_tables import READ_ROWS

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
READ_BYTES = 2**18
"""tarfile's own 10 KB take a photo of some megabytes half as long again as these."""


def dataset_photos(folder: Path, limit: int) -> tuple[Iterator[NDArray[np.uint8]], int]:
    """Photos of a dataset directory, uint8 ``(side, side, 3)``, and how many: all, or ``limit`` spread evenly."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    count = min(limit, len(images))
    return (images[number * len(images) // count] for number in range(count)), count


def encoded_photos(source: str, limit: int) -> Iterator[Photo]:
    """The first ``limit`` photos of a parquet or tar source, in its order, as they are; some may be broken.

    Args:
        source: a path or URL that fsspec opens; ``{000..009}`` stands for several files, a folder for those in it.

    Raises:
        DatasetError: nothing can be read there.
    """
    given = 0
    for path in _files(source):
        try:
            with fsspec.open(path, "rb") as file:
                for content in _contents(path, file):
                    yield Photo(path, -1, content)
                    given += 1
                    if given == limit:
                        return
        except DatasetError:
            raise
        except (OSError, ImportError, ValueError, pa.ArrowException, tarfile.TarError) as error:
            raise DatasetError(
                f"{path} cannot be read: {error}", "give parquet or webdataset tar files by a path or URL"
            ) from error


def _files(source: str) -> list[str]:
    if "://" not in source and Path(source).is_dir():
        found = sorted(str(path) for path in Path(source).iterdir() if path.suffix in (".parquet", ".tar"))
        if not found:
            raise DatasetError(f"{source} holds no .parquet and no .tar file", "give the folder that holds them")
        return found
    return list(braceexpand.braceexpand(source))


def _contents(path: str, file: BinaryIO) -> Iterator[bytes]:
    """The encoded photos of one file."""
    if PurePosixPath(path.split("?")[0]).suffix == ".parquet":
        yield from _parquet_contents(file)
        return
    with tarfile.open(fileobj=file, mode="r|*", bufsize=READ_BYTES) as archive:
        for member in archive:
            if member.isfile() and PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES:
                content = archive.extractfile(member)
                if content is not None:
                    yield content.read(MAX_FILE_BYTES + 1)


def _parquet_contents(file: BinaryIO) -> Iterator[bytes]:
    table = pq.ParquetFile(file)
    column = next((name for name in IMAGE_COLUMNS if name in table.schema_arrow.names), None)
    if column is None:
        raise DatasetError(
            f"the parquet has no column of images (it has: {', '.join(table.schema_arrow.names[:10])})",
            f"name it one of: {', '.join(IMAGE_COLUMNS)}",
        )
    for batch in table.iter_batches(batch_size=READ_ROWS, columns=[column], use_threads=False):
        for value in batch.column(0).to_pylist():
            content: Any = value.get("bytes") if isinstance(value, dict) else value
            if isinstance(content, bytes):
                yield content
