"""What a generator can draw, where it says so: a small one draws only the classes that it was taught. Torch-free.

``classes.json`` in a pipeline's directory lists the names of each class, the usual one first.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from distillation.class_matching import normalised
from distillation.plan import model_folder
from distillation.recipe import Recipe

FILE = "classes.json"
LISTED = 12


def taught_classes(model: str) -> list[list[str]] | None:
    """Names of each class that the generator was taught, or None where it does not say (large ones draw anything)."""
    folder = model_folder(model, "generator")
    path = None if folder is None else folder / FILE
    if path is None or not path.is_file():
        return None
    taught: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return taught


def write_taught_classes(folder: Path, classes: list[list[str]]) -> None:
    (folder / FILE).write_text(json.dumps(classes, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def untaught_classes(recipe: Recipe, taught: list[list[str]] | None) -> dict[int, str]:
    """The domain's classes that the generator was not taught, by index, each with what to say of it.

    Prompts written by hand are the user's own affair.
    """
    if taught is None or recipe.data.prompts.explicit is not None:
        return {}
    known = {normalised(name): names[0] for names in taught for name in names}
    first = ", ".join(names[0] for names in taught[:LISTED])
    if len(taught) > LISTED:
        first += f" and {len(taught) - LISTED} more (GET /v1/catalogue/generators, or {FILE} in its directory)"
    problems = {}
    for index, item in enumerate(recipe.domain.classes):
        if normalised(item.name) not in known:
            similar = difflib.get_close_matches(normalised(item.name), list(known), 1)
            meant = f" Did you mean {similar[0]!r}?" if similar else ""
            problems[index] = (
                f"the generator {recipe.data.generator.model!r} was not taught {item.name!r}.{meant} "
                f"It draws: {first}. For other things name a larger generator"
            )
    return problems
