"""What more views give, whole, with few images and steps; on real photos too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, views
from tests.benchmarks.test_photos import write_data


def test_students_differ_in_their_views_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    write_data(tmp_path)
    work = tmp_path / "work"
    found = views.main(tmp_path, [1, 3], images_per_class=10, steps=2, seeds=1, work=work)
    assert found.keys() == {"1", "3", "4, not mirrored"}
    for [student] in found.values():
        assert all(0 <= student[name] <= 1 for name in ("synthetic", "unseen", "unseen_acc1", "real", "teacher_real"))
        assert (student["images"], student["photos"]) == (120, 8), "two photos of each class with an even label"
        assert student["unseen_photos"] == 16, "training photos"
    weights = {path.read_bytes() for path in work.glob("distil-*/student.safetensors")}
    assert len(weights) == 3, "scores of so few images may be equal by chance"
    pixels = {}
    for features in work.glob("generate-*/features.npy"):
        pixels[np.load(features).shape[1]] = np.load(features.with_name("pixels.npy"))
    assert np.array_equal(pixels[1], pixels[3]), "the same images"
    written = json.loads((tmp_path / "views.json").read_text(encoding="utf-8"))
    assert written["students"] == found
