"""Which Tiny ImageNet classes the starter generator was taught (labels of ``classes.tsv``); README.md says how well."""

from __future__ import annotations

FOOD = tuple(range(178, 194))
VEHICLES = (70, 81, 94, 103, 107, 108, 111, 114, 115, 116, 121, 133, 145, 153, 164, 166)
ANIMALS = (0, 13, 21, 26, 34, 35, 36, 38, 43, 44, 50, 57)
GENERATED = (*ANIMALS, *VEHICLES, *FOOD)
