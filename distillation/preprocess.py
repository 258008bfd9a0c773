"""From uint8 squares to a model's input, by open_clip's own evaluation transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from distillation.image_sets import ImageSet
from models.memory import in_halving_batches

BATCH = 64


def student_preprocess(teacher_cfg: dict[str, Any], image_size: int) -> dict[str, Any]:
    """The teacher's preprocessing at the student's size: the student learnt from pixels normalised that way.

    Not its resize mode: the student learnt from undistorted squares and is measured on the centre squares of photos,
    also where the teacher squashes them.
    """
    return {
        "size": image_size,
        "mode": "RGB",
        "mean": list(teacher_cfg["mean"]),
        "std": list(teacher_cfg["std"]),
        "interpolation": teacher_cfg["interpolation"],
        "resize_mode": "shortest",
    }


def preprocess(images: NDArray[np.uint8], cfg: dict[str, Any]) -> Tensor:
    """Normalised float32 ``(n, 3, size, size)`` of uint8 ``(n, side, side, 3)``."""
    transform = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def embed(
    encode: Callable[[Tensor], Tensor],
    images: ImageSet,
    cfg: dict[str, Any],
    *,
    on_batch: Callable[[int], None],
    on_halved: Callable[[int], None],
) -> NDArray[np.float32]:
    """Normalised features ``(n, embed_dim)`` of a whole set.

    Args:
        encode: preprocessed pixels on the CPU -> features, normalised.
        on_batch: told how many images each batch had.
        on_halved: told the new batch size when memory runs out.
    """
    features = []
    for batch in images.batches(BATCH):
        pixels = preprocess(batch, cfg)

        def work(start: int, stop: int, pixels: Tensor = pixels) -> NDArray[np.float32]:
            found: NDArray[np.float32] = encode(pixels[start:stop]).float().cpu().numpy()
            return found

        features += in_halving_batches(work, len(pixels), BATCH, on_halved)
        on_batch(len(pixels))
    return np.concatenate(features)
