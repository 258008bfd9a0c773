"""python -m distillation: the job without any service, and the stages that the service's workers call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from distillation.recipe import load_recipe
from distillation.runner import explain

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
    from distillation.pipeline import run_recipe
    from distillation.plan import StageTask

    try:
        loaded = load_recipe(recipe)
    except (ValidationError, ValueError) as error:
        _show_invalid(recipe, error)
        raise typer.Exit(2) from error
    if dataset is not None:
        evaluation = loaded.evaluation.model_copy(update={"dataset": str(dataset.resolve())})
        loaded = loaded.model_copy(update={"evaluation": evaluation})

    def show(task: StageTask, event: dict[str, object]) -> None:
        name = f"{task.stage} {task.shard}"
        if event["event"] == "progress":
            console.print(
                f"{name}: {event['done']}/{event['total']} {event['unit']} ({event['rate']}/s)", highlight=False
            )
        elif event["event"] in ("warning", "error"):
            console.print(f"{name}: [yellow]{event['message']}[/yellow]")
        elif event["event"] in ("done", "reused"):
            console.print(f"{name}: {event['event']}")

    try:
        encoder = run_recipe(loaded, out, show)
    except Exception as error:
        told = explain(error)
        console.print(f"[red]{told.code}[/red]: {told.message}" + (f"\n  {told.hint}" if told.hint else ""))
        raise typer.Exit(1) from error
    console.print(f"encoder: {encoder}\nreport:  {out / 'report.json'}")


@app.command()
def stage(request: Annotated[Path, typer.Argument(exists=True, help="The request file a worker wrote.")]) -> None:
    """Run one stage by hand, as a worker's process does; JSON lines on standard output."""
    from distillation.stage_child import main

    raise typer.Exit(main(request))


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema."""
    from distillation.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


def _show_invalid(path: Path, error: Exception) -> None:
    if not isinstance(error, ValidationError):
        console.print(f"[red]{error}[/red]")
        return
    table = Table("field", "problem", title=f"{path}: {error.error_count()} problem(s)", title_justify="left")
    for item in error.errors():
        table.add_row(".".join(str(part) for part in item["loc"]), item["msg"].removeprefix("Value error, "))
    console.print(table)


if __name__ == "__main__":
    app(prog_name="python -m distillation")
