"""Labelled photos of a dataset directory, split into those to learn from and those to measure on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillation.datasets import read_info
from distillation.embedding import Embedder
from distillation.errors import DatasetError
from distillation.generator_recipe import GeneratorRecipe, classes_of
from distillation.recipe import Domain

FEWEST_PHOTOS = 4
"""Of a class: some to learn from, one to measure on."""
SHRUNK_AT_ONCE = 512


@dataclass(frozen=True)
class Photos:
    """Photos of some classes: ``images`` uint8 ``(n, size, size, 3)``, ``labels`` int64 ``(n,)``, class from 0."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """Which photos of a dataset directory are learnt from and which are held out, by row; nothing is read yet.

    Args:
        labels: class of every photo, from 0; -1: of no class to be learnt.
    """

    folder: Path
    domain: Domain
    labels: NDArray[np.int64]
    training: NDArray[np.intp]
    held_out: NDArray[np.intp]

    def thinned(self, most: int) -> Split:
        """At most ``most`` photos to learn from (but two of each class), about the same share of every class."""
        if len(self.training) <= most:
            return self
        kept = []
        for label in range(len(self.domain.classes)):
            rows = self.training[self.labels[self.training] == label]
            count = max(2, len(rows) * most // len(self.training))
            kept.append(rows[np.linspace(0, len(rows) - 1, count).astype(np.intp)])
        return replace(self, training=np.sort(np.concatenate(kept)))

    def read(self, rows: NDArray[np.intp], size: int) -> Photos:
        """Photos of ``rows`` in ``size``, antialiased."""
        images = np.load(self.folder / "images.npy", mmap_mode="r")
        parts = [
            Embedder.resize(torch.from_numpy(images[rows[start : start + SHRUNK_AT_ONCE]]), size)
            for start in range(0, len(rows), SHRUNK_AT_ONCE)
        ]
        return Photos(torch.cat(parts), torch.from_numpy(self.labels[rows]))


def split_photos(folder: Path, recipe: GeneratorRecipe, warn: Callable[[str, str], None]) -> Split:
    """Match the classes and draw the held-out photos, by the recipe's seed.

    Args:
        folder: a dataset directory.
        warn: told code and message of what the user should know.

    Raises:
        DatasetError: too few classes or photos.
    """
    info = read_info(folder)
    domain, mapping, warnings = classes_of(recipe, info.classes)
    for message in warnings:
        warn("classes", message)
    table = np.full(len(info.classes) + 1, -1, np.int64)  # the last row stands for label -1
    table[list(mapping)] = list(mapping.values())
    labels = table[np.load(folder / "labels.npy")]
    domain, labels = _known_well(domain, labels, recipe.classes is None, warn)
    if info.side < recipe.size:
        warn("photos_enlarged", f"the photos have {info.side} pixels a side and are enlarged to {recipe.size}")
    return Split(folder, domain, labels, *_draw(labels, len(domain.classes), recipe))


def _known_well(
    domain: Domain, labels: NDArray[np.int64], may_drop: bool, warn: Callable[[str, str], None]
) -> tuple[Domain, NDArray[np.int64]]:
    """The classes with enough photos, and their new numbers."""
    counts = np.bincount(labels[labels >= 0], minlength=len(domain.classes))
    poor = [f"'{item.name}' ({n})" for item, n in zip(domain.classes, counts, strict=True) if n < FEWEST_PHOTOS]
    kept = np.flatnonzero(counts >= FEWEST_PHOTOS)
    if (poor and not may_drop) or len(kept) < 2:
        raise DatasetError(
            f"too few photos of {', '.join(poor[:10])}" if poor else "the dataset has a single class",
            f"two classes or more are needed, each with {FEWEST_PHOTOS} photos or, better, some hundreds",
        )
    if poor:
        warn("classes_left_out", f"classes with fewer than {FEWEST_PHOTOS} photos are left out: {', '.join(poor[:10])}")
    table = np.full(len(counts) + 1, -1, np.int64)
    table[kept] = np.arange(len(kept))
    return domain.model_copy(update={"classes": tuple(domain.classes[i] for i in kept)}), table[labels]


def _draw(
    labels: NDArray[np.int64], classes: int, recipe: GeneratorRecipe
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to learn from and rows held out; of each class at least one is held out and two are not."""
    chosen, held_out = [], []
    for label in range(classes):
        rows = np.random.default_rng([recipe.seed, label]).permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(recipe.holdout * len(rows))), len(rows) - 2)
        held_out.append(rows[:count])
        chosen.append(rows[count:])
    return np.sort(np.concatenate(chosen)), np.sort(np.concatenate(held_out))
