"""`stillroom sweep`: the same recipe with students of several sizes, and how good each is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from stillroom.cli_session import JOB_FAILED, JsonFlag, Session, explain, open_session
from stillroom.cli_submit import wait_for
from stillroom.errors import JobFailed
from stillroom.recipes import changed, read_recipe
from stillroom.rendering import cell_text, seconds_text, status_text, table
from stillroom.report_view import percent
from stillroom.schemas import Job
from stillroom.sweep import Entry, SweepRow, plan_sweep, row_of

PERCENTS = [70.0, 80.0, 90.0, 92.0, 95.0, 97.0]
TRAINING = ("agnostic", "distil")
FROM_SCRATCH = (
    "Students from scratch have seen nothing but these images: to compare sizes rather than starts, give all of them a "
    "first phase on photos (training.agnostic) or more steps."
)


def sweep(
    context: typer.Context,
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML or JSON; its student's size is replaced.")
    ],
    fewer: Annotated[
        list[float],
        typer.Option(metavar="PERCENT", help="Parameters fewer than the teacher's image tower has; repeat for each."),
    ] = PERCENTS,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="DS", help="Id of real photos to measure on (see `datasets add`).", show_default=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until all jobs are over, then scores.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Submit one job for each size of student. Images and teacher features are made once, for all of them."""
    with open_session(context, as_json) as session:
        content = read_recipe(recipe)
        if dataset is not None:
            content = changed(content, "evaluation", "dataset", dataset)
        default = fewer == PERCENTS
        entries = plan_sweep(session.service, content, fewer, may_leave_out=default)
        announce(session, entries, fewer)
        jobs = [session.service.submit(entry.recipe, name=job_name(entry)) for entry in entries]
        if wait:
            jobs = [wait_for_one(session, entry, job) for entry, job in zip(entries, jobs, strict=True)]
        done = [job["status"] == "succeeded" for job in jobs]
        reports = [session.service.report(job["id"]) if ok else None for ok, job in zip(done, jobs, strict=True)]
        rows = [row_of(*items) for items in zip(entries, jobs, reports, strict=True)]
        session.show(rows, lambda: sweep_view(rows, jobs, next(filter(None, reports), None)))
        if wait and not all(done):
            raise typer.Exit(JOB_FAILED)


def announce(session: Session, entries: Sequence[Entry], asked: Sequence[float]) -> None:
    """Say which percentages meet in one student or are left out, or that nobody can know yet."""
    covered = {percent for entry in entries for percent in entry.percents}
    if left_out := [percent for percent in asked if percent not in covered]:
        names = " and ".join(f"{value:g} %" for value in left_out)
        session.say(f"No student of the catalogue has {names} fewer parameters than this teacher: left out.")
    if any(entry.student is None for entry in entries):
        session.say(
            "The size of the teacher's image tower is known once a worker has loaded it: students are chosen then, "
            "one job for each percentage, and two of them may turn out the same."
        )
    for entry in entries:
        if entry.student is not None and len(entry.percents) > 1:
            session.say(f"{percents_text(entry)} fewer is the same student, {entry.student['architecture']}: one job.")


def percents_text(entry: Entry) -> str:
    return " and ".join(f"{value:g} %" for value in entry.percents)


def job_name(entry: Entry) -> str:
    return f"{entry.recipe['domain']['name']}, {percents_text(entry)} fewer"[:120]


def wait_for_one(session: Session, entry: Entry, job: Job) -> Job:
    """The job when it is over; one that failed is explained and does not stop the others."""
    session.say(f"{job['id']}, {percents_text(entry)} fewer, is {job['status']}")
    try:
        return wait_for(session, job)
    except JobFailed as failed:
        explain(session.err, failed)
        return failed.job


def sweep_view(rows: Sequence[SweepRow], jobs: Sequence[Job], report: dict[str, Any] | None) -> RenderableType:
    """The students below their teacher, whose scores any of the reports has."""
    numbers = ("asked", "parameters", "fewer", "synthetic", "real", "training")
    made = table("asked", "model", *numbers[1:5], "start", "training", "job", "status", right=numbers)
    if report is not None:
        teacher, first = report["teacher"], next(row for row in rows if row["synthetic"])
        scores = (acc1(first, "synthetic", "teacher"), acc1(first, "real", "teacher"))
        made.add_row("", Text(f"{teacher['model']} (teacher)"), f"{teacher['params_image_tower']:,}", "", *scores)
        made.add_section()
    for row in rows:
        training = [row["seconds"][stage] for stage in TRAINING if row["seconds"].get(stage) is not None]
        made.add_row(
            ", ".join(f"{value:g} %" for value in row["fewer_params"]),
            f"{row['architecture']} at {row['image_size']} px" if row["architecture"] else "",
            cell_text(row["params"]),
            percent(row["saving_vs_image_tower"]),
            acc1(row, "synthetic", "student"),
            acc1(row, "real", "student"),
            row["init"] or "",
            seconds_text(sum(filter(None, training))) if training else "",
            row["job_id"],
            status_text(row["status"]),
        )
    sentences = [images_sentence(jobs)] if report else ["With --wait: the scores."]
    if any(row["init"] == "scratch" for row in rows):
        sentences.append(FROM_SCRATCH)
    return Group(made, *(Text(sentence, "dim") for sentence in sentences))


def acc1(row: SweepRow, images: str, who: str) -> str:
    scores: Any = row[images]  # type: ignore[literal-required]
    return percent(scores[who]) if scores else ""


def images_sentence(jobs: Sequence[Job]) -> str:
    """How often images and features were made."""
    stages = [stage for job in jobs for stage in job["stages"] if stage["stage"] == "generate"]
    seconds = sum(stage["seconds"] or 0.0 for stage in stages)
    reused = sum(stage["reused"] == stage["tasks"] for stage in stages)
    return (
        f"top-1 on held-out synthetic images and on real photos; images and teacher features took "
        f"{seconds_text(seconds)}, {reused} of {len(jobs)} jobs reused them"
    )
