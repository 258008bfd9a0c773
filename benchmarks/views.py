"""What more cached views of each image give: the demo's job with 1, 4, 8 and 16 of them, all else equal.

    python -m benchmarks.views [--data DIR] [--views 1 --views 4 ...] [--images-per-class 150] [--steps 400] [--seeds 1]

The images are the same for all, and so is the number of steps: an image shows another of its views in each epoch. What
a view costs in time and bytes is printed by ``python -m benchmarks.teacher``. With ``--data`` (Tiny ImageNet's files)
the students are measured on real photos too; nothing is chosen by them. What is done in ``--work`` is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from benchmarks.harness import console, print_table, write_json
from benchmarks.photos.bench import merged
from benchmarks.photos.domains import LABELS, photos_of
from benchmarks.stages_here import Inputs, generated_images, stage_folder
from distillation.recipe import Recipe, load_recipe

RECIPE = Path("recipes/demo.yaml")
VIEWS = [1, 4, 8, 16]


def main(
    data: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Folder of Tiny ImageNet.")] = None,
    views: Annotated[list[int] | None, typer.Option(min=1, help="Views of an image; give it several times.")] = None,
    images_per_class: Annotated[int, typer.Option(min=10)] = 150,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each student.")] = 400,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings with each number of views.")] = 1,
    work: Annotated[Path, typer.Option(help="Images and students; what is there is used.")] = Path("build/views"),
) -> dict[str, Any]:
    """Returns the students' figures by number of views."""
    photos = photos_of(data, "validation", LABELS["food"], work / "photos") if data else None
    found = {
        count: [_student(_recipe(count, images_per_class, steps, seed), photos, work) for seed in range(seeds)]
        for count in views or VIEWS
    }
    columns = ["views of an image", "held-out synthetic images, %", "agreement, %", *["real photos, %"] * bool(photos)]
    names = ["synthetic", "agreement", *["real"] * bool(photos)]
    rows = [[count, *(100 * fmean(one[name] for one in group) for name in names)] for count, group in found.items()]
    first = next(iter(found.values()))[0]
    print_table(f"{first['steps']} steps, {first['images']} images, {seeds} seed(s), mean", columns, rows)
    if photos:
        console.print(f"the teacher has {first['teacher_real']:.1%} on {first['photos']} real photos", highlight=False)
    write_json("views", {"students": found})
    return {str(count): students for count, students in found.items()}


def _recipe(views: int, images_per_class: int, steps: int, seed: int) -> Recipe:
    training = {"views": views, "steps": steps, "seed": seed}
    changes = {"data": {"images_per_class": images_per_class}, "training": training}
    return Recipe.model_validate(merged(load_recipe(RECIPE).model_dump(mode="json"), changes))


def _student(recipe: Recipe, photos: Path | None, work: Path) -> dict[str, Any]:
    """Train and measure one student."""
    views, seed = recipe.training.views, recipe.training.seed
    images = generated_images(recipe, work, lambda: console.print(f"{views} views: images", highlight=False))

    def run(stage: str, inputs: Inputs) -> Path:
        name = f"{stage}-{views}-{recipe.training.steps}-{recipe.data.images_per_class}-{seed}"
        return stage_folder(stage, recipe, inputs, work / name, tell=lambda: console.print(name, highlight=False))

    student = run("distil", {"generate": images})
    given = {"dataset": [photos]} if photos else {}
    evaluated = run("evaluate", {"generate": images, "distil": [student], **given})
    report = json.loads((evaluated / "report.json").read_text(encoding="utf-8"))
    synthetic, real = report["synthetic"], report["real"]
    figures = {
        "steps": recipe.training.steps,
        "images": len(recipe.domain.classes) * recipe.data.images_per_class,
        "synthetic": synthetic["student"]["acc1"],
        "agreement": synthetic["agreement"],
    }
    if real:
        figures |= {"real": real["student"]["acc1"], "teacher_real": real["teacher"]["acc1"], "photos": real["images"]}
    return figures


if __name__ == "__main__":
    typer.run(main)
