"""Real photos: checked and turned into a dataset directory. Torch-free; the API calls it on every upload.

The directory holds ``images.npy`` uint8 ``(n, side, side, 3)``, ``labels.npy`` int32 ``(n,)`` (-1: unlabelled) and
``dataset.json``, which is written last. Photos are read and decoded as they are written, a few at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from distillation.errors import DatasetError
from distillation.photo_archives import files_of, folder_source, member_path, member_problem, open_zip, zip_source
from distillation.photo_decoding import decode_photos
from distillation.photo_files import PhotoRejected, PhotoSource, short_side
from distillation.photo_tables import CLASSES_FILE, parquet_source

__all__ = ["DatasetError", "DatasetInfo", "import_dataset", "is_dataset", "read_info"]

LISTED_REJECTIONS = 1000
MAX_TABLE_BYTES = 20 * 2**30
MAX_CLASSES_BYTES = 16 * 2**20
ROOM_BYTES = 16 * 2**20
LAYOUT_HINT = "upload a zip with a folder of photos per class, or a parquet file with an 'image' column"


@dataclass(frozen=True)
class DatasetInfo:
    """``dataset.json``. ``rejected`` lists the first 1,000 of ``rejected_count`` photos left out."""

    classes: list[str]
    images: int
    side: int
    rejected: list[dict[str, str]]
    rejected_count: int
    fingerprint: str


def is_dataset(folder: Path) -> bool:
    """Whether ``folder`` is a finished dataset directory."""
    return (folder / "dataset.json").is_file()


def read_info(folder: Path) -> DatasetInfo:
    """The description of a dataset directory."""
    return DatasetInfo(**json.loads((folder / "dataset.json").read_text(encoding="utf-8")))


def import_dataset(source: Path, out: Path, *, side: int = 256, max_images: int = 100_000) -> DatasetInfo:
    """Check photos and write a dataset directory.

    Args:
        source: a zip (folder per class, or parquet files with ``classes.tsv``), a parquet file (with ``classes.tsv``
            beside it where the labels need it), or a directory of either layout.
        out: the directory to write; made if missing.
        side: the images' side in pixels; smaller if every photo is smaller.

    Raises:
        DatasetError: nothing usable in it. Single broken photos are left out and listed instead, as long as at
            least half of the photos are usable.
    """
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        photos = _open_source(source, out, stack)
        try:
            return _write(photos, out, side=_largest_short_side(photos, side), max_images=max_images)
        except BaseException:
            for name in ("images.npy", "labels.npy", "dataset.json"):
                (out / name).unlink(missing_ok=True)
            raise


def _open_source(source: Path, out: Path, stack: ExitStack) -> PhotoSource:
    """Recognise the layout by its content, not by the file's name."""
    if source.is_dir():
        tables = [path for path in sorted(source.rglob("*.parquet")) if not path.name.startswith(".")]
        return parquet_source(tables, _beside(tables[0])) if tables else folder_source(source)
    if not source.is_file():
        raise DatasetError(f"{source} does not exist", "give the path of a zip, a parquet file or a directory")
    with source.open("rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        return parquet_source([source], _beside(source))
    if magic[:2] != b"PK":
        raise DatasetError(f"{source.name} is neither a zip nor a parquet file", LAYOUT_HINT)
    archive = stack.enter_context(open_zip(source))
    members = [m for m in files_of(archive) if not member_path(m).name.startswith(".")]
    tables_inside = [m for m in members if member_path(m).suffix.lower() == ".parquet"]
    if not tables_inside:
        return zip_source(archive)
    # Parquet needs seeking: these members alone are copied, under names of our own.
    scratch = out / ".unpacked"
    stack.callback(shutil.rmtree, scratch, ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    wanted = [(m, f"{i:04d}.parquet") for i, m in enumerate(sorted(tables_inside, key=lambda m: m.filename))]
    wanted += [(m, CLASSES_FILE) for m in members if member_path(m).name == CLASSES_FILE][:1]
    for member, name in wanted:
        if problem := member_problem(member, MAX_CLASSES_BYTES if name == CLASSES_FILE else MAX_TABLE_BYTES):
            raise DatasetError(f"{PurePosixPath(member.filename).name} in the zip: {problem}", LAYOUT_HINT)
        try:
            with archive.open(member) as packed, (scratch / name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 2**20)
        except (ValueError, EOFError, RuntimeError) as error:
            raise DatasetError(f"the zip cannot be unpacked: {error}", "upload the file again") from error
    return parquet_source(sorted(scratch.glob("*.parquet")), _beside(scratch / "0000.parquet"))


def _beside(table: Path) -> Path | None:
    path = table.parent / CLASSES_FILE
    return path if path.is_file() else None


def _largest_short_side(source: PhotoSource, side: int) -> int:
    """``side``, or the largest photo's shorter side if all are smaller. Stops at the first large one."""
    largest = 0
    for photo in source.photos():
        if photo.content:
            try:
                largest = max(largest, short_side(photo.content))
            except PhotoRejected:
                continue
        if largest >= side:
            return side
    return largest or side


def _write(source: PhotoSource, out: Path, *, side: int, max_images: int) -> DatasetInfo:
    labels: list[int] = []
    rejected: list[dict[str, str]] = []
    rejected_count = 0
    digest = hashlib.sha256(json.dumps([source.classes, side]).encode())
    with (out / "images.npy").open("w+b") as file:
        header_bytes = room = _write_header(file, 0, side)
        for photo in decode_photos(source.photos(), side):
            if photo.pixels is None:
                rejected_count += 1
                if len(rejected) < LISTED_REJECTIONS:
                    rejected.append({"file": photo.name, "reason": photo.reason})
                continue
            if len(labels) == max_images:
                raise DatasetError(f"more than {max_images} photos", "upload a smaller set")
            pixels = photo.pixels.data.cast("B")
            room = _take_room(file, room, len(pixels))
            file.write(pixels)
            digest.update(pixels)
            labels.append(photo.label)
        file.truncate()
        # The count is known only now. NumPy pads the header so that the first axis may grow in place.
        file.seek(0)
        if _write_header(file, len(labels), side) != header_bytes:
            raise RuntimeError("the header of images.npy changed its length")
    first = "; ".join(f"{item['file']}: {item['reason']}" for item in rejected[:3])
    if not labels:
        raise DatasetError(f"no usable photo in it{': ' + first if first else ''}", LAYOUT_HINT)
    if len(labels) < rejected_count:
        raise DatasetError(
            f"only {len(labels)} of {len(labels) + rejected_count} photos are usable ({first})",
            "remove or repair the broken files; JPEG, PNG and WEBP are read",
        )
    table = np.array(labels, dtype=np.int32)
    np.save(out / "labels.npy", table)
    digest.update(table.tobytes())
    info = DatasetInfo(source.classes, len(labels), side, rejected, rejected_count, digest.hexdigest())
    partial = out / "dataset.json.new"
    partial.write_text(json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(out / "dataset.json")
    return info


def _take_room(file: BinaryIO, taken: int, more: int) -> int:
    """Have room on disk for ``more`` bytes where the file stands; returns up to where there is room then.

    Blocks taken in large pieces cost a third of those that each write takes.

    Raises:
        OSError: the disk is full.
    """
    end = file.tell() + more
    if end <= taken:
        return taken
    os.posix_fallocate(file.fileno(), taken, end - taken + ROOM_BYTES)
    return end + ROOM_BYTES


def _write_header(file: BinaryIO, count: int, side: int) -> int:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()
