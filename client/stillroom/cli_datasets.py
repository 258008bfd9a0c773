"""`stillroom datasets`: real photos to measure students on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from stillroom.cli_session import EXIT_CODES, JsonFlag, open_session
from stillroom.progress import transfer_display
from stillroom.rendering import datasets_table, rejected_count, rows_table

SHOWN_REJECTIONS = 20

app = typer.Typer(
    no_args_is_help=True,
    epilog=EXIT_CODES,
    help="Real photos to measure a student on: add, list, show and delete data sets.",
)
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="The data set's id, ds_...", show_default=False)]


@app.command("list", epilog=EXIT_CODES)
def list_datasets(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List data sets, newest first."""
    with open_session(context, as_json) as session:
        rows = list(session.service.datasets())
        session.show(rows, lambda: datasets_table(rows))


@app.command(epilog=EXIT_CODES)
def add(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder or zip with one sub-folder of photos per class, or a parquet file; classes.tsv goes along.",
            show_default=False,
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Its name. Default: the file's.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Upload photos. The service checks each one and says which it left out and why."""
    with open_session(context, as_json) as session:
        with transfer_display(session.err) as bars:
            row = bars.add_task("upload", total=None)
            found = session.service.add_dataset(
                source, name, lambda sent, size: bars.update(row, completed=sent, total=size)
            )
        session.show(found, lambda: dataset_view(found))


@app.command(epilog=EXIT_CODES)
def show(context: typer.Context, dataset: DatasetId, as_json: JsonFlag = False) -> None:
    """Show one data set: its classes, and the files that were left out."""
    with open_session(context, as_json) as session:
        found = session.service.dataset(dataset)
        session.show(found, lambda: dataset_view(found))


@app.command(epilog=EXIT_CODES)
def delete(context: typer.Context, dataset: DatasetId, as_json: JsonFlag = False) -> None:
    """Delete a data set. Reports made with it stay."""
    with open_session(context, as_json) as session:
        session.service.delete_dataset(dataset)
        session.show({"id": dataset, "deleted": True}, lambda: Text(f"{dataset} is deleted"))


def dataset_view(dataset: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [datasets_table([dataset]), Text("classes: " + ", ".join(dataset["classes"]))]
    if rejected := dataset["rejected"]:
        parts.append(rows_table(rejected[:SHOWN_REJECTIONS], title=f"left out ({rejected_count(dataset):,})"))
    return Group(*parts)
