"""build/demo/report.json: the demo's figures, and whether all checks held."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from demo.demo import GOAL_TIMES_FASTER, SHARED_STAGES, Findings


def summary(found: Findings) -> dict[str, Any]:
    report, real = found.report, found.report["real"]
    first, second = job_seconds(found.first), job_seconds(found.second)
    times_faster = round(first / max(second, 0.01), 2)
    return {
        "job_id": found.first["id"],
        "encoder_id": found.first["encoder_id"],
        "seconds": round(first, 1),
        "seconds_per_stage": stage_seconds(found.first),
        "images_generated": report["generation"]["images"],
        "generation": report["generation"],
        "teacher": report["teacher"],
        "student": report["student"],
        "acc1": acc1(report),
        "agreement": {
            "synthetic": report["synthetic"]["agreement"],
            "real": real["agreement"] if real else None,
        },
        "files": [{key: file[key] for key in ("name", "sha256", "size")} for file in report["files"]],
        "second_run": {
            "job_id": found.second["id"],
            "student": found.second_report["student"],
            "acc1": acc1(found.second_report),
            "reused": {s["stage"]: s["reused"] for s in found.second["stages"] if s["stage"] in SHARED_STAGES},
            "seconds": round(second, 1),
            "seconds_per_stage": stage_seconds(found.second),
            "times_faster": times_faster,
            "goal_reached": times_faster >= GOAL_TIMES_FASTER,
        },
        **found.agreement,
        "checks": found.checks,
        "goals": goals(report, times_faster),
    }


def goals(report: dict[str, Any], times_faster: float) -> dict[str, bool]:
    """What a good run reaches beyond the checks, which say that it works at all."""
    faster = {f"the second job is {GOAL_TIMES_FASTER:.0f} times faster": times_faster >= GOAL_TIMES_FASTER}
    if report["real"] is None:
        return faster
    right = {
        f"the {who} is right more than twice as often as chance on real photos": report["real"][who]["acc1"]
        > 2 / report["classes"]
        for who in ("teacher", "student")
    }
    return {**right, **faster}


def job_seconds(job: dict[str, Any]) -> float:
    """From submission to the end, by the service's clock."""
    began, ended = (datetime.fromisoformat(job[key]) for key in ("created_at", "finished_at"))
    return (ended - began).total_seconds()


def stage_seconds(job: dict[str, Any]) -> dict[str, float]:
    return {stage["stage"]: stage["seconds"] for stage in job["stages"]}


def acc1(report: dict[str, Any]) -> dict[str, Any]:
    """Top-1 of teacher and student on each set of images; `real` is None where no photos were given."""
    return {
        name: part
        and {"images": part["images"], "teacher": part["teacher"]["acc1"], "student": part["student"]["acc1"]}
        for name, part in (("synthetic", report["synthetic"]), ("real", report["real"]))
    }
