"""Rows of the shards: one plan however it is cut, both splits in every class, seeds that stand alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillation.recipe import Recipe
from distillation.sampling_plan import image_seed, is_holdout, shard_rows


def make_recipe(**data: Any) -> Recipe:
    return Recipe.model_validate({"domain": {"name": "d", "classes": ["a", "b", "c"]}, "data": data})


PROMPTS = {"a": ["a1", "a2", "a3", "a4", "a5"], "b": ["b1"], "c": ["c1", "c2"]}


def test_shards_join_to_the_same_plan_whatever_their_size() -> None:
    whole = shard_rows(make_recipe(images_per_class=30, shard_size=90), PROMPTS, 0)
    recipe = make_recipe(images_per_class=30, shard_size=16)
    parts = [row for shard in range(6) for row in shard_rows(recipe, PROMPTS, shard)]
    assert parts == whole
    assert [row.index for row in whole] == list(range(90))
    assert Counter(row.name for row in whole) == {"a": 30, "b": 30, "c": 30}
    assert shard_rows(recipe, PROMPTS, 6) == []


def test_prompts_are_used_equally_and_held_out_images_see_many() -> None:
    rows = [row for row in shard_rows(make_recipe(images_per_class=100, shard_size=300), PROMPTS, 0) if row.name == "a"]
    assert Counter(row.prompt for row in rows) == dict.fromkeys(PROMPTS["a"], 20)
    assert len({row.prompt for row in rows if row.holdout}) >= 4
    other = shard_rows(make_recipe(images_per_class=100, shard_size=300, seed=1), PROMPTS, 0)
    assert [row.prompt for row in other if row.name == "a"] != [row.prompt for row in rows]


@given(share=st.floats(0.001, 0.999), count=st.integers(2, 300))
@settings(deadline=None)
def test_every_class_has_both_splits_in_the_share_asked_for(share: float, count: int) -> None:
    held = sum(is_holdout(number, share) for number in range(count))
    assert 1 <= held <= count - 1
    assert abs(held - share * count) <= 2


@pytest.mark.parametrize(("share", "count", "held"), [(0.1, 150, 15), (0.2, 10, 2), (0.5, 10, 5)])
def test_usual_shares_are_exact(share: float, count: int, held: int) -> None:
    assert sum(is_holdout(number, share) for number in range(count)) == held


def test_seeds_are_fixed_for_ever_and_differ() -> None:
    """A change of these numbers would change every image of every recipe."""
    assert (image_seed(0, 0, 0), image_seed(7, 123, 2)) == (93137557639308, 110961817426670)
    seeds = {image_seed(seed, index, attempt) for seed in range(5) for index in range(200) for attempt in range(-1, 4)}
    assert len(seeds) == 5 * 200 * 5
    assert all(0 <= seed < 2**48 for seed in seeds)
