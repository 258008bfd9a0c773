"""The files of one generate shard: memory-mapped while it grows, so that an interrupted shard goes on where it was.

``partial/`` holds one array row for every planned image and ``progress.npz``, which says which rows are whole; it is
replaced atomically after everything it speaks of is on disk. Finishing copies the kept rows out, in order of index;
until then ``room`` keeps the disk space that the copies will need.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

PENDING, KEPT, GIVEN_UP = 0, 1, 2
COPY_ROWS = 512
Shapes = dict[str, tuple[tuple[int, ...], str]]


@dataclass
class Progress:
    """How far a shard is.

    Args:
        state: PENDING, KEPT or GIVEN_UP for each row.
        attempts: tries made at each row.
        near_constant, disagrees: images dropped so far, by reason.
        first_right: first tries that the teacher took for the intended class.
        jpeg_bytes: whole length of images.tar.
        seconds: time spent, over all attempts of the task.
    """

    state: NDArray[np.int8]
    attempts: NDArray[np.int16]
    near_constant: int = 0
    disagrees: int = 0
    first_right: int = 0
    jpeg_bytes: int = 0
    seconds: float = 0.0

    @property
    def kept(self) -> int:
        return int((self.state == KEPT).sum())

    @property
    def sampled(self) -> int:
        return int(self.attempts.sum())

    @property
    def dropped(self) -> int:
        return self.near_constant + self.disagrees

    def next_rows(self, count: int) -> NDArray[np.intp]:
        """Up to ``count`` rows to try next: fewest tries first, then by index. Depends on nothing else."""
        pending = np.flatnonzero(self.state == PENDING)
        return pending[np.argsort(self.attempts[pending], kind="stable")[:count]]


@dataclass
class ShardFiles:
    """Growing arrays ``(rows, ...)`` by name, and their progress."""

    folder: Path
    arrays: dict[str, np.memmap[Any, np.dtype[Any]]]
    progress: Progress = field(repr=False)

    @classmethod
    def open(cls, out: Path, rows: int, shapes: Shapes) -> ShardFiles:
        """Open the unfinished shard in ``out``, or start one.

        Args:
            shapes: shape of one row and dtype, by name.

        Raises:
            OSError: the disk has no room for the whole shard and the copy that finishing makes (found here, not in
                the middle of the work).
        """
        folder = out / "partial"
        saved = folder / "progress.npz"
        wanted = {name: ((rows, *shape), np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
        if saved.is_file():
            arrays = {name: open_memmap(folder / f"{name}.npy", mode="r+") for name in shapes}
            if all((a.shape, a.dtype) == wanted[name] for name, a in arrays.items()):
                with np.load(saved) as content:
                    values = {name: content[name] for name in content.files}
                scalars = {name: value.item() for name, value in values.items() if value.ndim == 0}
                progress = Progress(values["state"], values["attempts"], **scalars)
                return cls(folder, arrays, progress)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        arrays = {name: _new_array(folder / f"{name}.npy", dtype, shape) for name, (shape, dtype) in wanted.items()}
        _reserve(folder / "room", sum((folder / f"{name}.npy").stat().st_size for name in wanted))
        return cls(folder, arrays, Progress(np.zeros(rows, np.int8), np.zeros(rows, np.int16)))

    def save(self) -> None:
        """Put everything on disk; after this the work so far survives a kill or a crash of the machine."""
        for array in self.arrays.values():
            array.flush()
        fresh = self.folder / "progress.new.npz"
        with fresh.open("wb") as file:
            np.savez(file, **vars(self.progress))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.folder / "progress.npz")

    def finish(self, out: Path) -> NDArray[np.intp]:
        """Write the kept rows of every array to ``out`` and return their numbers. May be repeated after a crash.

        Raises:
            OSError: the disk is full; what was saved is still whole.
        """
        kept = np.flatnonzero(self.progress.state == KEPT)
        (self.folder / "room").unlink(missing_ok=True)
        for name, array in self.arrays.items():
            target = _new_array(out / f"{name}.npy", array.dtype, (len(kept), *array.shape[1:]))
            for start in range(0, len(kept), COPY_ROWS):
                target[start : start + COPY_ROWS] = array[kept[start : start + COPY_ROWS]]
            target.flush()
        return kept

    def remove(self) -> None:
        """Remove the unfinished shard; call it once everything in ``out`` is whole."""
        self.arrays.clear()
        # First: without it the rest is thrown away, should a kill leave some of it.
        (self.folder / "progress.npz").unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def _new_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    """A memory-mapped array with its room on the disk: without it, a full disk kills the process that writes to it."""
    array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    _reserve(path, path.stat().st_size)
    return array


def _reserve(path: Path, size: int) -> None:
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size)
