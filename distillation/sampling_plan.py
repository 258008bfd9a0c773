"""Which image is what: class, prompt, split and seed of every row, from the recipe and the row's number. Torch-free.

Rows go round the classes (row 0 of every class, then row 1, ...), so every shard holds every class and a class that
the generator cannot draw is found in the first shard.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any

from distillation.plan import fingerprint
from distillation.recipe import Recipe

SEED_BITS = 48
"""Seeds stay whole numbers in every JSON reader, which doubles hold up to 53 bits."""


@dataclass(frozen=True)
class Row:
    """One image to be made.

    Args:
        index: its number among all images of the job.
        label: number of its class.
        holdout: kept out of training, for the synthetic score.
    """

    index: int
    label: int
    name: str
    prompt: str
    holdout: bool


def shard_rows(recipe: Recipe, prompts: Mapping[str, Sequence[str]], shard: int) -> list[Row]:
    """The rows of one shard, in order of index."""
    names = recipe.domain.class_names
    total = len(names) * recipe.data.images_per_class
    first = shard * recipe.data.shard_size
    return list(_rows(recipe, prompts, names, range(first, min(total, first + recipe.data.shard_size))))


def _rows(recipe: Recipe, prompts: Mapping[str, Sequence[str]], names: list[str], indices: range) -> Iterator[Row]:
    for index in indices:
        number, label = divmod(index, len(names))
        available = prompts[names[label]]
        cycle, place = divmod(number, len(available))
        prompt = available[_order(len(available), recipe.data.seed, label, cycle)[place]]
        yield Row(index, label, names[label], prompt, is_holdout(number, recipe.data.holdout))


def is_holdout(number: int, share: float) -> bool:
    """Whether a class's image of this number is held out.

    Held-out images are spread evenly. The first of a class is always one and the second never, so that each class has
    both, whatever the share.
    """
    if number < 2:
        return number == 0
    exact = Fraction(share).limit_denominator(1_000_000)
    return ceil((number + 1) * exact) > ceil(number * exact)


def image_seed(seed: int, index: int, attempt: int) -> int:
    """Seed of one try at one image; any image can be made again from it alone."""
    digest = hashlib.sha256(f"{seed}/{index}/{attempt}".encode()).digest()
    return int.from_bytes(digest[: SEED_BITS // 8], "big")


@lru_cache(maxsize=8192)
def _order(count: int, seed: int, label: int, cycle: int) -> tuple[int, ...]:
    # Shuffled in every cycle: evenly spread held-out images must not always meet the same prompts.
    order = list(range(count))
    random.Random(f"{seed}/{label}/{cycle}").shuffle(order)
    return tuple(order)


def describe_rows(recipe: Recipe, model: str, rows: Sequence[Row], attempts: Sequence[int]) -> list[dict[str, Any]]:
    """The lines of ``images.jsonl``: what each image shows, and what makes it again.

    Args:
        model: directory or hub id of the pipeline that drew them.
        attempts: how many images were drawn for each row; the last was kept.
    """
    wanted = recipe.data.generator
    generator = fingerprint(model, "generator", wanted.revision, wanted.lora, wanted.decoder)
    return [
        {
            "index": row.index,
            "class": row.name,
            "label": row.label,
            "prompt": row.prompt,
            "seed": image_seed(recipe.data.seed, row.index, count - 1),
            "split": "holdout" if row.holdout else "train",
            "attempts": count,
            "generator": generator,
        }
        for row, count in zip(rows, attempts, strict=True)
    ]
