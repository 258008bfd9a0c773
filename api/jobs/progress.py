"""How far a job is, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from api.jobs.schemas import StageProgress, StageRead
from state.database import database_now
from state.progress import StageTally, tally
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
FRACTION_DIGITS = 4
WORST_FIRST: tuple[TaskStatus, ...] = ("failed", "cancelled", "running", "ready", "waiting")


def read_stages(session: Session, job_ids: Sequence[str]) -> dict[str, list[StageRead]]:
    """By job, one entry per stage, in the order they run."""
    now = database_now(session)
    return {job_id: [_stage(found, now) for found in stages] for job_id, stages in tally(session, job_ids).items()}


def job_fraction(stages: Sequence[StageRead]) -> float:
    """0 to 1."""
    whole = sum(WEIGHTS[stage.stage] for stage in stages)
    done = sum(WEIGHTS[stage.stage] * stage.fraction for stage in stages)
    return round(done / whole, 4) if whole else 0.0


def job_eta(stages: Sequence[StageRead]) -> float | None:
    """Seconds left: those of the running stages, and for stages to come the time per weight so far."""
    running = [stage.eta_seconds for stage in stages if stage.eta_seconds is not None]
    worked = [stage for stage in stages if stage.seconds and _own_fraction(stage) > 0]
    if not running or not worked:
        return None
    own_weight = sum(WEIGHTS[stage.stage] * _own_fraction(stage) for stage in worked)
    per_weight = sum(stage.seconds or 0 for stage in worked) / own_weight
    to_come = sum(WEIGHTS[stage.stage] for stage in stages if stage.fraction == 0 and stage.eta_seconds is None)
    return round(max(running) + per_weight * to_come, 1)


def _own_fraction(stage: StageRead) -> float:
    """What this job has made of a stage itself; rounded as ``fraction`` is, or a remainder would count as work."""
    return stage.fraction - round(stage.reused / stage.tasks, FRACTION_DIGITS)


def _stage(found: StageTally, now: datetime) -> StageRead:
    tasks, done = sum(found.statuses.values()), found.statuses.get("done", 0)
    unfinished = [task for task in found.told if task.status != "done"]
    fraction = (done + sum(map(_fraction, unfinished))) / tasks
    at_work = [seconds for task in unfinished if (seconds := _at_work(task, now)) is not None]
    seconds = (found.seconds or 0.0) + sum(at_work)
    worth = (found.seconds or 0.0) + sum(_worth(task, now) for task in unfinished)
    return StageRead(
        stage=found.stage,
        status=_status(set(found.statuses)),
        tasks=tasks,
        done=done,
        reused=found.reused,
        fraction=round(fraction, FRACTION_DIGITS),
        progress=_progress(found, unfinished),
        seconds=round(seconds, 1) if at_work or found.seconds is not None else None,
        eta_seconds=_eta(found, tasks, fraction, worth),
    )


def _status(found: set[TaskStatus]) -> TaskStatus:
    if "done" in found and len(found) > 1 and not found & {"failed", "cancelled"}:
        return "running"
    return next((status for status in WORST_FIRST if status in found), "done")


def _fraction(task: Task) -> float:
    progress = task.progress or {}
    return min(1.0, progress.get("done", 0) / total) if (total := progress.get("total")) else 0.0


def _at_work(task: Task, now: datetime) -> float | None:
    """Seconds since a running task's start; None for another one, and where seconds are on record already."""
    if task.status != "running" or task.started_at is None or task.seconds is not None or task.reused:
        return None
    return max(0.0, (now - task.started_at).total_seconds())


def _worth(task: Task, now: datetime) -> float:
    """Seconds that a running task's progress stands for at its speed: an earlier attempt may have made most of it."""
    progress, at_work = task.progress or {}, _at_work(task, now) or 0.0
    rate = progress.get("rate")
    return progress.get("done", 0) / rate if at_work and rate else at_work


def _progress(found: StageTally, unfinished: Sequence[Task]) -> StageProgress | None:
    """Sums over the tasks that have said how far they are; metrics of the one that is newest."""
    last = next((task.progress for task in reversed(found.told) if task.progress), None)
    if last is None:
        return None
    reports = [(task.progress or {}, task.status) for task in unfinished]
    return StageProgress(
        done=found.done_total + sum(report.get("done", 0) for report, _ in reports),
        total=found.done_total + sum(report.get("total", 0) for report, _ in reports),
        unit=str(last.get("unit", "")),
        rate=round(sum(report.get("rate") or 0 for report, status in reports if status == "running"), 2),
        metrics={name: value for name, value in (last.get("metrics") or {}).items() if value is not None},
    )


def _eta(found: StageTally, tasks: int, fraction: float, seconds: float) -> float | None:
    """Seconds left of a stage of which some task runs, by its speed so far."""
    running = found.statuses.get("running", 0)
    fresh = fraction - found.reused / tasks
    if not running or fresh <= 0 or seconds <= 0:
        return None
    return round(seconds / fresh * (1 - fraction) / running, 1)
