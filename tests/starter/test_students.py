"""The command that trains the base students, one step long."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distillation.plan import STARTER
from starter import students
from tests.benchmarks.test_photos import write_data


def test_s_starts_from_the_weights_of_xs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    monkeypatch.setattr(students, "STEPS", {"s": 1})
    monkeypatch.setattr(students, "STARTER", tmp_path / "weights")
    shutil.copytree(STARTER / "students" / "xs", tmp_path / "weights" / "students" / "xs")
    (tmp_path / "weights" / "teacher").symlink_to(STARTER.absolute() / "teacher")
    made = students.train_base_student(tmp_path, tmp_path / "work", preset="s", steps=None, views=2, seed=0)
    described = json.loads((made / "student.json").read_text(encoding="utf-8"))
    assert (described["init"], described["image_size"]) == ("agnostic", 96)
    assert (made / "student.safetensors").stat().st_size < 2.1 * described["params"], "shipped in half precision"
