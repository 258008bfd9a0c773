"""The images of ``benchmarks.distil``: a corpus as the product stores it, and a DataLoader as a cached peer has it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms.v2 import functional as transforms

from benchmarks.made_images import made_photos, write_shard
from distillation.corpus import Corpus
from distillation.jpeg import encoder
from distillation.trainer import TeacherFacts
from distillation.views import apply_views

STORED, VIEWS = 256, 4


def write_corpus(folder: Path, side: int, width: int, holdout: int) -> Path:
    """A shard of :data:`STORED` training images and ``holdout`` others, which compress as photos do."""
    count = STORED + holdout
    write_shard(folder, made_photos(count, side, side).numpy(), VIEWS, width)
    np.save(folder / "labels.npy", np.zeros(count, np.int32))
    np.save(folder / "holdout.npy", np.arange(count) >= STORED)
    return folder


def normalised(corpus: Corpus, batch_size: int, facts: TeacherFacts) -> Tensor:
    """The first batch as peers get it for nothing: cropped and normalised, in plain NCHW memory."""
    batch = corpus.batch(0, batch_size, 0)
    mean, std = (torch.tensor(values, device=corpus.device) for values in (facts.mean, facts.std))
    return apply_views(batch.images, batch.views, facts.image_size, mean, std).contiguous()


class StoredViews(Dataset[tuple[Tensor, Tensor]]):
    """The corpus' first views, image by image, through torchvision: normalised pixels and cached features.

    Args:
        as_jpeg: images are decoded from JPEG by Pillow, else they lie in memory decoded.
    """

    def __init__(self, corpus: Corpus, facts: TeacherFacts, *, as_jpeg: bool) -> None:
        pixels, self._views, self._features = corpus.shards[0]
        encode = encoder()
        self._images: list[Any] = [encode(image) if as_jpeg else image for image in pixels[:STORED]]
        self._as_jpeg, self._facts = as_jpeg, facts

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        stored = self._images[index]
        image = np.array(Image.open(io.BytesIO(stored)).convert("RGB")) if self._as_jpeg else stored.copy()
        top, left, height, width, flip = self._views[index, 0]
        side = len(image)
        box = [round(float(part) * side) for part in (top, left, height, width)]
        size = self._facts.image_size
        view = transforms.resized_crop(torch.from_numpy(image).permute(2, 0, 1), *box, size=[size, size])
        if flip:
            view = transforms.horizontal_flip(view)
        pixels = transforms.normalize(
            transforms.to_dtype(view, torch.float32, scale=True), self._facts.mean, self._facts.std
        )
        return pixels, torch.from_numpy(self._features[index, 0].astype(np.float32))


def loaded(
    corpus: Corpus, facts: TeacherFacts, batch_size: int, steps: int, *, as_jpeg: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of a DataLoader over :class:`StoredViews`, on the corpus' device.

    On a CPU the loader works in this process: workers would decode on the clock of the other arms.
    """
    on_cpu = corpus.device.type == "cpu"
    data = StoredViews(corpus, facts, as_jpeg=as_jpeg)
    loader = DataLoader(
        data,
        batch_size,
        sampler=RandomSampler(data, replacement=True, num_samples=steps * batch_size),
        num_workers=0 if on_cpu else os.cpu_count() or 1,
        persistent_workers=not on_cpu,
        pin_memory=not on_cpu,
    )
    while True:
        for pixels, features in islice(loader, steps):
            yield pixels.to(corpus.device, non_blocking=True), features.to(corpus.device, non_blocking=True)
