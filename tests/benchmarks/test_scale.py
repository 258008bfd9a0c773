"""The command on two tiny rounds: one worker, then two, real ones; both make the same images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scale


@pytest.mark.timeout(1200)
def test_workers_share_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.OUT", tmp_path)
    monkeypatch.setattr(scale, "WARM_UP_SHARDS", 2)
    scale.main([1, 2], 64, 4, 1)
    written = json.loads((tmp_path / "scale.json").read_text())
    assert written["settings"]["images"] == 64 and written["settings"]["threads"] >= 1
    assert [len(written["seconds"][number]) for number in ("1", "2")] == [1, 1]
    assert written["speed_up"]["1"]["median"] == 1.0 and written["speed_up"]["2"]["median"] > 0
    assert written["ideal"]["1"] == 1.0 and 1.0 <= written["ideal"]["2"] <= 2.0
