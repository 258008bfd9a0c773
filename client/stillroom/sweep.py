"""A sweep: one recipe with students of several sizes, all on the same images and teacher features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from stillroom.client import Stillroom
from stillroom.errors import Invalid
from stillroom.recipes import changed
from stillroom.schemas import Job


class Accuracy(TypedDict):
    """Zero-shot top-1, 0 to 1."""

    teacher: float
    student: float


class SweepRow(TypedDict):
    """One job of a sweep. What is not known yet is None.

    ``fewer_params``: the percentages asked for; ``saving_vs_image_tower``: the share there really is, 0 to 1.
    ``seconds``: of work by stage; a stage whose output was reused cost none.
    """

    fewer_params: list[float]
    architecture: str | None
    image_size: int | None
    params: int | None
    saving_vs_image_tower: float | None
    init: str | None
    synthetic: Accuracy | None
    real: Accuracy | None
    seconds: dict[str, float | None]
    job_id: str
    status: str
    encoder_id: str | None


@dataclass(frozen=True)
class Entry:
    """A student of a sweep: the percentages that ask for it, its recipe, and what the service says of it beforehand.

    ``student`` is None where the service cannot know it: the teacher has not been loaded yet.
    """

    percents: list[float]
    recipe: dict[str, Any]
    params_image_tower: int
    student: dict[str, Any] | None


def plan_sweep(
    service: Stillroom, recipe: dict[str, Any], percents: Iterable[float], *, may_leave_out: bool = False
) -> list[Entry]:
    """The students that percentages ask for, from large to small; each is there once. Nothing is queued.

    Args:
        percents: parameters fewer than the teacher's image tower has, in per cent.
        may_leave_out: end with the smallest student that there is, where some percentages want a smaller one.

    Raises:
        Invalid: the recipe is not valid, or no student is that small.
    """
    entries: dict[Any, Entry] = {}
    for percent in sorted(set(percents)):
        wanted = changed(recipe, "student", "fewer_params", percent)
        try:
            answer = service.estimate(wanted)
        except Invalid as error:
            if may_leave_out and entries and {item.field for item in error.fields} == {"student.fewer_params"}:
                break  # larger percentages want still smaller ones
            raise
        teacher, student = answer["teacher"], answer["student"] if answer["teacher"]["known"] else None
        key = (student["architecture"], student["image_size"]) if student else percent
        earlier = entries[key].percents if key in entries else []
        # Asked for by the largest percentage: what meets that one meets the others.
        entries[key] = Entry([*earlier, percent], wanted, teacher["params_image_tower"], student)
    return list(entries.values())


def row_of(entry: Entry, job: Job, report: Mapping[str, Any] | None) -> SweepRow:
    """What is known of a job of the sweep; ``report`` where it has succeeded."""
    student = report["student"] if report else entry.student
    saving = None
    if report:
        saving = report["student"]["saving_vs_image_tower"]
    elif student:
        saving = 1 - student["params"] / entry.params_image_tower
    return {
        "fewer_params": entry.percents,
        "architecture": student["architecture"] if student else None,
        "image_size": student["image_size"] if student else None,
        "params": student["params"] if student else None,
        "saving_vs_image_tower": saving,
        "init": report["student"]["init"] if report else None,
        "synthetic": _accuracy(report, "synthetic"),
        "real": _accuracy(report, "real"),
        "seconds": {stage["stage"]: stage["seconds"] for stage in job["stages"]},
        "job_id": job["id"],
        "status": job["status"],
        "encoder_id": job["encoder_id"],
    }


def _accuracy(report: Mapping[str, Any] | None, section: str) -> Accuracy | None:
    scores = report.get(section) if report else None
    return {"teacher": scores["teacher"]["acc1"], "student": scores["student"]["acc1"]} if scores else None
