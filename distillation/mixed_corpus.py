"""Synthetic images with a share of unlabelled photos in every batch, so that the student still sees real ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from distillation.corpus import Corpus, TrainingBatch
from distillation.distributed import own_rows
from distillation.embedding import Embedder


class MixedCorpus:
    """A stream of two corpora, in which each keeps its own order and epochs. Photos have no captions.

    Args:
        share: of the photos, from 0 to below 1.
    """

    def __init__(self, images: Corpus, photos: Corpus, share: float) -> None:
        self._images, self._photos, self._share = images, photos, share
        self.device = images.device

    @property
    def count(self) -> int:
        """How many of the stream show every synthetic image once."""
        return round(self._images.count / (1 - self._share))

    def batch(self, seen: int, size: int, seed: int) -> TrainingBatch:
        """As :meth:`Corpus.batch`; in any piece of the stream the share of photos is exact to one image.

        Photos are resized to the images' side.
        """
        positions = np.arange(seen, seen + size + 1)
        # Rounded up a little: 10 * 0.3 must not count as 2.
        photos_before = np.floor(positions * self._share + 1e-9).astype(np.int64)
        positions, is_photo = positions[:-1], np.diff(photos_before) > 0
        own = own_rows(size)
        positions, photos_before, is_photo = positions[own], photos_before[:-1][own], is_photo[own]
        images = self._images.at((positions - photos_before)[~is_photo], size, seed)
        photos = self._photos.at(photos_before[is_photo], size, seed)
        resized = Embedder.resize(photos.images, images.images.shape[1])
        return TrainingBatch(
            torch.cat([images.images, resized]),
            torch.cat([images.views, photos.views]),
            torch.cat([images.features, photos.features]),
            None,
            size,
        )

    def holdout(self, limit: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As :meth:`Corpus.holdout`, of the synthetic images: what the student is made for."""
        return self._images.holdout(limit)
