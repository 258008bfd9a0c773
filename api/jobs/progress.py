"""How far a job is, from the rows of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from api.jobs.schemas import StageProgress, StageRead
from distillation.plan import STAGES
from state.tables import Task, TaskStatus

WEIGHTS = {
    "prompts": 2,
    "generate": 50,
    "embed": 10,
    "agnostic": 20,
    "distil": 30,
    "evaluate": 5,
    "export": 8,
    "generator": 100,
}
"""Share of each stage in a usual job's time; only for the bar of the whole job."""
WORST_FIRST: tuple[TaskStatus, ...] = ("failed", "cancelled", "running", "ready", "waiting")


def read_stages(tasks: Sequence[Task], now: datetime) -> list[StageRead]:
    """One entry per stage, in the order they run."""
    return [_stage(stage, found, now) for stage in STAGES if (found := [t for t in tasks if t.stage == stage])]


def job_fraction(stages: Sequence[StageRead]) -> float:
    """0 to 1."""
    whole = sum(WEIGHTS[stage.stage] for stage in stages)
    done = sum(WEIGHTS[stage.stage] * stage.fraction for stage in stages)
    return round(done / whole, 4) if whole else 0.0


def job_eta(stages: Sequence[StageRead]) -> float | None:
    """Seconds left: those of the running stages, and for stages to come the time per weight so far."""
    running = [stage.eta_seconds for stage in stages if stage.eta_seconds is not None]
    worked = [stage for stage in stages if stage.seconds and stage.reused < stage.tasks and stage.fraction > 0]
    if not running or not worked:
        return None
    per_weight = sum(s.seconds or 0 for s in worked) / sum(WEIGHTS[s.stage] * s.fraction for s in worked)
    to_come = sum(WEIGHTS[stage.stage] for stage in stages if stage.fraction == 0 and stage.eta_seconds is None)
    return round(max(running) + per_weight * to_come, 1)


def _stage(stage: str, tasks: Sequence[Task], now: datetime) -> StageRead:
    fractions = [_fraction(task) for task in tasks]
    fraction = sum(fractions) / len(tasks)
    seconds = [_seconds(task, now) for task in tasks]
    known = [value for value in seconds if value is not None]
    return StageRead(
        stage=stage,
        status=_status(tasks),
        tasks=len(tasks),
        done=sum(task.status == "done" for task in tasks),
        reused=sum(task.reused for task in tasks),
        fraction=round(fraction, 4),
        progress=_progress(tasks),
        seconds=round(sum(known), 1) if known else None,
        eta_seconds=_eta(tasks, fraction, sum(known)),
    )


def _status(tasks: Sequence[Task]) -> TaskStatus:
    found = {task.status for task in tasks}
    if "done" in found and len(found) > 1 and not found & {"failed", "cancelled"}:
        return "running"
    return next((status for status in WORST_FIRST if status in found), "done")


def _fraction(task: Task) -> float:
    if task.status == "done":
        return 1.0
    progress = task.progress or {}
    return min(1.0, progress.get("done", 0) / total) if (total := progress.get("total")) else 0.0


def _seconds(task: Task, now: datetime) -> float | None:
    if task.reused:
        return 0.0
    if task.seconds is not None:
        return task.seconds
    if task.status == "running" and task.started_at is not None:
        return max(0.0, (now - task.started_at).total_seconds())
    return None


def _progress(tasks: Sequence[Task]) -> StageProgress | None:
    """Sums over the tasks that have said how far they are; metrics of the one that is newest."""
    told = [task for task in tasks if task.progress]
    if not told:
        return None
    reports = [task.progress or {} for task in told]
    return StageProgress(
        done=sum(r.get("total" if t.status == "done" else "done", 0) for t, r in zip(told, reports, strict=True)),
        total=sum(report.get("total", 0) for report in reports),
        unit=str(reports[-1].get("unit", "")),
        rate=round(sum(r.get("rate") or 0 for t, r in zip(told, reports, strict=True) if t.status == "running"), 2),
        metrics=dict(reports[-1].get("metrics") or {}),
    )


def _eta(tasks: Sequence[Task], fraction: float, seconds: float) -> float | None:
    """Seconds left of a stage of which some task runs, by its speed so far."""
    running = sum(task.status == "running" for task in tasks)
    fresh = fraction - sum(task.reused for task in tasks) / len(tasks)
    if not running or fresh <= 0 or seconds <= 0:
        return None
    return round(seconds / fresh * (1 - fraction) / running, 1)
