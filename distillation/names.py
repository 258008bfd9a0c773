"""Whether timm and open_clip know a name, without either of them (see ``models.names``). Torch-free."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from distillation.recipe import Teacher
from distillation.recipe_fields import is_local


@lru_cache(maxsize=1)
def _names() -> dict[str, Any]:
    names: dict[str, Any] = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
    return names


def check_architecture(name: str) -> None:
    """A timm architecture, perhaps with a weight tag (``resnet18.a1_in1k``).

    Raises:
        ValueError: timm has no such model; the message names similar ones.
    """
    if name.partition(".")[0] not in _names()["timm"]:
        raise ValueError(f"timm has no architecture {name!r}{_similar(name, _names()['timm'])}")


def teacher_problem(teacher: Teacher) -> tuple[str, str] | None:
    """The field (``model`` or ``pretrained``) and the reason why open_clip cannot have this teacher, or None.

    Directories and hub models are not looked at.
    """
    if teacher.model == "starter" or ":" in teacher.model or is_local(teacher.model):
        return None
    known: dict[str, list[str]] = _names()["open_clip"]
    if (tags := known.get(teacher.model.replace("/", "-"))) is None:
        return "model", f"open_clip has no model {teacher.model!r}{_similar(teacher.model, known)}"
    tag = teacher.pretrained or ""
    if is_local(tag) or tag.lower().replace("-", "_") in {one.lower().replace("-", "_") for one in tags}:
        return None
    there = f"; there are {', '.join(tags)}" if tags else "; give a file of weights"
    return "pretrained", f"open_clip has no weights {tag!r} for {teacher.model}{there}"


def known_towers(model: str) -> dict[str, Any] | None:
    """The part of an open_clip model's configuration that says of what kind its towers are; None: not known."""
    found: dict[str, Any] | None = _names()["towers"].get(model)
    return found


def _similar(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), 3, cutoff=0.7)
    return f"; did you mean {' or '.join(found)}?" if found else ""
