"""Augmentation of batches for long trainings, on their device: changed colours, and two photos in one."""

from __future__ import annotations

import torch
from torch import Tensor

JITTER = 0.4
"""Brightness, contrast and saturation change by up to this share."""
SMALLEST_SHARE = 0.05
"""Of the other photo in a mixed one; less of it is left out."""


def jitter(pixels: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each image ``(n, 3, height, width)``, normalised before and after.

    Normalised channels are nearly alike in scale, so the mean over them stands for grey.
    """
    brightness, contrast, saturation = 1 + JITTER * (2 * torch.rand(3, len(pixels), 1, 1, 1, device=pixels.device) - 1)
    grey = pixels.mean(1, keepdim=True)
    coloured = grey + saturation * (pixels - grey)
    middle = coloured.mean((1, 2, 3), keepdim=True)
    changed: Tensor = middle + contrast * (coloured - middle) + (brightness - 1)
    return changed


def mix(pixels: Tensor, share: float) -> tuple[Tensor, Tensor, float]:
    """Mix every image of a batch with another one: a rectangle of it (CutMix, arXiv 1905.04899) in half of the batches,
    all of it (mixup, arXiv 1710.09412) in the others.

    Args:
        share: of the other image, 0 to 1.

    Returns:
        The mixed images, the row of each one's other image ``(n,)``, and the other's true share.
    """
    other = torch.randperm(len(pixels), device=pixels.device)
    height, width = pixels.shape[2:]
    if share < SMALLEST_SHARE:
        return pixels, other, 0.0
    if torch.rand(()) < 0.5:
        return torch.lerp(pixels, pixels[other], share), other, share
    rows, columns = round(height * share**0.5), round(width * share**0.5)
    top, left = (int(torch.randint(side + 1, ())) for side in (height - rows, width - columns))
    mixed = pixels.clone(memory_format=torch.preserve_format)
    mixed[:, :, top : top + rows, left : left + columns] = pixels[other, :, top : top + rows, left : left + columns]
    return mixed, other, rows * columns / (height * width)
