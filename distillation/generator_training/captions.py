"""Captions of labelled photos, made from what the photos themselves show.

A label says the class only. Light and background can be measured, so the generator learns to obey words for
them, and prompts of contextual dimensions vary its images.
"""

from __future__ import annotations

import random

import numpy as np

COLOURS = {
    "red": (0.55, 0.25, 0.22), "orange": (0.62, 0.42, 0.22), "green": (0.32, 0.42, 0.24), "blue": (0.30, 0.42, 0.58),
    "brown": (0.42, 0.33, 0.25), "white": (0.80, 0.80, 0.80), "grey": (0.48, 0.48, 0.48), "black": (0.12, 0.12, 0.12),
}  # fmt: skip
LIGHT = {"dark": ("at night", "in the dark"), "bright": ("in bright light", "in daylight"), "plain": ()}
UNSAID = -1
OTHER_WORDS = (
    "outdoors", "indoors", "on a table", "in a field", "in the street", "on grass", "in a garden", "in a kitchen",
    "in front of a wall", "on a plate", "in the evening", "seen from the side", "seen from above", "seen from below",
    "close-up", "from afar", "held in a hand", "next to another", "old and worn", "brand new",
)  # fmt: skip
"""What the photos do not tell. Said at random, so that such words leave the class alone."""


def background(image: np.ndarray) -> int:
    """Which of ``COLOURS`` is nearest to the mean of the image's border, its likely background.

    Args:
        image: uint8 ``(height, width, 3)``.
    """
    rim = max(1, round(len(image) * 3 / 32))
    parts = (image[:rim], image[-rim:], image[:, :rim])
    edge = np.concatenate([part.reshape(-1, 3) for part in parts])
    mean = edge.mean(0) / 255
    return int(np.square(mean - np.array(list(COLOURS.values()))).sum(1).argmin())


def light(image: np.ndarray) -> int:
    """Which of ``LIGHT`` the image's mean brightness is."""
    brightness = float(image.mean()) / 255
    return 0 if brightness < 0.32 else 1 if brightness > 0.55 else 2


def caption(name: str, light: int, background: int, chooser: random.Random) -> str:
    """A caption that says the class, light and background unless they are ``UNSAID``, and now and then other words."""
    parts = [f"a photo of a {name}"]
    if light != UNSAID and (words := list(LIGHT.values())[light]):
        parts.append(chooser.choice(words))
    if background != UNSAID:
        parts.append(f"{list(COLOURS)[background]} background")
    others = chooser.sample(OTHER_WORDS, chooser.choice((0, 0, 1, 2)))
    return ", ".join([parts[0], *chooser.sample(parts[1:] + others, len(parts) - 1 + len(others))])
