"""Photos that the benchmarks make up, and a training corpus of them. Speed depends on their size as JPEG files only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillation.views import sample_views

SLOPE = 1.2
CONTRAST = torch.tensor([50.0, 10.0, 10.0])[:, None, None]
"""Standard deviations of brightness and of the two colours, in grey levels."""


def made_photos(count: int, height: int, width: int) -> Tensor:
    """Noise with the spectrum of photos, uint8 ``(count, height, width, 3)``: as JPEG files they are as large.

    Amplitudes fall as ``frequency ** -SLOPE``, as in natural scenes (Torralba and Oliva 2003); colours are fainter than
    brightness. A JPEG file of quality 90 has 0.5 bytes for each pixel at 512 x 384 and 0.4 at
    4000 x 3000; ImageNet's have 0.6 (138 GB for 1.28 million of 469 x 387).
    """
    generator = torch.Generator().manual_seed(0)
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    amplitude = torch.hypot(fy, fx).clamp(min=1 / max(height, width)) ** -SLOPE
    photos = torch.empty(count, height, width, 3, dtype=torch.uint8)
    for photo in photos:  # one at a time: a photo of 12 million pixels takes 300 MB on its way
        noise = torch.fft.rfft2(torch.randn(3, height, width, generator=generator)) * amplitude
        plane = torch.fft.irfft2(noise, s=(height, width))
        y, cb, cr = plane / plane.std(dim=(1, 2), keepdim=True) * CONTRAST
        rgb = torch.stack([y + 1.402 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.772 * cb], dim=-1)
        photo.copy_((rgb + 128).clamp(0, 255))
    return photos


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
