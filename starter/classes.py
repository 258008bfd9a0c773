"""Domains cut from Tiny ImageNet, and the classes that the starter generator was taught: labels of ``classes.tsv``."""

from __future__ import annotations

DOMAINS: dict[str, tuple[int, ...]] = {
    "animals": tuple(range(59)),
    "food": tuple(range(178, 194)),
    "vehicles": (70, 81, 94, 103, 107, 108, 111, 114, 115, 116, 121, 133, 145, 153, 164, 166),
    "places": (
        61, 65, 66, 71, 82, 91, 93, 96, 102, 124, 129, 154, 157, 162, 165, 170, 173, 194, 195, 196, 197, 198
    ),
}  # fmt: skip
GENERATED = (0, 13, 21, 26, 34, 35, 36, 38, 43, 44, 50, 57, *DOMAINS["vehicles"], *DOMAINS["food"])
"""What the starter generator draws, in ascending order; README.md says how well."""
