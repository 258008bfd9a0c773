"""The comparison of training steps, whole, with a small student and teacher and few images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import distil, distil_data, harness
from benchmarks.peers import timm_peer

CPU = torch.device("cpu")


def test_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(distil_data, "STORED", 12)
    monkeypatch.setitem(distil.LOOP_STEPS, "cpu", 4)
    ratios = distil.main(student="test_resnet", teacher="ViT-S-32-alt", batch_size=4, rounds=3, threads=1)
    peers = {"open_clip", "open_clip, tuned", "online L2", "online L2, tuned", "cached", "cached, tuned"}
    assert ratios.keys() >= {*peers, "training loop / bare step"}
    written = json.loads((tmp_path / "distil.json").read_text(encoding="utf-8"))
    assert written["images_per_s"].keys() >= {*peers, "ours", "ours, training loop"}
    assert written["ratios"]["cached"]["median"] == ratios["cached"].median
    assert all(one.low <= one.median <= one.high for one in ratios.values())
    assert written["limit_images_per_s"] > 0 and written["student"]["activations"] > 224 * 224


def test_arms_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(distil_data, "STORED", 12)
    monkeypatch.setattr(distil, "l2", lambda student, teacher: 2 * (student - teacher).norm(dim=-1).mean())
    with pytest.raises(SystemExit, match="do not compute the same loss"):
        distil.main(student="test_resnet", teacher="ViT-S-32-alt", batch_size=4, rounds=3, threads=1)


def test_activations_are_counted() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2, padding=1), torch.nn.ReLU())
    assert distil.count_activations(model, 8) == 5 * 4 * 4


@pytest.mark.parametrize("tuned", [False, True])
def test_the_step_of_timm_learns(tuned: bool) -> None:
    torch.manual_seed(0)
    peer = timm_peer("test_resnet", tuned=tuned, compiled=False, device=CPU, lr=1e-3)
    pixels, labels = torch.randn(8, 3, 64, 64), torch.arange(8)
    first, *_, last = [peer.step(pixels, labels).item() for _ in range(8)]
    assert last < 0.9 * first
