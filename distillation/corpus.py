"""The training images: memory-mapped uint8 pixels, cached views and teacher features, gathered batch by batch.

Nothing is copied into memory but the batch itself; on CUDA everything moves to the GPU once, where it fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillation.distributed import own_rows

STEP_SHARE, STEP_BYTES = 0.4, 16 * 2**30
"""What resident images leave of a GPU's memory to the step: this share of all of it, but no more than these bytes."""
HOLDOUT_BATCH = 64


@dataclass(frozen=True)
class TrainingBatch:
    """Views of ``n`` images.

    Args:
        images: uint8 ``(n, side, side, 3)``, uncropped.
        views: the crop and flip of each, float32 ``(n, 5)``.
        features: the teacher's features of these views, float32 ``(n, d)``.
        caption: index of each image's caption, int64 ``(n,)``, where captions were read.
        count: images of the whole batch, of which these may be one process's.
    """

    images: Tensor
    views: Tensor
    features: Tensor
    caption: Tensor | None
    count: int | None = None


@dataclass
class Corpus:
    """Images of one or more stage folders with the layout of a generate shard (pixels, views, features, holdout).

    Args:
        shards: ``(pixels, views, features)`` of each folder, memory-mapped.
        rows: shard and row of every training image, int64 ``(count, 2)``.
        captions: distinct captions, empty unless read.
        caption: the caption of every training image ``(count,)``.
        mirror: whether views are shown mirrored every other time, with the same features: twice as many views of the
            teacher that hardly tells left from right.
    """

    folders: Sequence[Path]
    shards: list[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float16]]]
    rows: NDArray[np.int64]
    captions: list[str]
    caption: NDArray[np.int64]
    device: torch.device
    mirror: bool
    _resident: tuple[Tensor, Tensor, Tensor] | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls, folders: Sequence[Path], device: torch.device, *, mirror: bool = False, with_captions: bool = False
    ) -> Corpus:
        """Map the folders; on CUDA, move the training images to the GPU if they fit.

        Raises:
            ValueError: there is no training image, or the folders do not belong together.
        """
        shards: list[Any] = []
        rows = []
        for index, folder in enumerate(folders):
            # Still mapped, but as plain arrays: picking rows of a np.memmap takes longer.
            parts = ("pixels", "views", "features")
            shards.append(tuple(np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in parts))
            training = np.flatnonzero(~np.load(folder / "holdout.npy"))
            rows.append(np.stack([np.full_like(training, index), training], axis=1))
        if len({tuple(array.shape[1:] for array in shard) for shard in shards}) != 1:
            raise ValueError("the shards differ in image size, views or feature width; they are of different recipes")
        where = np.concatenate(rows).astype(np.int64)
        if not len(where):
            raise ValueError("no image is left to train on; make more images or hold out a smaller share")
        names, caption = _captions(folders, where) if with_captions else ([], np.zeros(0, np.int64))
        corpus = cls(folders, shards, where, names, caption, device, mirror)
        if device.type == "cuda":
            corpus._move_to_device()
        return corpus

    @property
    def count(self) -> int:
        """Number of training images."""
        return len(self.rows)

    @property
    def views(self) -> int:
        """Cached views of each image."""
        return int(self.shards[0][1].shape[1])

    def batch(self, seen: int, size: int, seed: int) -> TrainingBatch:
        """The ``size`` images that come after the first ``seen`` of an endless stream, or this process's part of them.

        Each epoch is a new permutation, and an image shows its next cached view in each; after all views, all of them
        mirrored where that is wanted. The stream depends on ``seed`` alone, so a resumed training sees what an
        unbroken one would have.
        """
        return self.at(np.arange(seen, seen + size)[own_rows(size)], size, seed)

    def at(self, positions: NDArray[np.int64], size: int, seed: int) -> TrainingBatch:
        """The images at some positions of the stream, as a part of a batch of ``size``; see :meth:`batch`."""
        epochs = positions // self.count
        images = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            images[chosen] = _permutation(self.count, seed, int(epoch))[positions[chosen] % self.count]
        shown = images + epochs
        pixels, views, features = self._gather(images, shown % self.views)
        if self.mirror:
            turned = torch.from_numpy((shown // self.views % 2).astype(np.float32)).to(self.device, non_blocking=True)
            views[:, 4] = (views[:, 4] - turned).abs()
        caption = (
            torch.from_numpy(self.caption[images]).to(self.device, non_blocking=True) if len(self.caption) else None
        )
        return TrainingBatch(pixels, views, features.float(), caption, size)

    def holdout(self, limit: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """At most ``limit`` held-out images, spread evenly over all, in batches.

        Yields:
            uint8 pixels, the teacher's float32 features of the whole images (view 0), labels (-1: none).
        """
        held_out = [np.flatnonzero(np.load(folder / "holdout.npy")) for folder in self.folders]
        step = max(1, -(-sum(map(len, held_out)) // limit))
        skipped = 0
        for folder, (pixels, _, features), rows in zip(self.folders, self.shards, held_out, strict=True):
            labels = np.load(folder / "labels.npy")
            chosen = rows[-skipped % step :: step]
            skipped += len(rows)
            for start in range(0, len(chosen), HOLDOUT_BATCH):
                part = chosen[start : start + HOLDOUT_BATCH]
                found = pixels[part], features[part, 0].astype(np.float32), labels[part]
                images, whole, label = (torch.from_numpy(array).to(self.device) for array in found)
                yield images, whole, label

    def _gather(self, images: NDArray[np.int64], view: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        if self._resident is not None:
            pixels, views, features = self._resident
            # Not blocking: the host would wait for all steps that the GPU has still to do.
            index, which = (torch.from_numpy(part).to(self.device, non_blocking=True) for part in (images, view))
            return pixels[index], views[index, which], features[index, which]
        arrays: Sequence[NDArray[Any]] = self.shards[0]
        found = [np.empty((len(images), *_row_shape(array, kind)), array.dtype) for kind, array in enumerate(arrays)]
        # One copy of each image, from the map to its place; indexing by arrays would copy everything twice.
        for place, ((shard, row), which) in enumerate(zip(self.rows[images], view, strict=True)):
            pixels_, views_, features_ = self.shards[shard]
            found[0][place], found[1][place], found[2][place] = pixels_[row], views_[row, which], features_[row, which]
        gathered = [torch.from_numpy(array) for array in found]
        if self.device.type == "cuda":
            gathered = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in gathered]
        return gathered[0], gathered[1], gathered[2]

    def _move_to_device(self) -> None:
        size = sum(self.count * array[0].nbytes for array in self.shards[0])
        free, total = torch.cuda.mem_get_info(self.device)
        # The step's part is measured by the whole memory, so that a second corpus does not take from it.
        if size > free - min(STEP_SHARE * total, STEP_BYTES):
            return
        first: Sequence[NDArray[Any]] = self.shards[0]
        types = [torch.from_numpy(array[:0].copy()).dtype for array in first]
        whole = [
            torch.empty((self.count, *array.shape[1:]), dtype=dtype, device=self.device)
            for array, dtype in zip(first, types, strict=True)
        ]
        start = 0
        for shard, part in zip(self.shards, _parts(self.rows, len(self.shards)), strict=True):
            rows = self.rows[part, 1]
            arrays: Sequence[NDArray[Any]] = shard
            for tensor, array in zip(whole, arrays, strict=True):
                tensor[start : start + len(rows)] = torch.from_numpy(array[rows])
            start += len(rows)
        self._resident = (whole[0], whole[1], whole[2])


def _row_shape(array: NDArray[Any], kind: int) -> tuple[int, ...]:
    """Shape of what is gathered for one image: all pixels, but a single view and its features."""
    return array.shape[1:] if kind == 0 else array.shape[2:]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _captions(folders: Sequence[Path], rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct prompts of the training images in order of the alphabet, and each image's index among them."""
    found: dict[str, int] = {}
    caption = np.empty(len(rows), np.int64)
    for folder, part in zip(folders, _parts(rows, len(folders)), strict=True):
        # One shard's lines at a time, and each prompt once: images may be many millions.
        with (folder / "images.jsonl").open(encoding="utf-8") as lines:
            numbers = [found.setdefault(json.loads(line)["prompt"], len(found)) for line in lines]
        caption[part] = np.array(numbers, np.int64)[rows[part, 1]]
    used, caption = np.unique(caption, return_inverse=True)
    names = np.array(list(found))[used]
    order = np.argsort(names)
    return [str(name) for name in names[order]], np.argsort(order)[caption].astype(np.int64)


def _parts(rows: NDArray[np.int64], shards: int) -> list[slice]:
    """Where the rows of each shard are; they lie in the order of the shards."""
    bounds = np.searchsorted(rows[:, 0], np.arange(shards + 1))
    return [slice(int(first), int(last)) for first, last in pairwise(bounds)]
