"""The results of ``python -m benchmarks.photos``: one JSON file, and a page made from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import console, machine
from benchmarks.photos.arms import ARMS, BATCH, BEST, RATE
from benchmarks.photos.domains import TUNING, PhotoDomain
from benchmarks.photos.plots import plot_gap, plot_sizes
from distillation.protocol import versions, write_atomically
from starter.classes import DOMAINS
from starter.students import OPTIMIZER, teacher_name

FILE = "photos.json"
Results = list[dict[str, Any]]
KIND = ("params", "image_size", "steps", "rate", "base_steps", "base_optimizer", "teacher")
"""What the results of one table have in common; the rate is that of arms and levers which name none."""


def add_result(
    out: Path,
    *,
    domain: PhotoDomain,
    arm: str,
    seed: int,
    length: Mapping[str, float],
    report: dict[str, Any],
    extra: dict[str, Any],
) -> None:
    """Add one student's figures, or replace those of the same domain, arm, seed, student, length, base and teacher.

    Args:
        length: ``steps`` of the student and ``base_steps`` of its base, ``generator_minutes`` of a domain's own one.
    """
    student, real, synthetic, training = (report[key] for key in ("student", "real", "synthetic", "training"))
    result = {
        "domain": domain.name,
        "classes": len(domain.labels),
        "missing_classes": domain.missing,
        "arm": arm,
        "seed": seed,
        **length,
        "rate": RATE,
        "base_optimizer": OPTIMIZER,
        "teacher": teacher_name(),
        "architecture": student["architecture"],
        "params": student["params"],
        "image_size": student["image_size"],
        "saving_vs_image_tower": student["saving_vs_image_tower"],
        "photos": real["images"],
        "teacher_real": real["teacher"]["acc1"],
        "student_real": real["student"]["acc1"],
        "teacher_synthetic": synthetic["teacher"]["acc1"],
        "student_synthetic": synthetic["student"]["acc1"],
        "agreement_real": real["agreement"],
        "training_seconds": round(training["steps"] * training["batch_size"] / training["images_per_s"], 1),
        "machine": machine(),
        "versions": versions(),
        **extra,
    }
    same = ("domain", "arm", "seed", *KIND, "architecture")
    kept = [one for one in _read(out) if any(one[key] != result[key] for key in same)]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / FILE, json.dumps([*kept, result], indent=1) + "\n")


def write_results(out: Path) -> None:
    """Write ``photos.md`` and the plots from ``photos.json``."""
    results = _read(out)
    measured = [one for one in results if one["domain"] in DOMAINS]
    write_atomically(out / "photos.md", page(results))
    if measured:
        plot_gap(_latest_table(measured), out / "photos-gap.svg")
    if of_l2 := [one for one in measured if one["arm"] == "l2"]:
        plot_sizes([one for one in of_l2 if one["teacher"] == of_l2[-1]["teacher"]], out / "photos-sizes.svg")
    console.print(f"written: {out / FILE}, {out / 'photos.md'} and its plots")


def page(results: Results) -> str:
    """The page in Markdown: a table for each domain and of their mean, one of all students, one of levers."""
    lines = ["# Students on real photos", "", *_explanation(), ""]
    if measured := [one for one in results if one["domain"] in DOMAINS]:
        lines += _domains(_latest_table(measured))
    if compared := [one for one in measured if one["arm"] in ("l2", BEST)]:
        lines += _kinds(compared)
    if tried := [one for one in results if one["domain"] == TUNING]:
        lines += _levers(_latest_table(tried))
    return "\n".join(lines)


def _explanation() -> list[str]:
    return [
        "Written by `python -m benchmarks.photos`; every figure is in `photos.json`. Students are trained on synthetic",
        "images of the domain only, from a base student that has seen no photo of its classes; top-1 in per cent.",
        "`real - teacher` is the distance from the teacher on photos, `gap` is held-out synthetic minus real beyond",
        "the teacher's own, `seconds` are of the training, `corrupted` is real photos under ImageNet-C's corruptions",
        "at severities 1, 3 and 5. Teachers are named by the first digits of their weights' sha256.",
    ]


def _setting(results: Results) -> str:
    one, seeds = results[-1], len({result["seed"] for result in results})
    return (
        f"{one['architecture']} at {one['image_size']} pixels, {one['params'] / 1e6:.2f} M parameters, "
        f"{one['saving_vs_image_tower']:.1%} fewer than the teacher's image tower; {one['steps']} steps of {BATCH} at "
        f"rate {one['rate']:g} from a base of {one['base_steps']}, {one['base_optimizer']}; teacher {one['teacher']}; "
        f"{seeds} seed(s). {one['machine']['cpu']}, {one['machine']['threads']} threads, "
        f"GPU: {one['machine']['gpu'] or 'none'}, torch {one['versions']['torch']}, Python {one['versions']['python']}."
    )


def _domains(results: Results) -> list[str]:
    lines = [_setting(results), ""]
    names = list(dict.fromkeys(one["domain"] for one in results))
    for name in names:
        chosen = [one for one in results if one["domain"] == name]
        first = chosen[0]
        missing = first["missing_classes"]
        remark = f" {missing} classes that the generator cannot draw are left out." if missing else ""
        if minutes := first.get("generator_minutes"):
            remark += f" Images are of a generator of its own, trained for {minutes:g} minutes on its training photos."
        lines += [
            f"## {name.capitalize()}: {first['classes']} classes, {first['photos']} photos",
            "",
            f"The teacher has {first['teacher_real']:.1%} on the photos and {first['teacher_corrupted']:.1%} on "
            f"corrupted ones; chance is {1 / first['classes']:.1%}.{remark}",
            "",
            *_table(chosen, ARMS),
            "",
        ]
    if len(names) > 1:
        domains_of = {arm: {one["domain"] for one in results if one["arm"] == arm} for arm in ARMS}
        everywhere = [arm for arm in ARMS if len(domains_of[arm]) == len(names)]
        lines += ["## Mean over the domains", "", "Of the arms that all domains have.", ""]
        lines += [*_table(results, everywhere), ""]
    return [*lines, "![accuracy on synthetic images against accuracy on real photos](photos-gap.svg)", ""]


def _kinds(results: Results) -> list[str]:
    """A row for every student, length, base and teacher: how the paper's loss and the shipped one do."""
    rows = [
        "## All students, mean over the domains",
        "",
        "| student | pixels | parameters | fewer | teacher | base's steps | steps, rate | domains | "
        "`l2`: real | real - teacher | `best`: real | real - teacher |",
        "|---" * 12 + "|",
    ]
    for _, chosen in sorted(_of_one_kind(results).items()):
        one = chosen[0]
        cells = [one["architecture"], one["image_size"], f"{one['params']:,}", f"{one['saving_vs_image_tower']:.1%}"]
        cells += [one["teacher"], f"{one['base_steps']}, {one['base_optimizer']}", f"{one['steps']}, {one['rate']:g}"]
        cells.append(", ".join(dict.fromkeys(result["domain"] for result in chosen)))
        for arm in ("l2", BEST):
            if not (of_arm := [result for result in chosen if result["arm"] == arm]):
                cells += ["", ""]
                continue
            real, teacher = (_mean(of_arm, key) for key in ("student_real", "teacher_real"))
            cells += [f"{real:.1f}", f"{real - teacher:+.1f}"]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return [*rows, "", "![accuracy against parameters](photos-sizes.svg)", ""]


def _levers(results: Results) -> list[str]:
    names = list(dict.fromkeys(one["arm"] for one in results))
    text = (
        f"Tried on {results[-1]['classes']} animals, measured on {results[-1]['photos']} training photos, which "
        "these students had not seen (teacher and generator had): no photo of the tables above decided anything. What "
        "pays is decided by `agreement` with the teacher on these and by held-out synthetic images."
    )
    return ["## Levers", "", text, "", _setting(results), "", *_table(results, names), ""]


def _table(results: Results, arms: Iterable[str]) -> list[str]:
    """A row for each arm that was run: the mean of its results. Levers are not measured on corrupted photos."""
    rows: list[list[str]] = []
    for arm in arms:
        if not (chosen := [one for one in results if one["arm"] == arm]):
            continue
        real, synthetic, teacher = (_mean(chosen, key) for key in ("student_real", "student_synthetic", "teacher_real"))
        row = {
            "arm": arm,
            "real": f"{real:.1f}",
            "real - teacher": f"{real - teacher:+.1f}",
            "synthetic": f"{synthetic:.1f}",
            "gap": f"{(synthetic - real) - (_mean(chosen, 'teacher_synthetic') - teacher):+.1f}",
            "agreement": f"{_mean(chosen, 'agreement_real'):.1f}",
            "seconds": f"{statistics.fmean(one['training_seconds'] for one in chosen):.0f}",
        }
        if "student_corrupted" in chosen[0]:
            row["corrupted"] = f"{_mean(chosen, 'student_corrupted'):.1f}"
        if not rows:
            rows = [list(row), ["---"] * len(row)]
        rows.append(list(row.values()))
    return [f"| {' | '.join(row)} |" for row in rows]


def _mean(results: Results, key: str) -> float:
    """In per cent."""
    return 100 * statistics.fmean(one[key] for one in results)


def _latest_table(results: Results) -> Results:
    """Of the latest teacher, the results of the student and lengths that most arms were run with."""
    latest = [one for one in results if one["teacher"] == results[-1]["teacher"]]
    return max(reversed(_of_one_kind(latest).values()), key=len)


def _of_one_kind(results: Results) -> dict[tuple[Any, ...], Results]:
    """Results by :data:`KIND`."""
    groups: dict[tuple[Any, ...], Results] = {}
    for one in results:
        groups.setdefault(tuple(one[key] for key in KIND), []).append(one)
    return groups


def _read(out: Path) -> Results:
    path = out / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
