"""The students' benchmark, whole, on one student and a small peer at 64 pixels; and the Pareto front."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import typer

from benchmarks import harness
from benchmarks.students import __main__ as students
from benchmarks.students import networks
from benchmarks.students.results import pareto_front
from distillation.catalogue import FULL_STUDENTS


def test_a_student_and_its_peer_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path / "bench")
    monkeypatch.setattr(networks, "PEERS", ("ViT-S-32-alt",))
    monkeypatch.setattr(students, "SLICE_SECONDS", 0.0)
    out = tmp_path / "results"
    students.main(["mobilenetv4_conv_small"], 64, 3, 1, out)
    content = json.loads((out / "students.json").read_text(encoding="utf-8"))
    assert content == json.loads((tmp_path / "bench" / "students.json").read_text(encoding="utf-8"))
    peer, student = content["students"]
    assert [peer["name"], student["name"]] == ["ViT-S-32-alt", "mobilenetv4_conv_small"]
    row = next(row for row in FULL_STUDENTS if row.architecture == student["name"])
    width = open_clip.get_model_config("ViT-S-32-alt")["embed_dim"]
    assert student["params"] == row.resolve(width).params and student["preset"] == row.preset
    assert peer["saving_vs_image_tower"] == 0 < peer["saving_vs_whole"] < 1
    assert 0 < student["saving_vs_image_tower"] < student["saving_vs_whole"] < 1
    for one in (peer, student):
        assert one["difference_from_torch"] < 1e-3, "onnxruntime computes what PyTorch computes"
        assert one["bytes"]["int8"] < 0.5 * one["bytes"]["fp32"]
        assert 0.5 < one["int8_gate"]["cosine"] <= 1.001
        assert all(one["latency_ms"][precision][batch] > 0 for precision in ("fp32", "int8") for batch in ("1", "32"))
    assert student["on_front"] and not peer["on_front"], "there is one student, and a peer is none"
    page = (out / "students.md").read_text(encoding="utf-8")
    assert "| mobilenetv4_conv_small | xs |" in page and "| xs | mobilenetv4_conv_small | yes |" in page


def test_an_unknown_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no resnet9999"):
        students.main(["resnet9999"], None, 3, 1, tmp_path)


def test_the_front_is_what_no_other_beats() -> None:
    figures = {"fast": (1, 70), "dominated": (3, 75), "twin": (2, 80), "other twin": (2, 80), "best": (9, 85)}
    rows = [{"name": name, "top1": top1, "latency_ms": {"fp32": {"1": ms}}} for name, (ms, top1) in figures.items()]
    assert pareto_front(rows) == {"fast", "twin", "other twin", "best"}
