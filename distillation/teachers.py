"""What can be known of a teacher without loading it. Torch-free."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from distillation.known_models import TEACHERS

CONFIG = "open_clip_config.json"
BUFFERS = ("running_mean", "running_var")
"""Of a batch norm: saved with the weights, but no parameters."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class TeacherShape(NamedTuple):
    """What decides which student a recipe means.

    Args:
        image_size: side of the input in pixels.
        embed_dim: width of the features.
        params_image_tower: parameters of the image tower.
        known: False where these are guesses, until a worker has loaded the teacher.
    """

    image_size: int
    embed_dim: int
    params_image_tower: int
    known: bool = True


TYPICAL = TeacherShape(224, 512, 87_849_216, known=False)
"""A ViT-B-32: what is guessed of a teacher that is only on a hub."""


def stored_side(image_size: int) -> int:
    """Side in pixels at which images are kept for a teacher of that input: a little more, for the crops."""
    return round(image_size * 8 / 7)


def teacher_shape(model: str, folder: Path | None) -> TeacherShape:
    """The shape of a teacher, read from its folder or from the catalogue.

    Args:
        model: ``teacher.model`` of a recipe; an open_clip name decides the shape whatever the weights.
        folder: its local open_clip directory, if it has one.

    Of a model that neither describes, or a broken folder, the answer is a guess, which decides only the estimate and
    the student that is shown beforehand; the training process reads the real values, or says what is wrong.
    """
    config = folder / CONFIG if folder is not None else None
    if folder is not None and config is not None and config.is_file():
        try:
            described = json.loads(config.read_text(encoding="utf-8"))["model_cfg"]
            size = described["vision_cfg"].get("image_size", 224)
            side = int(size if isinstance(size, int) else size[0])
            return _shape(side, int(described["embed_dim"]), _image_tower_params(folder))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return TYPICAL
    for row in TEACHERS:
        if row.model == model:
            return _shape(row.image_size, row.embed_dim, row.params_image_tower)
    return TYPICAL


def _shape(image_size: int, embed_dim: int, params_image_tower: int) -> TeacherShape:
    known = params_image_tower > 0
    return TeacherShape(image_size, embed_dim, params_image_tower or TYPICAL.params_image_tower, known)


def _image_tower_params(folder: Path) -> int:
    """Parameters counted in the header of the weights' file; 0 where there is none that can be read."""
    for path in sorted(folder.glob("*.safetensors")):
        count: int = sum(
            math.prod(tensor["shape"])
            for name, tensor in _safetensors_header(path).items()
            if name.startswith("visual.") and tensor["dtype"] in FLOATS and not name.endswith(BUFFERS)
        )
        if count:
            return count
    return 0


def _safetensors_header(path: Path) -> dict[str, Any]:
    """Tensor names with dtype and shape; empty for a broken file, which the process that loads it explains."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return {}
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError:
            return {}
    return header
