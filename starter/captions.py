"""Captions for the starter generator, made from what the photos themselves show.

Tiny ImageNet has class names only. Light, colour and framing can be measured, so the generator learns to obey
words for them, and prompts of contextual dimensions vary its images.
"""

from __future__ import annotations

import random

import numpy as np

COLOURS = {
    "red": (0.55, 0.25, 0.22), "orange": (0.62, 0.42, 0.22), "green": (0.32, 0.42, 0.24), "blue": (0.30, 0.42, 0.58),
    "brown": (0.42, 0.33, 0.25), "white": (0.80, 0.80, 0.80), "grey": (0.48, 0.48, 0.48), "black": (0.12, 0.12, 0.12),
}  # fmt: skip
LIGHT = {"dark": ("at night", "in the dark"), "bright": ("in bright light", "in daylight"), "plain": ("",)}
FRAMING = {"close": ("close-up",), "wide": ("seen from afar", "")}


def border_colour(image: np.ndarray) -> str:
    """Name of the colour nearest to the mean of the image's border, its likely background.

    Args:
        image: uint8 ``(height, width, 3)``.
    """
    edge = np.concatenate([image[:6].reshape(-1, 3), image[-6:].reshape(-1, 3), image[:, :6].reshape(-1, 3)])
    mean = edge.mean(0) / 255
    return min(COLOURS, key=lambda name: float(np.square(mean - np.array(COLOURS[name])).sum()))


def light(image: np.ndarray) -> str:
    """``dark``, ``bright`` or ``plain`` by mean brightness."""
    brightness = float(image.mean()) / 255
    return "dark" if brightness < 0.32 else "bright" if brightness > 0.55 else "plain"


def caption(name: str, image: np.ndarray, *, close: bool, chooser: random.Random) -> str:
    """A caption with the class name and a random part of what can be measured."""
    parts = [f"a photo of a {name}"]
    if chooser.random() < 0.5:
        parts.append(chooser.choice(FRAMING["close" if close else "wide"]))
    if chooser.random() < 0.5:
        parts.append(chooser.choice(LIGHT[light(image)]))
    if chooser.random() < 0.5:
        parts.append(f"{border_colour(image)} background")
    return ", ".join(part for part in parts if part)
