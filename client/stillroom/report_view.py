"""A job's evaluation report as tables: teacher beside student, then where the student errs, speed and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from stillroom.rendering import megabytes, table

METRICS = (("top-1", "acc1"), ("top-5", "acc5"), ("recall per class", "mean_per_class_recall"))
WORST_CLASSES = 10


def report_view(report: Mapping[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [_scores(report), Text(_sentence(report), "dim")]
    # What is to be said about the photos, such as that they were learnt from; older services send none.
    parts += [Text(note, "yellow") for note in (report.get("real") or {}).get("notes", [])]
    for part in (_classes(report), _confusions(report), _latency(report), _files(report)):
        if part is not None:
            parts += [Text(""), part]
    return Group(*parts)


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _scores(report: Mapping[str, Any]) -> RenderableType:
    teacher, student = report["teacher"], report["student"]
    made = table(
        "", "teacher", "student", title=f"{report['domain']}: {report['classes']} classes", right=("teacher", "student")
    )
    made.add_row("model", Text(str(teacher["model"])), Text(str(student["architecture"])))
    saving = percent(student.get("saving_vs_image_tower"))
    made.add_row(
        "parameters, image tower", f"{teacher['params_image_tower']:,}", f"{student['params']:,} ({saving} fewer)"
    )
    whole = percent(student.get("saving_vs_whole"))
    made.add_row("parameters, whole teacher", f"{teacher['params_total']:,}", f"({whole} fewer)")
    for key, label in (("synthetic", "held-out synthetic images"), ("real", "real photos")):
        part = report.get(key)
        if not part:
            continue
        made.add_section()
        made.add_row(Text(f"{part['images']:,} {label}", "bold"), "", "")
        for name, metric in METRICS:
            made.add_row(f"  {name}", percent(part["teacher"].get(metric)), percent(part["student"].get(metric)))
        made.add_row("  agreement with the teacher", "", percent(part.get("agreement")))
        cosine = part.get("feature_cosine")
        made.add_row("  feature cosine", "", "" if cosine is None else f"{cosine:.3f}")
    if gap := report.get("gap"):
        made.add_section()
        made.add_row("top-1, synthetic minus real", f"{gap['teacher']:+.1%}", f"{gap['student']:+.1%}")
    return made


def _sentence(report: Mapping[str, Any]) -> str:
    made, trained = report.get("generation") or {}, report.get("training") or {}
    dropped = sum((made.get("dropped") or {}).values())
    parts = [
        f"{made['images']:,} images made" if made.get("images") is not None else "",
        f"{dropped:,} dropped by the filter" if dropped else "",
        f"teacher top-1 on first tries {made['teacher_acc1']:.1%}" if made.get("teacher_acc1") is not None else "",
        f"{trained['steps']:,} training steps" if trained.get("steps") is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _classes(report: Mapping[str, Any]) -> RenderableType | None:
    rows = report.get("per_class") or []
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: row["student_recall"] or 0.0)
    shown = rows[:WORST_CLASSES]
    title = "recall per class" + (f", the {WORST_CLASSES} worst of {len(rows)}" if len(rows) > len(shown) else "")
    made = table("class", "images", "teacher", "student", "on", title=title, right=("images", "teacher", "student"))
    for row in shown:
        made.add_row(
            Text(row["class"]),
            f"{row['images']:,}",
            percent(row["teacher_recall"]),
            percent(row["student_recall"]),
            row["on"],
        )
    return made


def _confusions(report: Mapping[str, Any]) -> RenderableType | None:
    rows = report.get("confusions") or []
    if not rows:
        return None
    made = table("class", "taken for", "times", title="what the student mixes up", right=("times",))
    for row in rows:
        made.add_row(Text(row["class"]), Text(row["taken_for"]), f"{row['count']:,}")
    return made


def _latency(report: Mapping[str, Any]) -> RenderableType | None:
    rows = report.get("latency") or []
    if not rows:
        return None
    title = f"latency on {report['machine']}" if report.get("machine") else "latency"
    numbers = ("batch", "p50", "p95")
    made = table("file", "precision", "batch", "p50", "p95", title=title, right=numbers)
    for row in rows:
        made.add_row(
            row["file"], row["precision"], str(row["batch"]), f"{row['p50_ms']:.2f} ms", f"{row['p95_ms']:.2f} ms"
        )
    return made


def _files(report: Mapping[str, Any]) -> RenderableType | None:
    rows = report.get("files") or []
    if not rows:
        return None
    made = table("file", "size", "sha256", title="files", right=("size",))
    for row in rows:
        made.add_row(Text(row["name"]), megabytes(row["size"]), row["sha256"])
    int8 = report.get("int8") or {}
    if not int8 or int8.get("kept"):
        return made
    return Group(made, Text(f"no int8 file: {int8.get('reason') or 'it did not pass its parity gate'}", "dim"))


def generator_report_view(report: dict[str, Any]) -> RenderableType:
    """Of a generator: its images beside photos that were held out."""
    made = table("", "generated", "held-out photos", right=("generated", "held-out photos"))
    acc1, near = report["teacher_acc1"], report["nearest_training_photo"]
    made.add_row("teacher's top-1", f"{acc1['generated']:.1%}", f"{acc1['held_out']:.1%}")
    if apart := report.get("variety"):  # reports of earlier trainings have none
        made.add_row("variety within a class", *(f"{apart[key]:.4f}" for key in ("generated", "held_out")))
    if kid := report["kid"]:
        made.add_row("KID", *(f"{kid[key]['mean']:.4f}" for key in ("generated", "held_out_halves")))
    made.add_row(
        "nearest training photo, rms", *(f"{near[key]['smallest_rms']:.4f}" for key in ("generated", "held_out"))
    )
    made.add_row("images/s", f"{report['images_per_s']:,}", "")
    return made
