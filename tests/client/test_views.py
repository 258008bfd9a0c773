"""What people see: the report's tables, stages, progress lines."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console, RenderableType
from stillroom.cli_datasets import dataset_view
from stillroom.errors import field_errors
from stillroom.progress import LiveBars, job_display
from stillroom.rendering import megabytes, rows_table, seconds_text
from stillroom.report_view import generator_report_view, report_view
from stillroom.schemas import Event, Job

from tests.api.seeds import GENERATOR_REPORT
from tests.client.faulty import event, job


def text_of(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(view)
    return cast(io.StringIO, console.file).getvalue()


def scores(acc1: float) -> dict[str, float]:
    return {"acc1": acc1, "acc5": 0.99, "mean_per_class_recall": acc1}


def report(**changes: Any) -> dict[str, Any]:
    whole = {
        "domain": "fruit",
        "classes": 2,
        "teacher": {"model": "starter", "params_image_tower": 9_000_000, "params_total": 12_000_000},
        "student": {
            "architecture": "tiny_net",
            "image_size": 64,
            "params": 720_000,
            "macs": 1,
            "saving_vs_image_tower": 0.92,
            "saving_vs_whole": 0.94,
            "init": "base",
        },
        "synthetic": {
            "images": 1200,
            "teacher": scores(0.9123),
            "student": scores(0.8),
            "agreement": 0.87,
            "feature_cosine": 0.931,
        },
        "real": None,
        "gap": None,
        "per_class": [
            {"class": "apple", "images": 600, "teacher_recall": 0.9, "student_recall": 0.75, "on": "synthetic"},
            {"class": "[fig]", "images": 600, "teacher_recall": 0.9, "student_recall": None, "on": "synthetic"},
        ],
        "confusions": [{"class": "apple", "taken_for": "[fig]", "count": 12}],
        "generation": {
            "images": 1200,
            "dropped": {"disagrees": 30, "near_constant": 4},
            "images_per_s": 9.5,
            "teacher_acc1": 0.7,
        },
        "training": {"steps": 600, "images_per_s": 1500.0, "losses": {"l2": 1.0}},
        "latency": [{"file": "image_encoder.onnx", "precision": "fp32", "batch": 1, "p50_ms": 1.234, "p95_ms": 2.0}],
        "int8": {"kept": False, "cosine": 0.9, "acc1_drop": 0.2, "reason": "cosine 0.9 is under 0.98"},
        "files": [{"name": "image_encoder.onnx", "sha256": "ab" * 32, "size": 2_900_000}],
        "versions": {},
        "machine": "2 cores",
    }
    return {**whole, **changes}


def test_report_shows_teacher_beside_student() -> None:
    text = text_of(report_view(report()))
    for part in (
        "91.2%",
        "80.0%",
        "720,000 (92.0% fewer)",
        "12,000,000",
        "87.0%",
        "0.931",
        "34 dropped",
        "600 training steps",
    ):
        assert part in text
    for part in ("[fig]", "1.23 ms", "2.9 MB", "ab" * 32, "no int8 file: cosine 0.9 is under 0.98"):
        assert part in text
    assert "real photos" not in text


def test_report_with_real_photos_shows_the_gap() -> None:
    real = {"images": 50, "teacher": scores(0.5), "student": scores(0.4), "agreement": 0.6, "feature_cosine": 0.8}
    text = text_of(report_view(report(real=real, gap={"teacher": 0.41, "student": 0.4})))
    assert "50 real photos" in text and "+41.0%" in text and "+40.0%" in text
    noted = text_of(report_view(report(real={**real, "notes": ["The generator learnt from these photos."]})))
    assert "The generator learnt from these photos." in noted and "learnt from" not in text


def test_report_of_a_job_that_is_not_exported_yet() -> None:
    bare = {key: value for key, value in report().items() if key not in ("files", "latency", "int8", "machine")}
    assert "held-out synthetic images" in text_of(report_view(bare))


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_stages_warnings_and_time(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    with job_display(console) as display:
        display.update(cast(Job, job("generating")))
        if isinstance(display, LiveBars):
            display.progress.refresh()
        display.event(cast(Event, event(1, level="warning").model_dump()))
        display.update(cast(Job, job("succeeded")))
    text = out.getvalue()
    for part in ("prompts", "generate", "reused", "30/60 images", "12.5/s", "4 s left", "warning: event 1"):
        assert part in text
    assert ("\x1b" in text) == terminal


def test_field_errors_are_dotted_paths() -> None:
    problem = {
        "errors": [
            {"pointer": "/recipe/training/losses/a~1b", "message": "unknown", "in": "body"},
            {"pointer": "/status", "message": "unknown", "in": "query"},
            {"pointer": "", "message": "not JSON", "in": "body"},
        ]
    }
    assert [item.field for item in field_errors(problem)] == ["training.losses.a/b", "status (query)", "(whole)"]


def test_numbers_for_people() -> None:
    assert [megabytes(0), megabytes(2_500_000)] == ["0 B", "2.5 MB"]
    assert [seconds_text(None), seconds_text(3.14159), seconds_text(150)] == ["", "3.1 s", "2 min 30 s"]
    assert "1,000" in text_of(rows_table([{"name": "a", "params": 1000}, {"name": "b", "params": None}]))


def test_photos_left_out_are_counted_beyond_those_listed() -> None:
    listed = [{"file": f"{number}.jpg", "reason": "broken"} for number in range(1000)]
    dataset = {"id": "ds_1", "name": "mine", "images": 5000, "classes": ["a"], "created_at": None, "rejected": listed}
    shown = text_of(dataset_view({**dataset, "rejected_count": 1234}))
    assert "left out (1,234)" in shown and shown.count("1,234") == 2 and shown.count("broken") == 20
    assert "left out (1,000)" in text_of(dataset_view(dataset)), "of an older service"


def test_a_generator_that_repeats_itself_is_seen() -> None:
    shown = text_of(generator_report_view({**GENERATOR_REPORT, "variety": {"generated": 0.0, "held_out": 0.5}}))
    assert "variety within a class" in shown and "0.0000" in shown and "0.5000" in shown
    earlier = {name: value for name, value in GENERATOR_REPORT.items() if name != "variety"}
    assert "variety" not in text_of(generator_report_view(earlier))
