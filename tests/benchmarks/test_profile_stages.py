"""Shares of a job's time: every stage is there, its parts are its seconds, operators are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.profile_stages import FAMILIES, OTHER, OUTSIDE, family, main


def test_every_stage_of_a_job_is_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    main(images=10, steps=2, batch_size=8)
    seconds = json.loads((tmp_path / "profile_stages.json").read_text(encoding="utf-8"))["seconds"]
    assert list(seconds) == ["prompts", "generate", "distil", "evaluate", "export"]
    for stage, parts in seconds.items():
        assert list(parts) == [*FAMILIES, OTHER, OUTSIDE]
        assert all(value >= 0 for value in parts.values())
        assert (parts["convolutions"] > 0) == (stage != "prompts"), stage
    assert seconds["distil"]["optimiser and averages"] > 0


def test_operators_are_told_apart_by_name() -> None:
    assert family("aten::mkldnn_convolution") == "convolutions"
    assert family("aten::addmm") == "matrix products, attention"
    assert family("aten::_fused_adamw_") == "optimiser and averages"
    assert family("aten::native_batch_norm_backward") == "normalisation"
    assert family("aten::relu") == OTHER
