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
    return crop_boxes(torch.rand(count, 5, generator=generator), scale=scale, ratio=ratio)


def crop_boxes(uniform: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Tensor:
    """The views that uniform random numbers ``(..., 5)`` stand for, see :func:`sample_views`."""
    random_area, random_ratio, random_top, random_left, random_flip = uniform.unbind(-1)
    area = scale[0] + (scale[1] - scale[0]) * random_area
    log_ratio = math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * random_ratio
    aspect = log_ratio.exp()
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    top = random_top * (1 - height)
    left = random_left * (1 - width)
    flip = (random_flip < 0.5).float()
    return torch.stack([top, left, height, width, flip], dim=-1)


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
    grid = _grid(views.to(images.device), size)
    cropped = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    scale = (1 / (255 * std)).view(1, 3, 1, 1)
    shift = (mean / std).view(1, 3, 1, 1)
    return cropped.mul_(scale).sub_(shift).contiguous(memory_format=torch.channels_last)


def _grid(views: Tensor, size: int) -> Tensor:
    """Where each output pixel lies in the image, ``(n, size, size, 2)`` in [-1, 1]; a flip runs from right to left.

    A crop's columns do not depend on its rows, so this is ten times cheaper than ``F.affine_grid``'s matrix product.
    """
    top, left, height, width, flip = views.unbind(1)
    steps = (torch.arange(size, device=views.device) + 0.5) * (2 / size) - 1
    x = (width * (1 - 2 * flip))[:, None] * steps + (2 * left + width - 1)[:, None]
    y = height[:, None] * steps + (2 * top + height - 1)[:, None]
    shape = (len(views), size, size)
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)


def mask_patches(
    pixels: Tensor,
    ratio: float,
    patch: int,
    generator: torch.Generator | None = None,
    *,
    first: int = 0,
    count: int | None = None,
) -> Tensor:
    """Blot out a random share of each image's patches with the mean colour, which is 0 in normalised pixels.

    Args:
        pixels: normalised, shape ``(n, 3, height, width)``; unchanged.
        ratio: share of the patches, rounded to whole ones; one stays visible.
        patch: side of a patch in pixels; those at the right and lower edge may be cut.
        generator: on the pixels' device; None: torch's own of that device.
        first, count: the images are those from ``first`` on of a batch of ``count``, and get the masks they would get
            in it; by default they are all of it.

    Returns:
        A masked copy.
    """
    images, _, height, width = pixels.shape
    rows, columns = -(-height // patch), -(-width // patch)
    noise = torch.rand(count or images, rows * columns, generator=generator, device=pixels.device)
    noise = noise[first : first + images]
    masked = min(round(ratio * rows * columns), rows * columns - 1)
    visible = (noise.argsort(1).argsort(1) >= masked).view(images, 1, rows, columns).to(pixels.dtype)
    grid = visible.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return pixels * grid[:, :, :height, :width]
