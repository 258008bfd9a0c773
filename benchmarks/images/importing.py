"""The import of photos against the bare JPEG decoder: the same files, decoder and threads."""

from __future__ import annotations

import io
import shutil
import statistics
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks.harness import interleaved, ratio
from benchmarks.made_images import made_photos
from distillation.datasets import import_dataset
from distillation.jpeg import encode_with_pillow
from distillation.photo_decoding import decode_photos, decoding_threads
from distillation.photo_files import decode_square
from distillation.unlabelled import encoded_photos

SIDE = 256
DISTINCT = 4
"""Photos made; the rest are copies of them."""
LIMITS = ("decode at full size", "decode", "decode, cut, resize")


def measure_import(out: Path, count: int, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Photos a second of ``count`` JPEGs of ``size`` (width, height), by arm, and shares of three limits.

    `decode` is the decoder alone, at the fraction of the size that the import asks it for, where a photo is large;
    `decode, cut, resize` is all that must be computed for each photo. The imports read files, and the first two write
    and hash the result too.
    """
    contents = _photos(count, size)
    folder, table, archive = _write(out, contents)
    squares = np.stack([decode_square(content, SIDE) for content in contents[:DISTINCT]])

    def importing(source: Path) -> Callable[[], object]:
        def run() -> None:
            shutil.rmtree(out / "imported", ignore_errors=True)
            import_dataset(source, out / "imported")

        return run

    def stream() -> Iterator[NDArray[np.uint8] | None]:
        return (photo.pixels for photo in decode_photos(encoded_photos(str(archive), count), SIDE))

    def streamed() -> None:
        for _ in stream():
            pass

    for source in (folder, table):
        importing(source)()
        if not np.array_equal(
            np.load(out / "imported" / "images.npy"), np.resize(squares, (count, *squares.shape[1:]))
        ):
            raise SystemExit(f"the import of {source.name} changes the photos")
    if not all(photo is not None and np.array_equal(photo, squares[i % DISTINCT]) for i, photo in enumerate(stream())):
        raise SystemExit("streaming changes the photos")
    with ThreadPoolExecutor(decoding_threads()) as pool:
        seconds = interleaved(
            {
                "decode at full size": lambda: _all(pool, lambda content: _decode(content, None), contents),
                "decode": lambda: _all(pool, lambda content: _decode(content, 2 * SIDE), contents),
                "decode, cut, resize": lambda: _all(pool, lambda content: decode_square(content, SIDE), contents),
                "import of a folder": importing(folder),
                "import of a parquet file": importing(table),
                "stream of a tar file": streamed,
            },
            rounds,
        )
    return {
        "size": size,
        "bytes": sum(map(len, contents)) // count,
        "photos_per_s": {name: count / statistics.median(times) for name, times in seconds.items()},
        "shares": {
            name: {limit: ratio(seconds[limit], times)._asdict() for limit in LIMITS}
            for name, times in seconds.items()
            if name not in LIMITS
        },
    }


def _photos(count: int, size: tuple[int, int]) -> list[bytes]:
    width, height = size
    few = [encode_with_pillow(image) for image in made_photos(DISTINCT, height, width).numpy()]
    return [few[i % DISTINCT] for i in range(count)]


def _write(out: Path, contents: Sequence[bytes]) -> tuple[Path, Path, Path]:
    """The photos in a folder, a parquet file and a tar file."""
    folder, table, archive = out / "photos", out / "photos.parquet", out / "photos.tar"
    (folder / "class").mkdir(parents=True)
    with tarfile.open(archive, "w") as file:
        for index, content in enumerate(contents):
            name = f"{index:06d}.jpg"
            (folder / "class" / name).write_bytes(content)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    pq.write_table(pa.table({"image": [{"bytes": content, "path": None} for content in contents]}), table)
    return folder, table, archive


def _decode(content: bytes, least: int | None) -> None:
    """Pixels in Pillow's memory, at the smallest fraction of the size that has ``least`` pixels a side; None: all."""
    with Image.open(io.BytesIO(content)) as image:
        if least is not None:
            image.draft("RGB", (least, least))
        image.load()


def _all(pool: ThreadPoolExecutor, work: Callable[[bytes], object], contents: Sequence[bytes]) -> None:
    for _ in pool.map(work, contents):
        pass
