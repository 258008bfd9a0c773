"""AdamW and Muon in both phases, whole, with few photos, images and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import harness, optimizers
from tests.benchmarks.test_photos import write_data


def test_students_differ_in_phase_optimizer_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path)
    rates = {phase: {"adamw": [2e-3], "muon": [5e-3, 1e-2]} for phase in optimizers.RATES}
    monkeypatch.setattr(optimizers, "RATES", rates)
    write_data(tmp_path, every=8)
    work = tmp_path / "work"
    rows = optimizers.main(tmp_path, "xs", photos=48, photo_steps=2, images_per_class=10, steps=2, work=work)
    trained = [(phase, name, lr) for phase in rates for name, several in rates[phase].items() for lr in several]
    assert [(row["phase"], row["optimizer"], row["lr"]) for row in rows] == trained
    assert all(-1 <= row["cosine"] <= 1 and 0 <= row["agreement"] <= 1 and row["seconds"] > 0 for row in rows)
    assert {row["photos"] for row in rows} == {4}, "training photos of the demo's classes"
    weights = [path.read_bytes() for stage in ("agnostic", "distil") for path in work.glob(f"{stage}-*/student.safet*")]
    assert len(set(weights)) == len(trained) == 9
    cosines = {phase: max(row["cosine"] for row in rows if row["phase"] == phase) for phase in rates}
    assert cosines["base"] > max(cosines["photos"], cosines["scratch"]), "in two steps, the start decides"
    written = json.loads((tmp_path / "optimizers.json").read_text(encoding="utf-8"))
    assert written["students"] == rows
    monkeypatch.setattr(optimizers, "RATES", {"base": {"adamw": [2e-3]}})
    [longer] = optimizers.main(tmp_path, "xs", photos=48, photo_steps=2, images_per_class=10, steps=3, work=work)
    [before] = [row for row in rows if (row["phase"], row["optimizer"]) == ("base", "adamw")]
    assert longer["cosine"] != before["cosine"], "students of another length are not taken from the folder"
