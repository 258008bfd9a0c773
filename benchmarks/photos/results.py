"""The results of ``python -m benchmarks.photos``: one JSON file, a page and two plots made from it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.harness import console, machine
from benchmarks.photos.arms import ARMS
from benchmarks.photos.domains import PhotoDomain
from distillation.protocol import versions, write_atomically

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "stillroom"  # the same results give the same file
FILE = "photos.json"


def add_result(
    out: Path, *, domain: PhotoDomain, arm: str, seed: int, steps: int, report: dict[str, Any], extra: dict[str, Any]
) -> None:
    """Add one student's figures, or replace those of the same domain, arm and seed."""
    student, real, synthetic = report["student"], report["real"], report["synthetic"]
    result = {
        "domain": domain.name,
        "classes": len(domain.labels),
        "missing_classes": domain.missing,
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "architecture": student["architecture"],
        "params": student["params"],
        "saving_vs_image_tower": student["saving_vs_image_tower"],
        "photos": real["images"],
        "teacher_real": real["teacher"]["acc1"],
        "student_real": real["student"]["acc1"],
        "teacher_synthetic": synthetic["teacher"]["acc1"],
        "student_synthetic": synthetic["student"]["acc1"],
        "agreement_real": real["agreement"],
        "training_images_per_s": report["training"]["images_per_s"],
        "machine": machine(),
        "versions": versions(),
        **extra,
    }
    same = ("domain", "arm", "seed")
    kept = [one for one in _read(out) if any(one[key] != result[key] for key in same)]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / FILE, json.dumps([*kept, result], indent=1) + "\n")


def write_results(out: Path) -> None:
    """Write ``photos.md`` and the plots from ``photos.json``."""
    results = _read(out)
    write_atomically(out / "photos.md", page(results))
    _plot(results, out / "photos-gap.svg")
    console.print(f"written: {out / FILE}, {out / 'photos.md'}, {out / 'photos-gap.svg'}")


def page(results: list[dict[str, Any]]) -> str:
    """The tables, one for each domain and one of the means over domains, in Markdown."""
    domains = list(dict.fromkeys(one["domain"] for one in results))
    lines = ["# Students on real photos", "", *_head(results), ""]
    for name in domains:
        chosen = [one for one in results if one["domain"] == name]
        first = chosen[0]
        lines += [
            f"## {name.capitalize()}: {first['classes']} classes, {first['photos']} photos",
            "",
            f"The teacher has {first['teacher_real']:.1%} on the photos and {first['teacher_corrupted']:.1%} on "
            f"corrupted ones; chance is {1 / first['classes']:.1%}. "
            + (
                f"{first['missing_classes']} classes that the generator cannot draw are left out."
                if first["missing_classes"]
                else ""
            ),
            "",
            *_table(chosen),
            "",
        ]
    if len(domains) > 1:
        lines += ["## Mean over the domains", "", *_table(results), ""]
    return "\n".join([*lines, "![accuracy on synthetic images against accuracy on real photos](photos-gap.svg)", ""])


def _head(results: list[dict[str, Any]]) -> list[str]:
    one = results[-1]
    seeds = len({result["seed"] for result in results})
    return [
        "Written by `python -m benchmarks.photos`; every figure is in `photos.json`. Students are trained on synthetic",
        "images of the domain only, from a base student that has seen photos of all other classes; top-1 in per cent.",
        "`real - teacher` is the distance from the teacher on photos, `gap` is held-out synthetic minus real beyond",
        "the teacher's own, `corrupted` is real photos under ImageNet-C's corruptions at severities 1, 3 and 5.",
        "",
        f"{one['architecture']}, {one['params'] / 1e6:.2f} M parameters, {one['saving_vs_image_tower']:.1%} fewer than",
        f"the teacher's image tower; {one['steps']} steps of 128; {seeds} seed(s). {one['machine']['cpu']}, "
        f"{one['machine']['threads']} threads, GPU: {one['machine']['gpu'] or 'none'}, "
        f"torch {one['versions']['torch']}, Python {one['versions']['python']}.",
    ]


def _table(results: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| arm | real | real - teacher | synthetic | gap | corrupted | agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        if not (chosen := [one for one in results if one["arm"] == arm]):
            continue
        mean = {key: 100 * statistics.fmean(one[key] for one in chosen) for key in _FIGURES}
        gap = (mean["student_synthetic"] - mean["student_real"]) - (mean["teacher_synthetic"] - mean["teacher_real"])
        rows.append(
            f"| {arm} | {mean['student_real']:.1f} | {mean['student_real'] - mean['teacher_real']:+.1f} "
            f"| {mean['student_synthetic']:.1f} | {gap:+.1f} | {mean['student_corrupted']:.1f} "
            f"| {mean['agreement_real']:.1f} |"
        )
    return rows


_FIGURES = (
    "student_real", "teacher_real", "student_synthetic", "teacher_synthetic", "student_corrupted", "agreement_real"
)  # fmt: skip


def _plot(results: list[dict[str, Any]], file: Path) -> None:
    """Real against synthetic accuracy: an arm far to the right of the others has learnt what only synthetic has."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    domains = list(dict.fromkeys(one["domain"] for one in results))
    for name, marker in zip(domains, "osD^", strict=False):
        for number, arm in enumerate(ARMS):
            chosen = [one for one in results if (one["domain"], one["arm"]) == (name, arm)]
            if chosen:
                x, y = (
                    100 * statistics.fmean(one[key] for one in chosen) for key in ("student_synthetic", "student_real")
                )
                axes.scatter(x, y, marker=marker, color=f"C{number % 10}", s=45)
                axes.annotate(arm, (x, y), textcoords="offset points", xytext=(5, 3), fontsize=7)
        axes.scatter([], [], marker=marker, color="grey", label=name)
    axes.set(xlabel="top-1 on held-out synthetic images, %", ylabel="top-1 on real photos, %")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _read(out: Path) -> list[dict[str, Any]]:
    path = out / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
