"""Readers of training images, ours and the peers'. Each call of a reader gives every image once, in random order.

The peers are handed what would cost them most for nothing: no crop, no conversion to float. The exception is the
pair that crops, where ours crops too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from benchmarks.images.stored import StoredImages
from distillation.corpus import Corpus
from distillation.views import apply_views

Reader = Callable[[], Iterator[Tensor]]
BATCHES_AHEAD = 3
"""As in FFCV's loader."""


def ours(corpus: Corpus, batch_size: int) -> Reader:
    """The product's batches: uint8 ``(n, side, side, 3)``, on the corpus' device."""
    seen = 0

    def read() -> Iterator[Tensor]:
        nonlocal seen
        for _ in range(corpus.count // batch_size):
            yield corpus.batch(seen, batch_size, 0).images
            seen += batch_size

    return read


def ours_cropped(corpus: Corpus, batch_size: int, size: int, mean: Tensor, std: Tensor) -> Reader:
    """The same with the crop, flip and normalisation that begin the product's step: ``(n, 3, size, size)``."""
    seen = 0

    def read() -> Iterator[Tensor]:
        nonlocal seen
        for _ in range(corpus.count // batch_size):
            batch = corpus.batch(seen, batch_size, 0)
            yield apply_views(batch.images, batch.views, size, mean, std)
            seen += batch_size

    return read


def image_folder(stored: StoredImages, batch_size: int, workers: int) -> Reader:
    """torchvision's ImageFolder in a DataLoader: uint8 ``(n, 3, side, side)``."""
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        ImageFolder(stored.folder, PILToTensor()),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
    return lambda: (images for images, _ in loader)


def web_dataset(stored: StoredImages, batch_size: int, workers: int) -> Reader:
    """webdataset, reading the tar files from start to end through a shuffle buffer: uint8 ``(n, 3, side, side)``."""
    samples = (
        webdataset.WebDataset([str(path) for path in stored.tars], shardshuffle=len(stored.tars))
        .shuffle(1000)
        .decode("torchrgb8")
        .to_tuple("jpg")
        .map(itemgetter(0))
    )
    loader: DataLoader[Tensor] = DataLoader(samples, batch_size, num_workers=workers, persistent_workers=workers > 0)
    return lambda: iter(loader)


class RawReader:
    """A raw memory map read sample by sample in a pool of threads: what FFCV's `raw` mode does (it is not installable).

    Batches are filled into memory that is kept, three ahead. FFCV compiles its loop and resizes with OpenCV; here each
    sample costs some microseconds of Python, and Pillow resizes.

    Args:
        pixels: ``(count, side, side, 3)``.
        crop: ``None``: whole images; else the output's size, mean and std, and views ``(count, 5)``.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        batch_size: int,
        threads: int,
        crop: tuple[int, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> None:
        self._pixels, self._batch_size, self._threads, self._crop = pixels, batch_size, threads, crop
        self._pool, self._ahead = ThreadPoolExecutor(threads), ThreadPoolExecutor(1)
        shape = pixels.shape[1:] if crop is None else (crop[0], crop[0], 3)
        kind = np.uint8 if crop is None else np.float32
        self._buffers = [np.empty((batch_size, *shape), kind) for _ in range(BATCHES_AHEAD + 1)]
        self._random = np.random.default_rng(0)

    def __call__(self) -> Iterator[Tensor]:
        order = self._random.permutation(len(self._pixels))
        batches = [
            order[start : start + self._batch_size]
            for start in range(0, len(order) - self._batch_size + 1, self._batch_size)
        ]
        waiting: list[Future[NDArray[Any]]] = []
        for number, indices in enumerate(batches):
            waiting.append(self._ahead.submit(self._fill, indices, self._buffers[number % len(self._buffers)]))
            if len(waiting) == BATCHES_AHEAD:
                yield self._tensor(waiting.pop(0).result())
        for future in waiting:
            yield self._tensor(future.result())

    def _tensor(self, batch: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(batch)
        return tensor if self._crop is None else tensor.permute(0, 3, 1, 2)

    def _fill(self, indices: NDArray[np.int64], out: NDArray[Any]) -> NDArray[Any]:
        for _ in self._pool.map(self._read, np.array_split(indices, self._threads), np.array_split(out, self._threads)):
            pass
        return out

    def _read(self, indices: NDArray[np.int64], out: NDArray[Any]) -> None:
        for index, place in zip(indices, out, strict=True):
            if self._crop is None:
                place[:] = self._pixels[index]
            else:
                size, mean, std, views = self._crop
                crop_with_pillow(self._pixels[index], views[index], size, mean, std, place)


def crop_with_pillow(
    image: NDArray[np.uint8],
    view: NDArray[np.float32],
    size: int,
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write one view of one image, normalised, to ``out`` ``(size, size, 3)``."""
    side = len(image)
    top, left, height, width, flip = view.tolist()
    box = (left * side, top * side, min((left + width) * side, side), min((top + height) * side, side))
    cropped = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
    # Whole rows at once: an inner loop over three channels would be several times slower.
    rows, pixels = out.reshape(size, -1), np.ascontiguousarray(cropped[:, ::-1] if flip else cropped)
    np.multiply(pixels.reshape(size, -1), np.tile(1 / (255 * std), size), out=rows)
    np.subtract(rows, np.tile(mean / std, size), out=rows)
