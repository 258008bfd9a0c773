"""A shard's files: order of the work, what is saved, what is thrown away."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from distillation.shard_files import GIVEN_UP, KEPT, Progress, Shapes, ShardFiles

SHAPES: Shapes = {"pixels": ((2, 2, 3), "uint8"), "whole": ((4,), "float16")}


def test_rows_with_fewest_tries_come_first() -> None:
    progress = Progress(np.array([KEPT, 0, 0, GIVEN_UP, 0], np.int8), np.array([1, 1, 0, 4, 0], np.int16))
    assert progress.next_rows(2).tolist() == [2, 4]
    assert progress.next_rows(9).tolist() == [2, 4, 1]
    assert (progress.kept, progress.sampled) == (1, 6)


def test_saved_work_is_found_again_and_finished_in_order(tmp_path: Path) -> None:
    files = ShardFiles.open(tmp_path, 4, SHAPES)
    files.arrays["pixels"][2] = 7
    files.arrays["whole"][2] = 0.5
    files.progress.state[2], files.progress.attempts[2] = KEPT, 3
    files.progress.near_constant, files.progress.jpeg_bytes, files.progress.seconds = 2, 1234, 1.5
    files.save()

    again = ShardFiles.open(tmp_path, 4, SHAPES)
    assert (again.progress.near_constant, again.progress.jpeg_bytes, again.progress.seconds) == (2, 1234, 1.5)
    assert again.progress.attempts.tolist() == [0, 0, 3, 0]
    again.arrays["pixels"][0] = 9
    again.progress.state[:] = [KEPT, GIVEN_UP, KEPT, GIVEN_UP]
    for _ in range(2):  # finishing may be repeated
        assert again.finish(tmp_path).tolist() == [0, 2]
    assert np.load(tmp_path / "pixels.npy")[:, 0, 0, 0].tolist() == [9, 7]
    assert np.load(tmp_path / "whole.npy").shape == (2, 4)
    again.remove()
    assert not (tmp_path / "partial").exists()


def test_work_of_another_shape_is_started_afresh(tmp_path: Path) -> None:
    files = ShardFiles.open(tmp_path, 4, SHAPES)
    files.progress.state[:] = KEPT
    files.save()
    assert ShardFiles.open(tmp_path, 5, SHAPES).progress.state.tolist() == [0] * 5


def test_arrays_without_saved_progress_are_not_trusted(tmp_path: Path) -> None:
    ShardFiles.open(tmp_path, 4, SHAPES).arrays["pixels"][:] = 1
    assert ShardFiles.open(tmp_path, 4, SHAPES).arrays["pixels"].sum() == 0


def test_room_for_the_copy_is_taken_at_the_start(tmp_path: Path) -> None:
    files = ShardFiles.open(tmp_path, 10_000, SHAPES)
    needed = sum(array.nbytes for array in files.arrays.values())
    assert sum(path.stat().st_blocks * 512 for path in files.folder.iterdir()) >= 2 * needed
    files.progress.state[:] = KEPT
    files.finish(tmp_path)
    taken = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*") if path.is_file())
    assert 2 * needed <= taken < 3 * needed, "given to the copy"


def test_a_disk_that_is_full_when_a_shard_ends_is_an_error_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _start: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = ShardFiles.open(tmp_path, 4, SHAPES)
    files.arrays["pixels"][:] = 7
    files.progress.state[:] = KEPT
    files.save()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("os.posix_fallocate", full)
        files.finish(tmp_path)
    assert ShardFiles.open(tmp_path, 4, SHAPES).finish(tmp_path).tolist() == [0, 1, 2, 3]
    assert (np.load(tmp_path / "pixels.npy") == 7).all()


def test_a_kill_while_files_are_removed_leaves_what_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        (folder / "pixels.npy").unlink()
        raise KeyboardInterrupt

    files = ShardFiles.open(tmp_path, 4, SHAPES)
    files.progress.state[:] = KEPT
    files.save()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        files.remove()
    assert ShardFiles.open(tmp_path, 4, SHAPES).progress.kept == 0
