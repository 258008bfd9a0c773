"""`stillroom generators`: train image generators on labelled photos, and fetch them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from stillroom.cli_encoders import files_table, with_bars
from stillroom.cli_session import EXIT_CODES, JsonFlag, open_session
from stillroom.cli_submit import wait_for
from stillroom.recipes import read_recipe
from stillroom.rendering import generators_table
from stillroom.report_view import generator_report_view
from stillroom.schemas import Generator

app = typer.Typer(
    no_args_is_help=True,
    epilog=EXIT_CODES,
    help="Generators trained on labelled photos: submit, list, show, download and delete them. A recipe uses one as "
    "data.generator.model.",
)
GeneratorId = Annotated[
    str, typer.Argument(metavar="GENERATOR", help="The generator's id, gen_...", show_default=False)
]


@app.command("list", epilog=EXIT_CODES)
def list_generators(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List generators, newest first."""
    with open_session(context, as_json) as session:
        rows = list(session.service.generators())
        session.show(rows, lambda: generators_table(rows))


@app.command(epilog=EXIT_CODES)
def submit(
    context: typer.Context,
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="A generator's recipe, YAML or JSON. The options below change it, or stand in for it.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The generator's name.", show_default=False)] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="DS", help="Id of labelled photos (see `datasets add`).", show_default=False),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="The photos' licence, for the model card.", show_default=False)
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="GENERATOR", help="Go on from this one: `starter`, or an id.", show_default=False),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of the images.", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Training steps.", show_default=False)] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", help="Training time, instead of steps.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Decides what is drawn.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until it is trained.")] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Submitting again with this key gives the same one.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a generator: a recipe file, or just --name and --dataset."""
    if recipe is None and not (name and dataset):
        raise typer.BadParameter("give a recipe file, or --name and --dataset", context)
    options: dict[str, Any] = {"name": name, "dataset": dataset, "licence": licence, "base": base}
    options |= {"size": image_size, "steps": steps, "minutes": minutes, "seed": seed}
    given = {key: value for key, value in options.items() if value is not None}
    with open_session(context, as_json) as session:
        written = read_recipe(recipe) if recipe else {}
        if steps is not None or minutes is not None:  # one length replaces the other
            written = {key: value for key, value in written.items() if key not in ("steps", "minutes")}
        content = written | given
        generator = session.service.train_generator(content, idempotency_key=idempotency_key)
        if wait:
            session.say(f"{generator['id']} is trained by {generator['job_id']}")
            wait_for(session, session.service.job(generator["job_id"]))
            generator = session.service.generator(generator["id"])
        session.show(generator, lambda: generator_view(generator))


@app.command(epilog=EXIT_CODES)
def show(context: typer.Context, generator: GeneratorId, as_json: JsonFlag = False) -> None:
    """Show one generator: how far it is, then its figures and files."""
    with open_session(context, as_json) as session:
        found = session.service.generator(generator)
        session.show(found, lambda: generator_view(found))


@app.command(epilog=EXIT_CODES)
def download(
    context: typer.Context,
    generator: GeneratorId,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write to. Default: one named like the generator's id."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Download a generator's pipeline directory. Run it again after a break and it goes on where it stopped."""
    with open_session(context, as_json) as session:
        folder = to or Path(generator)
        paths = with_bars(session, lambda on_bytes: session.service.download_generator(generator, folder, on_bytes))
        names = [str(path) for path in paths]
        session.show({"generator_id": generator, "files": names}, lambda: Text("\n".join(names)))


@app.command(epilog=EXIT_CODES)
def delete(context: typer.Context, generator: GeneratorId, as_json: JsonFlag = False) -> None:
    """Delete a generator and the job that trained it. What was made with it stays."""
    with open_session(context, as_json) as session:
        session.service.delete_generator(generator)
        session.show({"id": generator, "deleted": True}, lambda: Text(f"{generator} is deleted"))


def generator_view(generator: Generator) -> RenderableType:
    parts: list[RenderableType] = [generators_table([generator])]
    if generator["report"] is None:
        parts.append(Text(f"Follow it with: stillroom events {generator['job_id']} --follow"))
        return Group(*parts)
    return Group(*parts, generator_report_view(generator["report"]), files_table(generator["files"]))
