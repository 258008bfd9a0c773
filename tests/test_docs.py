"""Docs that are generated are current, links lead somewhere, and every shipped recipe is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distillation.catalogue import SMALL_STUDENTS
from distillation.recipe import load_recipe
from docs.generate import OPERATIONS, PAGE, SCALE, operations, page, scale

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(ROOT.glob("recipes/**/*.yaml"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), ROOT / "starter/README.md", ROOT / "client/README.md"]


def test_the_recipe_reference_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_the_table_of_settings_is_current() -> None:
    assert OPERATIONS.read_text(encoding="utf-8") == operations(), "run `make docs`"


def test_the_table_of_growth_is_current() -> None:
    assert SCALE.read_text(encoding="utf-8") == scale(), "run `make docs`"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_is_valid_and_headed(path: Path) -> None:
    recipe = load_recipe(path)
    assert len(recipe.domain.classes) >= 10
    head = path.read_text(encoding="utf-8").split("domain:")[0]
    assert all(word in head for word in ("Command", "Hardware", "Time", "Score")), "say what it costs and gives"
    measured = recipe.teacher.model == "starter"
    assert measured != ("No figure at full size was measured: no CUDA GPU was at hand" in head), "say what is not known"


def test_there_are_recipes() -> None:
    assert {path.name for path in RECIPES} >= {"default.yaml", "demo.yaml", "popp2024.yaml"}


def test_contributing_sends_to_the_file_that_has_the_rows() -> None:
    """A new student is a row of the catalogue."""
    (file,) = re.findall(r"A new student: one row in `([^`]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert f'{SMALL_STUDENTS[0].architecture}"' in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert [t for t in targets if "://" not in t and not (path.parent / t).exists()] == []
