"""python -m starter: train the starter weights, or print their figures. Long runs resume from --work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from distillation.plan import STARTER
from distillation.recipe import SizePreset
from starter import scores as scoring
from starter.classes import GENERATED
from starter.generator import train_starter_generator
from starter.students import STEPS, VIEWS, train_base_student
from starter.teacher import train_teacher

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Data = Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the Tiny ImageNet parquet files.")]
Work = Annotated[Path, typer.Option(help="Checkpoints and intermediate files.")]
Base = Annotated[str | None, typer.Option(help="A generator to go on from, such as the edition before.")]
Preset = Annotated[SizePreset | None, typer.Option(help="Only this one; s starts from the xs that is there.")]
StudentSteps = Annotated[int | None, typer.Option(min=1, help="Of each; none: few, for two CPU cores.")]
StudentViews = Annotated[int, typer.Option(min=1, help="Of each photo; several for long trainings.")]
Minutes = Annotated[float | None, typer.Option(help="How long to train, instead of --steps; for a GPU.")]
WORK = Path("build/starter")
SEED = 0


@app.command()
def teacher(data: Data, work: Work = WORK, steps: int = 6000, batch_size: int = 128) -> None:
    """Train the teacher contrastively."""
    work.mkdir(parents=True, exist_ok=True)
    train_teacher(data, STARTER / "teacher", steps=steps, batch_size=batch_size, seed=SEED, work=work)


@app.command()
def generator(
    data: Data,
    work: Work = WORK,
    steps: int = 9900,
    minutes: Minutes = None,
    batch_size: int = 64,
    base: Base = None,
) -> None:
    """Train the generator on the photos of its classes."""
    work.mkdir(parents=True, exist_ok=True)
    train_starter_generator(
        data,
        STARTER / "generator",
        work,
        labels=GENERATED,
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        seed=SEED,
        base=base,
    )


@app.command()
def students(
    data: Data, work: Work = WORK, preset: Preset = None, steps: StudentSteps = None, views: StudentViews = VIEWS
) -> None:
    """Train the base students on unlabelled photos."""
    work.mkdir(parents=True, exist_ok=True)
    for one in [preset] if preset else STEPS:
        train_base_student(data, work, preset=one, steps=steps, views=views, seed=SEED)


@app.command()
def scores(data: Data) -> None:
    """Measure all on photos that were not trained on (the teacher also on some that were), print and write it."""
    figures = scoring.score_all(data)
    print(json.dumps(figures, indent=1))
    scoring.write_scores(figures, STARTER / "scores.json")


@app.command(name="all")
def everything(data: Data, work: Work = WORK) -> None:
    """All of the above, in order."""
    teacher(data, work)
    generator(data, work)
    students(data, work)
    scores(data)
    shutil.rmtree(work)


if __name__ == "__main__":
    app(prog_name="python -m starter")
