"""What a tiny decoder costs students, whole, with few images and steps; on real photos too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, tiny_decoder
from tests.benchmarks.test_photos import write_data


def test_students_differ_in_their_generators_decoder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    demo = tiny_decoder.demo_recipe
    unfiltered = {"filter": {"teacher_agrees": False}}  # so short a lesson makes images that no teacher would take
    monkeypatch.setattr(
        tiny_decoder, "demo_recipe", lambda data=None, training=None: demo({**(data or {}), **unfiltered}, training)
    )
    write_data(tmp_path)
    work = tmp_path / "work"
    found = tiny_decoder.main(tmp_path, teaching_steps=20, images_per_class=10, steps=2, seeds=1, work=work)
    assert found["students"].keys() == {"own", "tiny"}
    for [student] in found["students"].values():
        assert all(0 <= student[name] <= 1 for name in ("synthetic", "agreement", "real", "teacher_real"))
        assert (student["images"], student["photos"]) == (120, 8)
    assert found["psnr"] > 10, "the tiny decoder draws what the own one draws"
    assert found["recognised"]["own"] > found["recognised"]["tiny"], "so short a lesson costs recognition"
    pixels = [np.load(path) for path in work.glob("generate-*/pixels.npy")]
    assert len(pixels) == 2
    assert not np.array_equal(*pixels), "two decoders, two sets of images"
    assert json.loads((tmp_path / "tiny_decoder.json").read_text(encoding="utf-8"))["students"] == found["students"]
