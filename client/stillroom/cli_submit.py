"""`stillroom submit`: from words to a job, and with --wait to its end."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.text import Text

from stillroom.cli_encoders import download_files
from stillroom.cli_session import INTERRUPTED, JsonFlag, Session, open_session
from stillroom.errors import ApiError, JobFailed, Unreachable
from stillroom.progress import job_display
from stillroom.recipes import apply_flags, pairs, read_recipe
from stillroom.rendering import cell_text, job_view, megabytes, table
from stillroom.schemas import Job

REFRESH_SECONDS = 0.4


def submit(
    context: typer.Context,
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe, YAML or JSON. The options below change it, or stand in for it.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The job's name; without a recipe file, the domain's.", show_default=False)
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="A class of the domain; repeat for each.", show_default=False),
    ] = None,
    superclass: Annotated[
        str | None, typer.Option(help="What all the classes are, for example 'fruit'.", show_default=False)
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="xs|s|m|l", help="How large the student may be.", show_default=False)
    ] = None,
    images_per_class: Annotated[
        int | None, typer.Option(metavar="N", help="Synthetic images made of each class.", show_default=False)
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="DS", help="Id of real photos to measure on (see `datasets add`).", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Training steps.", show_default=False)] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", help="Training time, instead of steps.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A label kept with the job; may be repeated.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe and estimate its cost; queue nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the job is over.")] = False,
    download: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="When it has succeeded, bring the encoder here. Waits.", show_default=False),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Submitting again with this key gives the same job.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit a job: a recipe file, or just --name and a few --class."""
    if recipe is None and not classes:
        raise typer.BadParameter("give a recipe file, or --name and at least two --class", context)
    if steps is not None and minutes is not None:
        raise typer.BadParameter("give --steps or --minutes, not both", context)
    with open_session(context, as_json) as session:
        content = apply_flags(
            read_recipe(recipe) if recipe else {},
            domain=name if recipe is None else None,
            superclass=superclass,
            classes=classes or [],
            size=size,
            images_per_class=images_per_class,
            dataset=dataset,
            steps=steps,
            minutes=minutes,
        )
        if dry_run:
            answer = session.service.estimate(content)
            session.show(answer, lambda: estimate_view(answer))
            return
        job = session.service.submit(
            content, name=name, metadata=pairs(metadata or []), idempotency_key=idempotency_key
        )
        if not wait and download is None:
            session.show(job, lambda: queued_view(job))
            return
        session.say(f"{job['id']} is {job['status']}")
        job = wait_for(session, job)
        if download is None:
            session.show(job, lambda: job_view(job))
            return
        paths = download_files(session, session.encoder_id(job["id"]), download)
        session.show({**job, "downloaded": [str(path) for path in paths]}, lambda: downloaded_view(job, download))


def wait_for(session: Session, job: Job) -> Job:
    """Show the job's progress on stderr until it is over.

    Raises:
        JobFailed: it did not succeed.
    """
    identity = job["id"]
    refreshed = 0.0
    try:
        with job_display(session.err) as display:
            display.update(job)
            for event in session.service.follow(identity):
                display.event(event)
                if event["type"] in ("status", "stage") or time.monotonic() - refreshed >= REFRESH_SECONDS:
                    refreshed = time.monotonic()
                    with suppress(Unreachable, ApiError):  # it restarts: the events go on when it is back
                        display.update(session.service.job(identity))
            job = session.service.job(identity)
            display.update(job)
    except KeyboardInterrupt:
        session.say(
            f"\nNo longer waiting; the job goes on. Follow it with: stillroom events {identity} --follow\n"
            f"Cancel it with: stillroom cancel {identity}"
        )
        raise typer.Exit(INTERRUPTED) from None
    if job["status"] != "succeeded":
        raise JobFailed(job)
    return job


def queued_view(job: Job) -> RenderableType:
    return Text.assemble(
        (job["id"], "bold"), f" is {job['status']}\nFollow it with: stillroom events {job['id']} --follow"
    )


def downloaded_view(job: Job, folder: Path) -> RenderableType:
    text = Text.assemble("encoder ", (str(job["encoder_id"]), "bold"), f" is in {folder}")
    return Group(job_view(job), text, Text(f"How good it is: stillroom report {job['id']}"))


def estimate_view(answer: dict[str, Any]) -> RenderableType:
    """The estimate, and the recipe with every default filled in."""
    estimate, student = answer["estimate"], answer["student"]
    reused = sum(task["reused"] for task in answer["tasks"])
    made = table("estimate", "", right=("",))
    made.add_row("student", f"{student['architecture']} at {student['image_size']} px")
    made.add_row("images", f"{estimate['images']:,}")
    made.add_row("training steps", cell_text(estimate["steps"]))
    made.add_row("minutes", f"{estimate['minutes']:.1f} ({estimate['basis']})")
    made.add_row("disk", megabytes(estimate["bytes"]))
    made.add_row("tasks", f"{len(answer['tasks'])}, {reused} of them reused from earlier jobs")
    for warning in answer["warnings"]:
        made.add_row("warning", Text(warning, "yellow"))
    text = yaml.safe_dump(answer["recipe"], sort_keys=False, allow_unicode=True)
    return Group(made, Text("recipe, with all defaults", "bold"), Syntax(text, "yaml", background_color="default"))
