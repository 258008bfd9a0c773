"""A job of 10,000 images, simulated, leaves what docs/scale.md states; and so do smaller ones of other shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import growth, simulated_job
from benchmarks.simulated_job import simulate
from benchmarks.simulated_stage import ENCODER, SMALL

SPARE_BYTES = 64 << 20
"""What mapped files and allocators may add to the memory of ten shards."""


def test_ten_thousand_images_grow_as_stated(database_url: str) -> None:
    found = simulate(10_000, 1024, 100, database_url)
    stated = growth.growth(10_000, 1024, 100, len(ENCODER))
    counted = found["counted"]
    assert {name: counted[name] for name in stated._fields} == stated._asdict() == found["formula"]
    assert stated.shards == 10 and stated.messages == 14
    assert counted["blobs"] <= counted["files"] + stated.tasks, "a blob for each file and for the list of each task"
    arrays = 10_000 * SMALL.array_bytes
    assert arrays <= counted["blob_bytes"] <= arrays + 10_000 * 400 + 1024 * counted["files"]
    assert counted["training_memory"] < SPARE_BYTES


def test_the_command_at_two_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More classes than a shard has images: samples are in the shards of the first image of each class."""
    monkeypatch.setattr("benchmarks.harness.OUT", tmp_path)
    simulated_job.main([200, 500], 40, 100, "")
    written = json.loads((tmp_path / "simulated-job.json").read_text())
    assert [run["images"] for run in written["runs"]] == [200, 500]
    for run in written["runs"]:
        assert {name: run["counted"][name] for name in run["formula"]} == run["formula"]
    assert [run["counted"]["shards"] for run in written["runs"]] == [5, 13]
