"""The cold start benchmark, whole, on a job as small as can be, the service included."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks import cold_start, harness

NO_ONNX = {"onnx": False, "int8": False}
"""Conversion, which other tests see to, is the longest part of so small a job."""


def each_once(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The harness without its unmeasured round: a fresh process for every stage takes long enough."""
    seconds = {}
    for name, run in arms.items():
        began = time.perf_counter()
        run()
        seconds[name] = [time.perf_counter() - began]
    return seconds


@pytest.mark.usefixtures("preloaded_stages")
def test_all_arms_do_the_same_job_and_the_service_does_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(cold_start, "interleaved", each_once)
    whole = cold_start.recipe_of
    monkeypatch.setattr(cold_start, "recipe_of", lambda *sizes, **seed: whole(*sizes, **seed) | {"exports": NO_ONNX})
    cold_start.main(8, 2, 3, 1)
    content = json.loads((tmp_path / "cold_start.json").read_text(encoding="utf-8"))
    assert set(content["seconds"]) == {"fresh processes", "one command", "a worker"}
    assert set(content["ratios"]) == {"one command", "a worker"}
    for stages in content["stage_seconds"].values():
        assert list(stages) == ["prompts", "generate", "distil", "evaluate", "export"]
        assert all(seconds > 0 for seconds in stages.values())
    [job] = content["service_seconds"]
    assert 0 < job["first_image"] < job["first_step"] < job["end"]


def test_arms_with_different_students_are_told(tmp_path: Path) -> None:
    for number, arm in enumerate(("one", "other")):
        weights = tmp_path / arm / "stages" / "distil-0" / "out" / "student.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(bytes([number]))
    cold_start._check_same([tmp_path / "one"])
    with pytest.raises(SystemExit, match="do not train the same student"):
        cold_start._check_same([tmp_path / "one", tmp_path / "other"])
