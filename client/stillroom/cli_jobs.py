"""Commands about jobs: list, look, follow, cancel, retry, delete; their report and samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from stillroom.cli_session import INTERRUPTED, JobId, JsonFlag, open_session, print_json
from stillroom.errors import JobFailed
from stillroom.recipes import pairs
from stillroom.rendering import event_line, job_view, jobs_table, rows_table, status_text
from stillroom.report_view import generator_report_view, report_view
from stillroom.schemas import Job


def jobs(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="Only jobs with this status, for example training or failed.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs with this label; may be repeated.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List jobs, newest first."""
    with open_session(context, as_json) as session:
        rows = list(session.service.jobs(status=status, metadata=pairs(metadata or []), limit=limit))
        session.show(rows, lambda: jobs_table(rows))


def show(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Show one job: its stages, their progress, and what went wrong if it failed."""
    with open_session(context, as_json) as session:
        found = session.service.job(job)
        session.show(found, lambda: job_view(found))


def events(
    context: typer.Context,
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over; exit code 1 if it does not succeed.")
    ] = False,
    after: Annotated[int, typer.Option(min=0, metavar="ID", help="Only events after the one with this id.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Show what has happened in a job. With --json, one JSON object on each line."""
    with open_session(context, as_json, json_lines=True) as session:
        try:
            source = session.service.follow(job, after) if follow else session.service.events(job, after)
            for event in source:
                if as_json:
                    print_json(event, indent=None)
                else:
                    session.out.print(event_line(event), soft_wrap=True)
        except KeyboardInterrupt:
            session.say(f"\nNo longer following; the job goes on. Cancel it with: stillroom cancel {job}")
            raise typer.Exit(INTERRUPTED) from None
        if follow:
            last = session.service.job(job)
            if last["status"] != "succeeded":
                raise JobFailed(last)


def cancel(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Cancel a job. What it has finished is kept, so `retry` can take it up again."""
    with open_session(context, as_json) as session:
        found = session.service.cancel(job)
        session.show(found, lambda: _status_line(found))


def retry(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Put a failed or cancelled job back in the queue. It goes on at its last checkpoint."""
    with open_session(context, as_json) as session:
        found = session.service.retry(job)
        session.show(found, lambda: _status_line(found))


def delete(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Delete a job that is over, and the encoder or generator that it made."""
    with open_session(context, as_json) as session:
        session.service.delete_job(job)
        session.show({"id": job, "deleted": True}, lambda: Text(f"{job} is deleted"))


def report(context: typer.Context, job: JobId, as_json: JsonFlag = False) -> None:
    """Show how good a job's encoder is: teacher beside student, per class, speed, files. Or its generator."""
    with open_session(context, as_json) as session:
        found = session.service.report(job)
        session.show(found, lambda: report_view(found) if "student" in found else generator_report_view(found))


def samples(
    context: typer.Context,
    job: JobId,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where the images go; made if missing.", show_default=False)
    ],
    as_json: JsonFlag = False,
) -> None:
    """Download some of a job's synthetic images, and samples.json that says what each shows."""
    with open_session(context, as_json) as session:
        found = session.service.samples(job)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for index, sample in enumerate(found):
            path = folder / f"{index:04d}-{_slug(sample['class'])}.jpg"
            path.write_bytes(session.service.picture(sample["url"]))
            rows.append({"file": path.name, **{key: value for key, value in sample.items() if key != "url"}})
        (folder / "samples.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        session.show(rows, lambda: rows_table(_columns(rows), title=f"{len(rows)} images in {folder}"))


def _columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the table; a seed is a name rather than a number, so no thousands separators."""
    return [{key: str(row[key]) for key in ("file", "class", "prompt", "seed")} for row in rows]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "class"


def _status_line(job: Job) -> Text:
    return Text.assemble((job["id"], "bold"), " is ", status_text(job["status"]))
