"""Images that earlier stages left on disk, picked without copying them: held-out synthetic ones, real photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillation.class_matching import match_classes
from distillation.datasets import read_info
from distillation.errors import DatasetError
from distillation.recipe import Domain


@dataclass(frozen=True)
class ImageSet:
    """Rows of memory-mapped arrays.

    Args:
        parts: pairs of images uint8 ``(m, side, side, 3)`` and chosen rows.
        labels: class in the domain of every chosen image, in the parts' order.
    """

    parts: list[tuple[NDArray[np.uint8], NDArray[np.intp]]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Images in order, at most ``size`` at once (fewer at the end of a part)."""
        for images, rows in self.parts:
            for start in range(0, len(rows), size):
                yield images[rows[start : start + size]]

    def sample(self, count: int, seed: int) -> ImageSet:
        """At most ``count`` images, drawn without replacement, in their old order."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False))
        starts = np.cumsum([0, *(len(rows) for _, rows in self.parts)])
        parts = [
            (images, rows[chosen[(chosen >= first) & (chosen < last)] - first])
            for (images, rows), first, last in zip(self.parts, starts[:-1], starts[1:], strict=True)
        ]
        return ImageSet(parts, self.labels[chosen])


def synthetic_images(shards: Sequence[Path], *, holdout: bool) -> ImageSet:
    """The generated images held out of training, or the training images."""
    parts, labels = [], []
    for shard in shards:
        rows = _rows(shard, holdout)
        parts.append((np.load(shard / "pixels.npy", mmap_mode="r"), rows))
        labels.append(np.load(shard / "labels.npy")[rows].astype(np.int64))
    return ImageSet(parts, np.concatenate(labels))


def cached_teacher_features(shards: Sequence[Path], images: ImageSet) -> NDArray[np.float32]:
    """The teacher's features of the uncropped images, ``(n, embed_dim)``.

    Args:
        images: of :func:`synthetic_images`, all or a sample.
    """
    parts = zip(shards, images.parts, strict=True)
    features = [np.load(shard / "features.npy", mmap_mode="r")[rows, 0] for shard, (_, rows) in parts]
    return np.concatenate(features).astype(np.float32)


def _rows(shard: Path, holdout: bool) -> NDArray[np.intp]:
    return np.flatnonzero(np.load(shard / "holdout.npy") == holdout)


def real_images(folder: Path, domain: Domain) -> tuple[ImageSet, list[str]]:
    """Photos of the domain's classes in a dataset directory, and what the user should know about the match.

    Raises:
        DatasetError: no photo is labelled with a class of the domain.
    """
    info = read_info(folder)
    if not info.classes:
        raise DatasetError(
            "the dataset has no labels, so nothing can be measured on it", "put the photos in a folder for each class"
        )
    mapping, warnings = match_classes(info.classes, domain)
    table = np.full(len(info.classes) + 1, -1, dtype=np.int64)  # the last row stands for label -1
    for index, target in mapping.items():
        table[index] = target
    labels = table[np.load(folder / "labels.npy")]
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise DatasetError("the dataset's matching classes hold no photo", "check the folders of the dataset")
    images = np.load(folder / "images.npy", mmap_mode="r")
    return ImageSet([(images, rows)], labels[rows]), warnings
