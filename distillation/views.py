"""Views: random crops and flips as batched tensor operations on the device.

A view is a row of five numbers, ``(top, left, height, width, flip)``, each a fraction of the image.
Keeping the numbers instead of the pixels lets a cached teacher feature name the exact crop it saw.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_views(
    count: int, *, scale: tuple[float, float], generator: torch.Generator, ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Tensor:
    """Draw RandomResizedCrop boxes with horizontal flips.

    Args:
        count: number of views.
        scale: smallest and largest area of the crop, as a fraction of the image.
        ratio: smallest and largest aspect ratio, drawn log-uniformly.

    Returns:
        float32 of shape ``(count, 5)``: top, left, height, width in [0, 1], flip in {0, 1}.
    """
    uniform = torch.rand(count, 5, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * uniform[:, 0]
    log_ratio = math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * uniform[:, 1]
    aspect = log_ratio.exp()
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    top = uniform[:, 2] * (1 - height)
    left = uniform[:, 3] * (1 - width)
    flip = (uniform[:, 4] < 0.5).float()
    return torch.stack([top, left, height, width, flip], dim=1)


def whole_views(count: int) -> Tensor:
    """The uncropped, unflipped view of ``count`` images, shape ``(count, 5)``."""
    return torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).repeat(count, 1)


def apply_views(images: Tensor, views: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """Crop, flip, resize (bilinear) and normalise a batch.

    Args:
        images: uint8 of shape ``(n, height, width, 3)``.
        views: float32 of shape ``(n, 5)``, see :func:`sample_views`.
        size: side of the square output in pixels.
        mean: per-channel mean in [0, 1], shape ``(3,)``, on the images' device.
        std: per-channel standard deviation, shape ``(3,)``.

    Returns:
        float32 of shape ``(n, 3, size, size)`` in channels-last memory.
    """
    # Planar floats in one pass: grid_sample is several times slower on the strided view.
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    top, left, height, width, flip = views.to(images.device).unbind(1)
    # affine_grid maps output [-1, 1] to input [-1, 1]; a flip is a negative horizontal scale.
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = width * (1 - 2 * flip)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = 2 * left + width - 1
    theta[:, 1, 2] = 2 * top + height - 1
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    cropped = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    scale = (1 / (255 * std)).view(1, 3, 1, 1)
    shift = (mean / std).view(1, 3, 1, 1)
    return cropped.mul_(scale).sub_(shift).contiguous(memory_format=torch.channels_last)


def mask_patches(pixels: Tensor, ratio: float, patch: int, generator: torch.Generator | None = None) -> Tensor:
    """Blot out a random share of each image's patches with the mean colour, which is 0 in normalised pixels.

    Args:
        pixels: normalised, shape ``(n, 3, height, width)``; unchanged.
        ratio: share of the patches, rounded to whole ones; one stays visible.
        patch: side of a patch in pixels; those at the right and lower edge may be cut.
        generator: on the pixels' device; None: torch's own of that device.

    Returns:
        A masked copy.
    """
    count, _, height, width = pixels.shape
    rows, columns = -(-height // patch), -(-width // patch)
    noise = torch.rand(count, rows * columns, generator=generator, device=pixels.device)
    masked = min(round(ratio * rows * columns), rows * columns - 1)
    visible = (noise.argsort(1).argsort(1) >= masked).view(count, 1, rows, columns).to(pixels.dtype)
    grid = visible.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return pixels * grid[:, :, :height, :width]
