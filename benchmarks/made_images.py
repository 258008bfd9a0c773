"""Images that the benchmarks make up, and a training corpus of them. Speed does not depend on what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distillation.views import sample_views


def smooth_images(count: int, height: int, width: int, *, grain: float = 4.0) -> Tensor:
    """Smooth colours with grain, uint8 ``(count, height, width, 3)``; as JPEG they are about as large as photos."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * 255
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")
    noise = torch.randn(count, 3, height, width, generator=generator) * grain
    return (smooth + noise).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def write_shard(folder: Path, pixels: NDArray[np.uint8], views: int, width: int) -> Path:
    """A generate shard's arrays in ``folder``: ``pixels`` with random views and random features ``width`` wide."""
    count = len(pixels)
    features = np.random.default_rng(0).normal(size=(count, views, width))
    drawn = sample_views(count * views, scale=(0.5, 1.0), generator=torch.Generator().manual_seed(0))
    arrays = {
        "pixels": pixels,
        "views": drawn.reshape(count, views, 5).numpy(),
        "features": (features / np.linalg.norm(features, axis=-1, keepdims=True)).astype(np.float16),
        "holdout": np.zeros(count, bool),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder
