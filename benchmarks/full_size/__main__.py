"""Every stage of the shipped recipes at full model size, with random weights: images/s and peak memory.

    python -m benchmarks.full_size [RECIPE ...] [--images 300] [--steps 300] [--photos 2048]

For one CUDA GPU of the size that a recipe's header names; without a GPU it runs too, for hours, and says nothing about
memory. RECIPE is the name of a file in `recipes/`. No model is downloaded: generator, LoRA and teacher have the sizes
of those that the recipe names and random weights, on which neither speed nor memory depends. Student, batches, image
sizes and all else are the recipe's. What is not, the output lists:

- few images, steps and photos (the options), and the photos of phase 1 are made up;
- no filter, since random images are of no class;
- one process and one GPU for all stages.

Seconds of a stage include loading, and on CUDA compiling, which a long job hardly notices; images/s are of the second
half of its work, and left out where a stage reports too seldom to tell. Fewer images than the defaults make training
batches smaller than the recipe's. In `generate` most prompts are new, while in a long job they have been encoded
before. What is written, 8 GB for SDXL, goes to the system's temporary folder and is removed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.full_size.measured import measured_stages
from benchmarks.full_size.reduced import WRITERS, Amounts, differences, reduced
from benchmarks.harness import console, print_table, write_json
from distillation.recipe import Recipe, load_recipe

RECIPES = Path("recipes")
NAMES = ("default", "popp2024")


def main(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="RECIPE", help="default, popp2024.")] = None,
    images: Annotated[int, typer.Option(min=4, help="Synthetic images of each recipe.")] = 300,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each phase of training.")] = 300,
    photos: Annotated[int, typer.Option(min=40, help="Photos of the domain-agnostic phase.")] = 2048,
) -> None:
    shipped = {name: _shipped(name) for name in recipes or NAMES}
    amounts = Amounts(images, steps, photos)
    if not torch.cuda.is_available():
        console.print("no CUDA GPU here: this takes hours at full size, and memory is not measured")
    for line in differences(amounts):
        console.print(f"not as in the recipes: {line}", highlight=False)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, recipe in shipped.items():
        found[name] = _run(name, recipe, amounts)
        # After each recipe: the next may not fit into memory.
        write_json("full_size", {**amounts._asdict(), "differences": differences(amounts), "recipes": found})


def _shipped(name: str) -> Recipe:
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise typer.BadParameter(f"there is no {path}", param_hint="RECIPE")
    recipe = load_recipe(path)
    if recipe.data.generator.model not in WRITERS:
        message = f"{name}: nothing writes a generator of the size of {recipe.data.generator.model}"
        raise typer.BadParameter(message, param_hint="RECIPE")
    return recipe


def _run(name: str, shipped: Recipe, amounts: Amounts) -> list[dict[str, Any]]:
    """The figures of a recipe's stages, printed as they come and then as a table."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-full-size-") as folder:
        console.print(f"{name}: writing models")
        recipe = reduced(shipped, Path(folder) / "models", amounts)
        for row in measured_stages(recipe, Path(folder) / "stages"):
            console.print(f"{name}: {row['stage']} {row['seconds']:.1f} s", *row["warnings"], highlight=False)
            rows.append(row)
    title = f"{name}: {shipped.data.generator.model}, {shipped.teacher.model}, random weights"
    columns = ["stage", "seconds", "images/s", "batch of a step", "peak GiB allocated", "reserved"]
    print_table(title, columns, [_cells(row) for row in rows])
    return rows


def _cells(row: dict[str, Any]) -> list[object]:
    memory = [row[name] and row[name] / 2**30 for name in ("peak_allocated", "peak_reserved")]
    cells = [row["stage"], row["seconds"], row["images_per_s"], row["batch"], *memory]
    return ["-" if cell is None else cell for cell in cells]


if __name__ == "__main__":
    typer.run(main)
