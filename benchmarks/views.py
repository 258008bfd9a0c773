"""What more cached views of each image give: the demo's job with 1, 2, 4, 8 and 16 of them, all else equal.

    python -m benchmarks.views [--data DIR] [--views 1 --views 4 ...] [--images-per-class 300] [--steps 300] [--seeds 1]

The images are the same for all, and so is the number of steps: an image shows another of its views in each epoch, and
each view mirrored every other time; the last row has the recipe's number of views without that. What a view costs in
time and bytes is printed by ``python -m benchmarks.teacher``. With ``--data`` (Tiny ImageNet's files) the students are
judged by how often they agree with the teacher on training photos of their classes, which they never saw, and
measured on the validation photos, which decide nothing. What is done in ``--work`` is kept.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from benchmarks.harness import console, print_table, write_json
from benchmarks.photos.domains import LABELS, photos_of
from benchmarks.stages_here import demo_recipe, generated_images, measured_student

VIEWS = [1, 2, 4, 8, 16]
COLUMNS = {"synthetic": "held-out synthetic images, %"}
WITH_PHOTOS = {
    **COLUMNS,
    "unseen": "agreement on unseen training photos, %",
    "unseen_acc1": "top-1 on them, %",
    "real": "validation photos, %",
}


def main(
    data: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Folder of Tiny ImageNet.")] = None,
    views: Annotated[list[int] | None, typer.Option(min=1, help="Views of an image; give it several times.")] = None,
    images_per_class: Annotated[int, typer.Option(min=10)] = 300,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each student.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = 1,
    work: Annotated[Path, typer.Option(help="Images and students; what is there is used.")] = Path("build/views"),
) -> dict[str, Any]:
    """Returns the students' figures by number of views."""
    kinds: dict[str, dict[str, Any]] = {str(count): {"views": count} for count in views or VIEWS}
    kinds[f"{demo_recipe().training.views}, not mirrored"] = {"flip": False}
    photos = {split: photos_of(data, split, LABELS["food"], work / split) for split in ("train", "validation") if data}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for seed in range(seeds):
        for name, changes in kinds.items():
            training = {"steps": steps, "seed": seed, **changes}
            found[name].append(_student(name, images_per_class, training, photos, work))
    columns = WITH_PHOTOS if photos else COLUMNS
    rows = [[name, *(100 * fmean(one[key] for one in group) for key in columns)] for name, group in found.items()]
    first = next(iter(found.values()))[0]
    title = f"{first['steps']} steps, {first['images']} images, {seeds} seed(s), mean"
    print_table(title, ["views of an image", *columns.values()], rows)
    if photos:
        console.print(f"the teacher has {first['teacher_real']:.1%} on {first['photos']} photos", highlight=False)
    write_json("views", {"students": found})
    return found


def _student(
    name: str, images_per_class: int, training: dict[str, Any], photos: dict[str, Path], work: Path
) -> dict[str, Any]:
    """Train and measure one student."""
    recipe = demo_recipe({"images_per_class": images_per_class}, training)
    images = generated_images(recipe, work, lambda: console.print(f"{name} views: images", highlight=False))
    label = f"{name.replace(', ', '-').replace(' ', '-')}-{training['steps']}-{images_per_class}-{training['seed']}"
    figures = measured_student(recipe, images, photos.get("validation"), work, label)
    if photos:
        judged = measured_student(recipe, images, photos["train"], work, label)
        of_unseen = {"unseen": "real_agreement", "unseen_acc1": "real", "unseen_photos": "photos"}
        figures |= {name: judged[key] for name, key in of_unseen.items()}
    return figures


if __name__ == "__main__":
    typer.run(main)
