"""The same images in every form that a reader takes: JPEG files in folders, in tar files, and raw in a memory map."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.made_images import made_photos, write_shard
from distillation.jpeg import encode_with_pillow

CLASSES, TARS = 4, 16
"""Sixteen tar files: webdataset cannot share fewer among as many workers."""
VIEWS, WIDTH = 4, 512


@dataclass(frozen=True)
class StoredImages:
    """Where they are.

    Args:
        folder: a folder for each class, as ImageFolder reads them.
        tars: in webdataset's layout.
        shard: a generate shard; its pixels are those of the decoded JPEG files.
    """

    folder: Path
    tars: list[Path]
    shard: Path

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The raw images ``(count, side, side, 3)``, memory-mapped."""
        mapped: NDArray[np.uint8] = np.load(self.shard / "pixels.npy", mmap_mode="r")
        return mapped


def store_images(out: Path, count: int, side: int) -> StoredImages:
    """Write ``count`` images of ``side`` pixels below ``out``."""
    stored = StoredImages(out / "folders", [out / f"{i:06d}.tar" for i in range(TARS)], out / "shard")
    stored.shard.mkdir()
    files = [encode_with_pillow(image) for image in made_photos(count, side, side).numpy()]
    for label in range(CLASSES):
        (stored.folder / f"class{label}").mkdir(parents=True)
    for index, content in enumerate(files):
        (stored.folder / f"class{index % CLASSES}" / f"{index:06d}.jpg").write_bytes(content)
    for number, path in enumerate(stored.tars):
        with tarfile.open(path, "w") as archive:
            for index in range(number, count, TARS):
                member = tarfile.TarInfo(f"{index:06d}.jpg")
                member.size = len(files[index])
                archive.addfile(member, io.BytesIO(files[index]))
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in files])
    write_shard(stored.shard, decoded, VIEWS, WIDTH)
    return stored
