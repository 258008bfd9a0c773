"""The comparison of teacher features, whole, with a small teacher and few images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import teacher as benchmark
from models.teachers import SAME_FEATURES, bf16_is_native


def test_features_are_compared_and_costs_counted(
    vit_teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.harness.OUT", tmp_path)
    benchmark.main(model=vit_teacher_folder, images=4, views=2, rounds=3, threads=1)
    result = json.loads((tmp_path / "teacher.json").read_text(encoding="utf-8"))
    arms = {"open_clip", "open_clip, channels-last"}
    if bf16_is_native(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        arms |= {"open_clip, autocast", "open_clip, bf16"}
    if torch.cuda.is_available():
        arms.add("open_clip, compiled")
    assert set(result["ratios"]) == arms and set(result["views_per_s"]) == {*arms, "ours"}
    cosines = result["smallest_cosine"]
    assert cosines["open_clip"] > 1 - 1e-6 and cosines["ours"] >= SAME_FEATURES
    if bf16_is_native(torch.device("cpu")) and not torch.cuda.is_available():
        assert cosines["ours"] < 1, "ours are rounded features, not the peer's own"
    assert result["teacher"]["macs"] > 1e6 and result["share_of_limit"] > 0
    # 48 numbers of fp16 and five of fp32 for each view
    assert {int(n): row["bytes"] for n, row in result["cost_of_views"].items()} == {n: n * 116 for n in (1, 4, 8, 16)}
    assert all(row["ms"] > 0 for row in result["cost_of_views"].values())


def test_features_of_something_else_end_it() -> None:
    expected = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert benchmark._agreement({"open_clip": expected, "ours": expected})["ours"] == pytest.approx((1, 1))
    with pytest.raises(SystemExit, match="not open_clip's features"):
        benchmark._agreement({"open_clip": expected, "ours": expected.flip(0)})
