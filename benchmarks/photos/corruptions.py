"""Accuracy on corrupted photos: ImageNet-C's fifteen corruptions (arXiv 1903.12261), drawn by ``corrupt_tta``.

Strengths were set for 224-pixel photos; on 64 pixels most of them are harsher. All models see the same pixels.
"""

from __future__ import annotations

from pathlib import Path

import corrupt_tta
import numpy as np
from numpy.typing import NDArray

from distillation.image_sets import ImageSet

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
SEVERITIES = (1, 3, 5)


def corrupted(photos: ImageSet, seed: int, kept: Path) -> list[ImageSet]:
    """The photos under every corruption at every severity, from ``kept`` where they were drawn before."""
    kept.mkdir(parents=True, exist_ok=True)
    sets = []
    for number, name in enumerate(CORRUPTIONS):
        for severity in SEVERITIES:
            file = kept / f"{name}-{severity}.npy"
            if not file.is_file():
                np.random.seed(seed * 1000 + number * 10 + severity)
                np.save(file, np.concatenate([_corrupt(batch, name, severity) for batch in photos.batches(256)]))
            images = np.load(file, mmap_mode="r")
            sets.append(ImageSet([(images, np.arange(len(images)))], photos.labels))
    return sets


def _corrupt(images: NDArray[np.uint8], name: str, severity: int) -> NDArray[np.uint8]:
    drawn = [corrupt_tta.corrupt(image, severity=severity, corruption_name=name) for image in images]
    return np.stack([np.clip(image, 0, 255).astype(np.uint8) for image in drawn])
