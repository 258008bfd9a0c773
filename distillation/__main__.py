"""python -m distillation: the job without any service, and the stages that the service's workers call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distillation.plan import StageTask
from distillation.recipe import load_recipe
from distillation.runner import explain
from distillation.stage_process import warm_up

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
console = Console(stderr=True)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The recipe, YAML or JSON.")],
    out: Annotated[Path, typer.Option(help="Folder for everything made; a second run there resumes.")],
    dataset: Annotated[
        Path | None, typer.Option(exists=True, help="Real photos to evaluate on: parquet, zip or folder.")
    ] = None,
) -> None:
    """Make an encoder from a recipe: generate, distil, evaluate, export."""
    warm_up()  # while the recipe is read
    from distillation.pipeline import run_recipe

    try:
        loaded = load_recipe(recipe)
    except (ValidationError, ValueError) as error:
        _show_invalid(recipe, error)
        raise typer.Exit(2) from error
    if dataset is not None:
        evaluation = loaded.evaluation.model_copy(update={"dataset": str(dataset.resolve())})
        loaded = loaded.model_copy(update={"evaluation": evaluation})

    try:
        encoder = run_recipe(loaded, out, _show)
    except Exception as error:
        raise _failed(error) from error
    console.print(f"encoder: {encoder}\nreport:  {out / 'report.json'}")


@app.command("train-generator")
def train_generator(
    out: Annotated[Path, typer.Option(help="Folder for everything made; a second run there resumes.")],
    recipe: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="YAML or JSON; the options below change it.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(exists=True, help="Labelled photos: parquet, zip or folder.")] = None,
    name: Annotated[str | None, typer.Option(help="For the model card (default: the dataset's).")] = None,
    teacher: Annotated[str | None, typer.Option(help="`starter`, or an open_clip directory.")] = None,
    base: Annotated[str | None, typer.Option(help="A generator to go on from: `starter`, or a directory.")] = None,
    size: Annotated[int | None, typer.Option(help="Image side in pixels (default 64).")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time, instead of steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images of a step (default 64).")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything that is drawn (default 0).")] = None,
    licence: Annotated[str | None, typer.Option(help="The photos' licence, for the model card.")] = None,
) -> None:
    """Train a generator on labelled photos: a one-step text-to-image pipeline and its figures."""
    from distillation import pipeline
    from distillation.generator_recipe import GeneratorRecipe, load_generator_recipe

    options: dict[str, object] = {"name": name, "licence": licence, "base": base, "size": size, "seed": seed}
    options |= {"teacher": teacher and {"model": teacher}, "steps": steps, "minutes": minutes, "batch_size": batch_size}
    given = {key: value for key, value in options.items() if value is not None}
    default: dict[str, object] = {}
    if dataset is not None:
        default, given["dataset"] = {"name": dataset.resolve().stem}, str(dataset.resolve())
    try:
        written = load_generator_recipe(recipe) if recipe else {}
        if steps is not None or minutes is not None:  # one length replaces the other
            written = {key: value for key, value in written.items() if key not in ("steps", "minutes")}
        loaded = GeneratorRecipe.model_validate({**default, **written, **given})
    except ValueError as error:
        _show_invalid(recipe or Path("options"), error)
        raise typer.Exit(2) from error
    try:
        generator = pipeline.train_generator(loaded, out, _show)
    except Exception as error:
        raise _failed(error) from error
    console.print(f"generator: {generator}\nreport:    {out / 'report.json'}")


@app.command()
def stage(request: Annotated[Path, typer.Argument(exists=True, help="The request file a worker wrote.")]) -> None:
    """Run one stage by hand; JSON lines on standard output, as from a worker's process."""
    from distillation.stage_main import main

    raise typer.Exit(main(request))  # unlike a worker's, this process imports what its stage needs, no more


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema."""
    from distillation.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


def _show(task: StageTask, event: dict[str, object]) -> None:
    name = f"{task.stage} {task.shard}"
    if event["event"] == "progress":
        console.print(f"{name}: {event['done']}/{event['total']} {event['unit']} ({event['rate']}/s)", highlight=False)
    elif event["event"] in ("warning", "error"):
        console.print(f"{name}: [yellow]{escape(str(event['message']))}[/yellow]")
    elif event["event"] in ("done", "reused"):
        console.print(f"{name}: {event['event']}")


def _failed(error: Exception) -> typer.Exit:
    told = explain(error)
    console.print(f"[red]{told.code}[/red]: {escape(told.message)}" + (f"\n  {escape(told.hint)}" if told.hint else ""))
    return typer.Exit(1)


def _show_invalid(path: Path, error: Exception) -> None:
    if not isinstance(error, ValidationError):
        console.print(f"[red]{escape(str(error))}[/red]")
        return
    table = Table("field", "problem", title=f"{path}: {error.error_count()} problem(s)", title_justify="left")
    for item in error.errors():
        table.add_row(escape(".".join(map(str, item["loc"]))), escape(item["msg"].removeprefix("Value error, ")))
    console.print(table)


if __name__ == "__main__":
    app(prog_name="python -m distillation")
