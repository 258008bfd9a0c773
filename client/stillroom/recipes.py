"""The recipe that `submit` sends: a YAML or JSON file, flags, or a file changed by flags.

Only put together here: the service checks every field, so there is one set of rules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stillroom.errors import BadInput

SIZE_KEYS = ("size", "architecture", "max_params", "fewer_params", "max_macs")
LENGTH_KEYS = ("epochs", "steps", "minutes")


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe file as a dictionary (JSON is YAML).

    Raises:
        BadInput: it cannot be read, is not YAML, holds no mapping, or a value that JSON does not know.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read the recipe {path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} is not valid YAML or JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no recipe: it must be a mapping with at least `domain`")
    try:
        json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:  # YAML also has dates, .nan and .inf
        raise BadInput(
            f"{path} cannot be sent as JSON: {error}; put dates into quotes, write numbers in digits"
        ) from error
    return content


def apply_flags(
    recipe: dict[str, Any],
    *,
    domain: str | None,
    superclass: str | None,
    classes: Sequence[str],
    size: str | None,
    images_per_class: int | None,
    dataset: str | None,
    steps: int | None,
    minutes: float | None,
) -> dict[str, Any]:
    """The recipe with what the flags say put in.

    Raises:
        BadInput: a section of the recipe that a flag belongs to is not a mapping.
    """
    changes: list[tuple[str, str, Any]] = [
        ("domain", "name", domain),
        ("domain", "superclass", superclass),
        ("domain", "classes", list(classes) or None),
        ("student", "size", size),
        ("data", "images_per_class", images_per_class),
        ("evaluation", "dataset", dataset),
        ("training", "steps", steps),
        ("training", "minutes", minutes),
    ]
    for section, key, value in changes:
        if value is not None:
            recipe = changed(recipe, section, key, value)
    return recipe


def changed(recipe: dict[str, Any], section: str, key: str, value: Any) -> dict[str, Any]:
    """The recipe with one field set; another way of giving a size or a length that it replaces is removed.

    Raises:
        BadInput: the section is not a mapping.
    """
    old = recipe.get(section) or {}
    if not isinstance(old, dict):
        raise BadInput(f"`{section}` in the recipe must be a mapping; `{key}` belongs into it")
    exclusive = SIZE_KEYS if key in SIZE_KEYS else LENGTH_KEYS if key in LENGTH_KEYS else ()
    return {**recipe, section: {name: item for name, item in old.items() if name not in exclusive} | {key: value}}


def pairs(items: Sequence[str]) -> dict[str, str]:
    """`["team=vision"]` as a dictionary.

    Raises:
        BadInput: an item has no `=`.
    """
    wrong = [item for item in items if not item.partition("=")[1] or not item.partition("=")[0]]
    if wrong:
        raise BadInput(f"metadata is given as key=value, not {wrong[0]!r}")
    return {key: value for key, _, value in (item.partition("=") for item in items)}
