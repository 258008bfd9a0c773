"""What a stage's process needs in memory does not grow with the images it trains on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np

from distillation.protocol import Request
from distillation.stage_process import StageProcess
from models.teachers import load_teacher
from tests.distillation.training_folders import training_recipe, write_training_shard

MIB = 1 << 20
LARGE = 600 * MIB
WAIT_SECONDS = 250


def enlarge(shard: Path, folder: Path, size: int) -> Path:
    """The shard with its images repeated until the pixels have ``size`` bytes; those are holes in a sparse file."""
    shutil.copytree(shard, folder)
    few = np.load(shard / "pixels.npy")
    count = size // few[0].nbytes
    for name in ("labels", "views", "features"):
        array = np.load(shard / f"{name}.npy")
        np.save(folder / f"{name}.npy", np.resize(array, (count, *array.shape[1:])))
    np.save(folder / "holdout.npy", np.arange(count) < 36)
    np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(count, *few.shape[1:]))
    return folder


def peak_of(request: Request) -> int:
    """Run a stage in a process of its own; its peak in bytes, by its manifest."""
    request.out.mkdir(parents=True)
    request.write(request.out.parent / "request.json")
    process = StageProcess(request.out.parent / "request.json")
    deadline = time.monotonic() + WAIT_SECONDS
    while process.exit_status() is None:
        assert time.monotonic() < deadline
        process.line()
    process.close()
    assert process.exit_status() == 0, process.stderr_tail
    return int(json.loads((request.out / "manifest.json").read_text())["peak_memory"])


def test_a_corpus_larger_than_its_allowance_is_not_read_into_memory(teacher_folder: Path, tmp_path: Path) -> None:
    small = write_training_shard(tmp_path / "small", load_teacher(str(teacher_folder)), 0)
    large = enlarge(small, tmp_path / "large", LARGE)
    assert (large / "pixels.npy").stat().st_size >= LARGE - MIB
    wanted = training_recipe(teacher_folder, steps=4)
    peaks = [
        peak_of(Request("distil", 0, "0" * 64, wanted, {"generate": [shard]}, tmp_path / "work" / shard.name / "out"))
        for shard in (small, large)
    ]
    assert peaks[0] > 50 * MIB
    assert peaks[1] - peaks[0] < LARGE / 4
