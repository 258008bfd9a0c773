"""What more cached views of each image give: the demo's job with 1, 4, 8 and 16 of them, all else equal.

    python -m benchmarks.views [--data DIR] [--views 1 --views 4 ...] [--images-per-class 150] [--steps 400] [--seeds 1]

The images are the same for all, and so is the number of steps: an image shows another of its views in each epoch. What
a view costs in time and bytes is printed by ``python -m benchmarks.teacher``. With ``--data`` (Tiny ImageNet's files)
the students are measured on real photos too; nothing is chosen by them. What is done in ``--work`` is kept.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from benchmarks.harness import console, print_table, write_json
from benchmarks.photos.domains import LABELS, photos_of
from benchmarks.stages_here import demo_recipe, generated_images, measured_student

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
        count: [_student(count, images_per_class, steps, seed, photos, work) for seed in range(seeds)]
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


def _student(
    views: int, images_per_class: int, steps: int, seed: int, photos: Path | None, work: Path
) -> dict[str, Any]:
    """Train and measure one student."""
    recipe = demo_recipe({"images_per_class": images_per_class}, {"views": views, "steps": steps, "seed": seed})
    images = generated_images(recipe, work, lambda: console.print(f"{views} views: images", highlight=False))
    return measured_student(recipe, images, photos, work, f"{views}-{steps}-{images_per_class}-{seed}")


if __name__ == "__main__":
    typer.run(main)
