"""Tables for people. Every function returns something rich can print; nothing here talks to the service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stillroom.errors import FieldError
from stillroom.progress import count, note
from stillroom.schemas import EncoderSummary, Event, GeneratorSummary, Job, JobSummary, Probability, Stage

STATUS_STYLES = {"succeeded": "green", "done": "green", "failed": "red", "cancelled": "yellow", "cancelling": "yellow"}


def table(*columns: str, title: str | None = None, right: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def status_text(status: str) -> Text:
    return Text(status, STATUS_STYLES.get(status, "cyan"))


def when(moment: str | None) -> str:
    """A time of the service (ISO 8601), in this machine's zone, to the second."""
    if not moment:
        return ""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,.0f} B"


def seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def field_table(fields: Sequence[FieldError]) -> Table:
    made = table("field", "problem")
    for item in fields:
        made.add_row(Text(item.field, "bold"), Text(item.problem))
    return made


def jobs_table(jobs: Iterable[JobSummary]) -> Table:
    made = table("job", "name", "status", "done", "created", "makes", right=("done",))
    for job in jobs:
        status, created = status_text(job["status"]), when(job["created_at"])
        makes = job["generator_id"] or job["encoder_id"] or ""
        made.add_row(job["id"], Text(job["name"]), status, f"{job['progress']:.0%}", created, makes)
    return made


def job_view(job: Job) -> RenderableType:
    """One job: head, stages, and the error where there is one."""
    head = Table.grid(padding=(0, 2))
    head.add_row("job", Text(job["id"], "bold"))
    head.add_row("name", Text(job["name"]))
    head.add_row("status", status_text(job["status"]))
    head.add_row("created", when(job["created_at"]))
    if job["finished_at"]:
        head.add_row("finished", when(job["finished_at"]))
    if job["encoder_id"]:
        head.add_row("encoder", Text(job["encoder_id"], "bold"))
    if job["generator_id"]:
        head.add_row("generator", Text(job["generator_id"], "bold"))
    for key, value in (job["metadata"] or {}).items():
        head.add_row(Text(key, "dim"), Text(value))
    parts: list[RenderableType] = [head, stages_table(job["stages"])]
    return Group(*parts, error_view(job)) if job["error"] else Group(*parts)


def stages_table(stages: Iterable[Stage]) -> Table:
    made = table("stage", "status", "progress", "time", "", right=("progress", "time"))
    for stage in stages:
        made.add_row(
            stage["stage"],
            status_text(stage["status"]),
            count(stage),
            seconds_text(stage["seconds"]),
            Text(note(stage)),
        )
    return made


def error_view(job: Job) -> RenderableType:
    error = job["error"]
    if error is None:
        return Text("")
    text = Text.assemble((f"{error['code']}: ", "bold red"), error["message"])
    for label, value in (("stage", error["stage"]), ("field", error["field"]), ("what to do", error["hint"])):
        text.append(f"\n{label}: {value}" if value else "")
    return text


def event_line(event: Event) -> Text:
    styles = {"warning": "yellow", "error": "red"}
    stage = f" {event['stage']}" if event["stage"] else ""
    moment = when(event["at"])[11:]
    return Text.assemble((moment, "dim"), (stage, "bold"), " ", (event["message"], styles.get(event["level"], "")))


def encoders_table(encoders: Iterable[EncoderSummary]) -> Table:
    made = table("encoder", "domain", "classes", "student", "size", "created", right=("classes", "size"))
    for item in encoders:
        student = str(item["student"].get("architecture", ""))
        size, created = megabytes(item["size"]), when(item["created_at"])
        made.add_row(item["id"], Text(item["domain"]), f"{item['classes']:,}", Text(student), size, created)
    return made


def generators_table(generators: Iterable[GeneratorSummary]) -> Table:
    numbers = ("done", "classes", "teacher top-1", "size")
    made = table("generator", "name", "status", *numbers, "created", right=numbers)
    for item in generators:
        acc1, classes = item["teacher_acc1"], item["classes"]
        made.add_row(
            item["id"],
            Text(item["name"]),
            status_text(item["status"]),
            f"{item['progress']:.0%}",
            "" if classes is None else f"{classes:,}",
            "" if acc1 is None else f"{acc1:.1%}",
            megabytes(item["size"]),
            when(item["created_at"]),
        )
    return made


def datasets_table(datasets: Iterable[Mapping[str, Any]]) -> Table:
    numbers = ("images", "classes", "rejected")
    made = table("data set", "name", *numbers, "created", right=numbers)
    for item in datasets:
        made.add_row(
            item["id"],
            Text(item["name"]),
            f"{item['images']:,}",
            f"{len(item['classes']):,}",
            f"{rejected_count(item):,}",
            when(item["created_at"]),
        )
    return made


def rejected_count(dataset: Mapping[str, Any]) -> int:
    """Photos left out; older services only list them, the first 1,000."""
    return int(dataset.get("rejected_count", len(dataset["rejected"])))


def probabilities_table(probabilities: Sequence[Probability], title: str) -> Table:
    made = table("class", "probability", "", title=title, right=("probability",))
    for item in probabilities:
        bar = "━" * max(1, round(item["probability"] * 30))
        made.add_row(Text(item["label"]), f"{item['probability']:.1%}", Text(bar, "cyan"))
    return made


def rows_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Rows that share their keys, as they are, notes last; a list within a cell is joined."""
    keys = sorted(dict.fromkeys(key for row in rows for key in row), key=lambda key: key == "note")
    numbers = [key for key in keys if all(isinstance(row.get(key), int | float | None) for row in rows)]
    made = table(*keys, title=title, right=numbers)
    for row in rows:
        made.add_row(*(Text(cell_text(row.get(key))) for key in keys))
    return made


def cell_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}"
        case list():
            return ", ".join(cell_text(item) for item in value)
        case dict():
            return ", ".join(f"{key} {cell_text(item)}" for key, item in value.items())
    return str(value)
