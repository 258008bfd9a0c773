"""The command `stillroom`."""

from __future__ import annotations

from typing import Annotated

import typer

from stillroom import cli_datasets, cli_encoders, cli_generators, cli_jobs, cli_submit, cli_sweep
from stillroom.cli_session import EXIT_CODES, Connection
from stillroom.connection import DEFAULT_URL

JOBS, RESULTS, PHOTOS, SERVICE = "Jobs", "Results", "Real photos", "The service"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    help="Turn a domain named in words into a small image encoder.\n\n"
    "Submit class names; the service makes images of them, trains a small student to see them as a CLIP teacher does, "
    "and keeps the encoder for you to download.\n\n"
    "A first job: stillroom submit --name fruit --class orange --class banana --wait --download fruit-encoder",
)


@app.callback()
def connect(
    context: typer.Context,
    url: Annotated[
        str, typer.Option(envvar="STILLROOM_URL", metavar="URL", help="Where the service is.")
    ] = DEFAULT_URL,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="STILLROOM_API_KEY", metavar="KEY", help="Its API key, if it wants one.", show_default=False
        ),
    ] = None,
) -> None:
    context.obj = Connection(url, api_key)


for panel, name, function in (
    (JOBS, "submit", cli_submit.submit),
    (JOBS, "sweep", cli_sweep.sweep),
    (JOBS, "jobs", cli_jobs.jobs),
    (JOBS, "show", cli_jobs.show),
    (JOBS, "events", cli_jobs.events),
    (JOBS, "cancel", cli_jobs.cancel),
    (JOBS, "retry", cli_jobs.retry),
    (JOBS, "delete", cli_jobs.delete),
    (RESULTS, "report", cli_jobs.report),
    (RESULTS, "samples", cli_jobs.samples),
    (RESULTS, "encoders", cli_encoders.encoders),
    (RESULTS, "download", cli_encoders.download),
    (RESULTS, "classify", cli_encoders.classify),
    (SERVICE, "catalogue", cli_encoders.catalogue),
):
    app.command(name, rich_help_panel=panel, epilog=EXIT_CODES)(function)
app.add_typer(cli_datasets.app, name="datasets", rich_help_panel=PHOTOS)
app.add_typer(cli_generators.app, name="generators", rich_help_panel=PHOTOS)


def main() -> None:
    app(prog_name="stillroom")
