"""Photos decoded on every core while they are read, in their order, with few of them in memory. Torch-free."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distillation.photo_files import Photo, PhotoRejected, decode_square

MAX_THREADS = 8
"""More would wait for Python's lock: a few tenths of a millisecond for each photo hold it."""
WAITING_PER_THREAD = 2
MAX_WAITING_BYTES = 64 * 2**20


@dataclass(frozen=True)
class DecodedPhoto:
    """A photo's name and class (index, -1 unlabelled), its square of pixels, or None and why it is left out."""

    name: str
    label: int
    pixels: NDArray[np.uint8] | None
    reason: str = ""


def decoding_threads() -> int:
    """One thread for each core this process may use, at most ``MAX_THREADS``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


def decode_photos(photos: Iterable[Photo], side: int) -> Iterator[DecodedPhoto]:
    """Decode photos to ``(side, side, 3)`` in a pool of threads; Pillow's decoder and resize release Python's lock.

    The calling thread alone reads ``photos``. It reads ahead by ``WAITING_PER_THREAD`` photos for each thread, or by
    ``MAX_WAITING_BYTES`` of encoded photos if that is less.
    """
    threads = decoding_threads()
    waiting: deque[tuple[Future[DecodedPhoto], int]] = deque()
    waiting_bytes = 0
    pool = ThreadPoolExecutor(threads, "decode")
    try:
        for photo in photos:
            waiting.append((pool.submit(_decode, photo, side), len(photo.content)))
            waiting_bytes += len(photo.content)
            while waiting and (len(waiting) > WAITING_PER_THREAD * threads or waiting_bytes > MAX_WAITING_BYTES):
                future, size = waiting.popleft()
                waiting_bytes -= size
                yield future.result()
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(photo: Photo, side: int) -> DecodedPhoto:
    if photo.reason:
        return DecodedPhoto(photo.name, photo.label, None, photo.reason)
    try:
        return DecodedPhoto(photo.name, photo.label, decode_square(photo.content, side))
    except PhotoRejected as error:
        return DecodedPhoto(photo.name, photo.label, None, str(error))
