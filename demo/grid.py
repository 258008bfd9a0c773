"""One picture of what the generator made: a cell for every class, its name above its sample images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLUMNS, PER_CLASS, SIDE, GAP, TITLE = 3, 4, 96, 6, 26


def draw_grid(samples: Sequence[Mapping[str, Any]], folder: Path, target: Path) -> None:
    """Write the picture to `target`; `samples` are the rows of samples.json, each with a `file` in `folder`."""
    by_class: dict[str, list[Path]] = {}
    for sample in samples:
        by_class.setdefault(sample["class"], []).append(folder / sample["file"])
    per_class = min(PER_CLASS, max(map(len, by_class.values())))
    width, height = per_class * (SIDE + GAP) + 2 * GAP, TITLE + SIDE + 2 * GAP
    rows = -(-len(by_class) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for index, (name, files) in enumerate(by_class.items()):
        left, top = GAP + index % COLUMNS * width, GAP + index // COLUMNS * height
        draw.text((left, top), name, fill="black", font=font)
        for place, file in enumerate(files[:per_class]):
            with Image.open(file) as image:
                tile = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            canvas.paste(tile, (left + place * (SIDE + GAP), top + TITLE))
    canvas.save(target)
