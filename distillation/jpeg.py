"""JPEG shards written by a thread while the next batch is sampled: a tar file that webdataset reads."""

from __future__ import annotations

import io
import os
import queue
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 90
WAITING_BATCHES = 4
BUFFER_BYTES = 2**18
BLOCK = 512
NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 135), slice(148, 154)
"""Of a tar header, the fields that differ between members. USTAR: a sum over all bytes, its own field as spaces."""

Encode = Callable[[NDArray[np.uint8]], bytes]


def encode_with_pillow(image: NDArray[np.uint8]) -> bytes:
    """JPEG of a uint8 ``(height, width, 3)`` image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def encoder() -> Encode:
    """simplejpeg (libjpeg-turbo, without the global lock) where it is installed, else Pillow."""
    try:
        import simplejpeg
    except ImportError:
        return encode_with_pillow

    def encode(image: NDArray[np.uint8]) -> bytes:
        data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=QUALITY, colorsubsampling="420")
        return data

    return encode


_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_SUM = int(_HEADER[CHECKSUM], 8) - sum(_HEADER[SIZE])


def member_header(index: int, size: int) -> bytes:
    """The header ``tarfile`` writes for the member ``{index:08d}.jpg``; its own takes it as long as a small JPEG."""
    name, length = b"%08d.jpg" % index, b"%011o" % size
    checksum = b"%06o" % (_SUM + sum(name) + sum(length))
    start, middle, end = _HEADER[NAME.stop : SIZE.start], _HEADER[SIZE.stop : CHECKSUM.start], _HEADER[CHECKSUM.stop :]
    return b"".join((name.ljust(NAME.stop, b"\0"), start, length, middle, checksum, end))


class JpegWriter:
    """Appends ``{index:08d}.jpg`` members to a tar file in its own thread.

    A full queue makes ``put`` wait, so memory stays bounded. An error in the thread (disk full) is raised by the next
    call. Headers carry no time or owner: equal images give equal files.

    Args:
        path: the tar file; what lies beyond ``offset`` is cut off, so an interrupted shard goes on.
        offset: bytes known to be whole, from an earlier :meth:`sync`.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._file = path.open("r+b" if offset else "w+b", BUFFER_BYTES)
        self._file.seek(offset)
        self._file.truncate()
        self._encode = encoder()
        self._queue: queue.Queue[tuple[Sequence[int], NDArray[np.uint8]] | None] = queue.Queue(WAITING_BATCHES)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="jpeg-writer", daemon=True)
        self._thread.start()

    def put(self, indices: Sequence[int], images: NDArray[np.uint8]) -> None:
        """Queue a batch ``(n, height, width, 3)``; the array must not change afterwards."""
        self._raise()
        self._queue.put((indices, images))

    def sync(self) -> int:
        """Wait until everything queued is on disk; returns the file's length so far."""
        self._queue.join()
        self._raise()
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self, *, finish: bool = True) -> None:
        """Stop the thread; ``finish`` also ends the archive with its two empty blocks."""
        self._queue.put(None)
        self._thread.join()
        try:
            if finish:
                self._raise()
                self._file.write(bytes(2 * BLOCK))
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.close(finish=kind is None)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:
                    for index, image in zip(*item, strict=True):
                        self._append(index, self._encode(image))
            except BaseException as error:
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _append(self, index: int, data: bytes) -> None:
        self._file.write(member_header(index, len(data)) + data + bytes(-len(data) % BLOCK))
