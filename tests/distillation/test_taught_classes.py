"""A generator that says what it was taught is asked for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillation.protocol import Reporter, Request, StageError
from distillation.recipe import Recipe
from distillation.stages import prompts
from distillation.taught_classes import taught_classes, untaught_classes, write_taught_classes


def untaught(asked: Recipe) -> dict[int, str]:
    return untaught_classes(asked, taught_classes(asked.data.generator.model))


def recipe(folder: Path, classes: list[str], **data: Any) -> Recipe:
    generator = {"model": str(folder)}
    return Recipe.model_validate(
        {"domain": {"name": "x", "classes": classes}, "data": {"generator": generator, **data}}
    )


def test_names_and_synonyms_are_known_whatever_their_case(tmp_path: Path) -> None:
    write_taught_classes(tmp_path, [["ice lolly", "lollipop"], ["espresso"]])
    assert untaught(recipe(tmp_path, ["Lollipop", "ice_lolly", "Espresso"])) == {}
    found = untaught(recipe(tmp_path, ["espresso", "expresso", "spanner"]))
    assert found.keys() == {1, 2}
    assert "Did you mean 'espresso'?" in found[1] and "Did you mean" not in found[2]


def test_only_where_the_generator_says_so_and_names_make_the_prompts(tmp_path: Path) -> None:
    assert taught_classes(str(tmp_path)) is None and untaught(recipe(tmp_path, ["a", "b"])) == {}
    write_taught_classes(tmp_path, [["espresso"]])
    by_hand = recipe(tmp_path, ["a", "b"], prompts={"explicit": {"a": ["espresso"], "b": ["espresso"]}})
    assert untaught(by_hand) == {}


def test_the_library_refuses_before_it_generates(tmp_path: Path) -> None:
    write_taught_classes(tmp_path, [["espresso"]])
    request = Request("prompts", 0, "key", recipe(tmp_path, ["espresso", "spanner"]), {}, tmp_path)
    with pytest.raises(StageError, match="spanner") as caught:
        prompts.run(request, Reporter())
    assert (caught.value.code, caught.value.field) == ("unknown_class", "domain.classes.1")
