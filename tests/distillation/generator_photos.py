"""Labelled photos as small as can be, made in the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from distillation.datasets import import_dataset

COLOURS = {
    "red thing": (210, 40, 30),
    "green thing": (40, 190, 50),
    "blue thing": (40, 60, 220),
    "sand": (220, 200, 120),
}


def write_photos(folder: Path, of_class: int = 8, side: int = 32) -> Path:
    """A folder for each class with noisy pictures of a coloured square."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(of_class):
            pixels = random.normal(100, 30, (side, side, 3))
            top, left = random.integers(0, side // 2, 2)
            pixels[top : top + side // 2, left : left + side // 2] = colour
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def photo_dataset(folder: Path, of_class: int = 8, side: int = 32) -> Path:
    """The dataset directory of such photos."""
    out = folder / "dataset"
    import_dataset(write_photos(folder / "photos", of_class, side), out)
    return out
