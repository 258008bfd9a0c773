"""What a recipe refuses, and where it points."""

from __future__ import annotations

from typing import Any

import pytest
from braceexpand import braceexpand
from pydantic import ValidationError

from distillation.brace_patterns import DEEPEST, count_paths
from distillation.recipe import MAX_FILES, Recipe

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


def test_paths_that_no_file_can_have_are_refused() -> None:
    long = "/photos/" + "ä" * 128
    agnostic = {"source": f"{long}.tar"}
    data = {"generator": {"model": long, "lora": long, "decoder": long}}
    assert places(
        teacher={"model": long}, data=data, training={"agnostic": agnostic}, evaluation={"dataset": long}
    ) == {
        ("teacher", "model"),
        *(("data", "generator", name) for name in ("model", "lora", "decoder")),
        ("training", "agnostic", "source"),
        ("evaluation", "dataset"),
    }
    signed = {"source": "https://host/photos.tar?signature=" + "a" * 300}
    assert Recipe.model_validate({"domain": DOMAIN, "training": {"agnostic": signed}})


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
    for model in ("starter", "local-dir:/models/teacher"):
        assert places(teacher={"model": model, "pretrained": "/models/tuned.safetensors"}) == {
            ("teacher", "pretrained")
        }


def test_photos_mixed_in_refuse_losses_that_need_captions() -> None:
    mixed = {"source": "photos.tar", "mix": 0.5}
    assert places(training={"agnostic": mixed, "losses": {"l2": 1, "crd": 1}}) == {("training", "agnostic", "mix")}
    assert Recipe.model_validate({"domain": DOMAIN, "training": {"agnostic": mixed, "losses": {"l2": 1, "mfd": 1}}})
    assert Recipe.model_validate(
        {"domain": DOMAIN, "training": {"agnostic": {**mixed, "mix": 0}, "losses": {"crd": 1}}}
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "photos.tar",
        "{000..009}.tar",
        "{9..0..3}{-2..2}",
        "{1..4..0}",
        "{a..z}{A..f..5}{f..A..5}{b..b}",
        "{x,y,}-{a{1..3},b{1..4},c}",
        "{{1..3}{1..3},{a,b}}/{only}/{in{1..5}side}",
        r"\{1..9\},{1\,2,3}\\{4,5}",
        "{1..a},{1..2..x}",
        "{1..3\n}",
        "",
    ],
)
def test_paths_of_a_pattern_are_counted(pattern: str) -> None:
    assert count_paths(pattern, MAX_FILES) == len(list(braceexpand(pattern)))


@pytest.mark.parametrize(
    "pattern",
    [
        "/data/{a..z}{a..z}{a..z}{a..z}.tar",
        "/data/{0..999999999999}.tar",
        "/data/{-1..-999999999999}.tar",
        "/data/" + "{a,b}" * 14,
        pytest.param("/data/" + "{a,b}" * 1_000_000, id="very long"),
        "/data/{x,{{a..z}{a..z}{a..z}{a..z}{a..z}{a..z}{a..z},y}}",
    ],
)
def test_patterns_of_very_many_files_are_refused(pattern: str) -> None:
    assert places(training={"agnostic": {"source": pattern}}) == {("training", "agnostic", "source")}


@pytest.mark.parametrize("pattern", ["{1..3", "1..3}", "}{", "{a,{b}", "{" * (DEEPEST + 1) + "}" * (DEEPEST + 1)])
def test_braces_without_a_partner_are_refused(pattern: str) -> None:
    assert places(training={"agnostic": {"source": pattern}}) == {("training", "agnostic", "source")}


def test_as_many_files_as_are_allowed() -> None:
    assert Recipe.model_validate({"domain": DOMAIN, "training": {"agnostic": {"source": "{1..100}/{001..100}.tar"}}})
