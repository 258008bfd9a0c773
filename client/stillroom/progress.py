"""A job's stages as they run: live bars on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from stillroom.schemas import Event, Job, Stage

PLAIN_SECONDS = 10.0
"""Between two plain lines about the same stage."""


class JobDisplay(Protocol):
    def update(self, job: Job) -> None: ...

    def event(self, event: Event) -> None: ...


@contextmanager
def job_display(console: Console) -> Iterator[JobDisplay]:
    """The display that suits the console."""
    if not console.is_terminal:
        yield PlainLines(console)
        return
    columns = (
        TextColumn("{task.fields[stage]:>9}", style="bold"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[count]:>20}"),
        StageTime(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        yield LiveBars(progress)


class StageTime(ProgressColumn):
    """Seconds the stage took, by the service; while it runs, seconds since it was seen to start."""

    def render(self, task: Task) -> Text:
        seconds = task.fields["seconds"] if task.fields["seconds"] is not None else task.elapsed
        return Text("" if seconds is None else f"{seconds:5.0f} s")


class LiveBars:
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.rows: dict[str, TaskID] = {}

    def update(self, job: Job) -> None:
        for stage in job["stages"]:
            name = stage["stage"]
            if name not in self.rows:
                self.rows[name] = self.progress.add_task("", False, 1.0, stage=name, count="", note="", seconds=None)
            if stage["status"] == "running":
                self.progress.start_task(self.rows[name])
            self.progress.update(
                self.rows[name],
                completed=stage["fraction"],
                count=escape(count(stage)),
                note=escape(note(stage)),
                seconds=stage["seconds"] if stage["status"] == "done" else None,
            )

    def event(self, event: Event) -> None:
        if noteworthy(event):
            style = "red" if event["level"] == "error" else "yellow"
            self.progress.console.print(Text(f"{event['level']}: {event['message']}", style))


class PlainLines:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.said: dict[str, tuple[str, str, float]] = {}

    def update(self, job: Job) -> None:
        for stage in job["stages"]:
            name, status, now = stage["stage"], stage["status"], time.monotonic()
            before, line_before, at = self.said.get(name, ("waiting", "", now))
            seconds = f"  {stage['seconds']:.1f} s" if status == "done" and stage["seconds"] is not None else ""
            line = f"{name:>9}  {status:<8} {count(stage)}{seconds}  {note(stage)}".rstrip()
            news = status != before and status not in ("waiting", "ready")
            if news or (status == "running" and line != line_before and now - at >= PLAIN_SECONDS):
                self._say(line)
                self.said[name] = (status, line, now)

    def event(self, event: Event) -> None:
        if noteworthy(event):
            self._say(f"{event['level']}: {event['message']}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def noteworthy(event: Event) -> bool:
    """Warnings and errors of stages; that the whole job failed is said once, at the end."""
    return event["level"] in ("warning", "error") and event["type"] != "status"


def count(stage: Stage) -> str:
    progress = stage["progress"] or {}
    if not progress.get("total"):
        return ""
    return f"{progress.get('done') or 0:,.0f}/{progress['total']:,.0f} {progress.get('unit') or ''}".rstrip()


def note(stage: Stage) -> str:
    """`reused`, or rate, time left and metrics."""
    if stage["reused"] and stage["reused"] == stage["tasks"]:
        return "reused"
    progress = stage["progress"] or {}
    parts = [f"{stage['reused']} of {stage['tasks']} reused"] if stage["reused"] else []
    if stage["status"] == "running":
        if progress.get("rate"):
            parts.append(f"{progress['rate']:,.1f}/s")
        if stage["eta_seconds"] is not None:
            parts.append(f"{stage['eta_seconds']:,.0f} s left")
    parts += [f"{key} {value:.4g}" for key, value in (progress.get("metrics") or {}).items()]
    return "  ".join(parts)


@contextmanager
def transfer_display(console: Console) -> Iterator[Progress]:
    """Bars for uploads and downloads; nothing is shown off a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress
