"""AdamW and Muon, in both phases: how good a student is after as many steps of each.

    python -m benchmarks.optimizers --data DIR [--size xs] [--photos 20000] [--photo-steps 800] [--steps 300]

Three trainings of the demo's student, L2 alone on photos and the demo's losses on synthetic images:

- ``photos``: the domain-agnostic phase, from random weights, on unlabelled photos of other classes than the demo's;
- ``scratch``: synthetic images, from random weights;
- ``base``: synthetic images, from the starter's base student.

Each is made with AdamW and with Muon, all else equal, by the product's own stages. Students are judged on training
photos of the demo's classes (of Tiny ImageNet's files), which no student saw: by the cosine of their features with the
teacher's, and by how often both name the same class. What is done in ``--work`` is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness import console, print_table, write_json
from benchmarks.photos.domains import LABELS, photos_of
from benchmarks.stages_here import L2, Inputs, demo_recipe, generated_images, stage_folder
from distillation.recipe import Recipe, SizePreset

RATES = {
    "photos": {"adamw": [2e-3, 4e-3], "muon": [5e-3, 1e-2]},
    "scratch": {"adamw": [2e-3, 4e-3], "muon": [5e-3, 1e-2]},
    "base": {"adamw": [2e-3], "muon": [5e-3]},
}


def main(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of Tiny ImageNet.")],
    size: Annotated[SizePreset, typer.Option(help="Preset of the student.")] = "xs",
    photos: Annotated[int, typer.Option(min=16, help="Photos of the first phase.")] = 20_000,
    photo_steps: Annotated[int, typer.Option(min=1, help="Its steps.")] = 800,
    images_per_class: Annotated[int, typer.Option(min=10)] = 300,
    steps: Annotated[int, typer.Option(min=1, help="Steps on synthetic images.")] = 300,
    work: Annotated[Path, typer.Option(help="Images and students; what is there is used.")] = Path("build/optimizers"),
) -> list[dict[str, Any]]:
    """Returns a row for each student."""
    unseen = photos_of(data, "train", LABELS["food"], work / "unseen")
    others = photos_of(data, "train", set(range(200)) - set(LABELS["food"]), work / "others")
    few = {"images_per_class": images_per_class}
    images = generated_images(demo_recipe(few), work, lambda: console.print("images", highlight=False))
    agnostic = {"source": str(others), "max_images": photos, "steps": photo_steps}
    rows: list[dict[str, Any]] = []
    for phase, rates in RATES.items():
        student = {"size": size, "init": "base" if phase == "base" else "scratch"}
        of_phase = {**L2, "views": 1, "agnostic": agnostic} if phase == "photos" else {"steps": steps}
        length = f"{photos}-{photo_steps}" if phase == "photos" else f"{images_per_class}-{steps}"
        for optimizer, lr in ((name, lr) for name, several in rates.items() for lr in several):
            trained = {"optimizer": optimizer, "lr": lr}
            recipe = demo_recipe(few, of_phase | trained, student)
            name = f"{phase}-{size}-{length}-{optimizer}-{lr:g}"
            rows.append({"phase": phase, **trained, **_student(name, recipe, images, others, unseen, work)})
    print_table(
        f"{size}: {photo_steps} steps on {photos} photos, {steps} on {12 * images_per_class} synthetic images; "
        f"judged on {rows[0]['photos']} photos of classes never seen",
        ["phase", "optimiser", "rate", "cosine with the teacher", "agreement, %", "seconds of training"],
        [
            [
                *(row["phase"], row["optimizer"], f"{row['lr']:g}", f"{row['cosine']:.3f}"),
                *(f"{100 * row['agreement']:.1f}", f"{row['seconds']:.0f}"),
            ]
            for row in rows
        ],
    )
    write_json("optimizers", {"students": rows})
    return rows


def _student(name: str, recipe: Recipe, images: list[Path], others: Path, unseen: Path, work: Path) -> dict[str, Any]:
    """Train and judge one student; ``name`` tells it from all others in ``work``."""

    def run(stage: str, inputs: Inputs, folder: str = name) -> Path:
        out = work / f"{stage}-{folder}"
        return stage_folder(stage, recipe, inputs, out, tell=lambda: console.print(out.name, highlight=False))

    if agnostic := recipe.training.agnostic:
        embedded = run("embed", {"agnostic_source": [others]}, f"others-{agnostic.max_images}")
        student = run("agnostic", {"embed": [embedded]})
    else:
        student = run("distil", {"generate": images})
    folder = run("evaluate", {"generate": images, "distil": [student], "dataset": [unseen]})
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    real, training = report["real"], report["training"]
    return {
        "photos": real["images"],
        "cosine": real["feature_cosine"],
        "agreement": real["agreement"],
        "synthetic": report["synthetic"]["student"]["acc1"],
        "seconds": training["steps"] * training["batch_size"] / training["images_per_s"],
    }


if __name__ == "__main__":
    typer.run(main)
