"""What a recipe refuses, and where it points."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from distillation.recipe import Recipe

DOMAIN = {"name": "fruit", "classes": ["orange", "lemon"]}


def places(**sections: Any) -> set[tuple[int | str, ...]]:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"domain": DOMAIN, **sections})
    return {error["loc"] for error in caught.value.errors()}


@pytest.mark.parametrize("number", [float("inf"), float("nan"), "inf", 1e308])
def test_numbers_must_end(number: Any) -> None:
    training = {"epochs": number, "losses": {"l2": number}, "checkpoint_seconds": number}
    assert places(training=training) == {("training", name) for name in ("epochs", "checkpoint_seconds")} | {
        ("training", "losses", "l2")
    }


def test_control_characters_are_refused_where_they_are() -> None:
    domain = {"name": "a\0b", "classes": ["orange", {"name": "lemon", "synonyms": ["cit\x1brus"]}]}
    data = {"prompts": {"dimensions": {"place": ["here\x07"]}}}
    assert places(domain=domain, data=data) == {
        ("domain", "name"),
        ("domain", "classes", 1, "synonyms"),
        ("data", "prompts", "dimensions"),
    }


def test_errors_of_a_section_point_at_the_field() -> None:
    language = {"kind": "openai", "model": "chat"}
    assert places(
        teacher={"model": "ViT-B-32"}, data={"generator": {"model": "a/b"}, "prompts": {"language_model": language}}
    ) == {
        ("teacher", "pretrained"),
        ("data", "generator", "revision"),
        ("data", "prompts", "language_model", "base_url"),
    }
    assert places(data={"prompts": {"explicit": {"orange": ["an orange"]}}}) == {("data", "prompts", "explicit")}


def test_photos_mixed_in_refuse_losses_that_need_captions() -> None:
    mixed = {"source": "photos.tar", "mix": 0.5}
    assert places(training={"agnostic": mixed, "losses": {"l2": 1, "crd": 1}}) == {("training", "agnostic", "mix")}
    assert Recipe.model_validate({"domain": DOMAIN, "training": {"agnostic": mixed, "losses": {"l2": 1, "mfd": 1}}})
    assert Recipe.model_validate(
        {"domain": DOMAIN, "training": {"agnostic": {**mixed, "mix": 0}, "losses": {"crd": 1}}}
    )
