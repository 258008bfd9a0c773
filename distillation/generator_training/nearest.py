"""How near images come to photos, pixel by pixel: a generator that had memorised a photo would come very near."""

from __future__ import annotations

import torch
from torch import Tensor

from distillation.embedding import Embedder

SIDE = 64
"""Largest side in pixels at which images are compared."""
PHOTOS_AT_ONCE = 2048


def nearest_distances(images: Tensor, photos: Tensor) -> Tensor:
    """Root-mean-square pixel distance, of [0, 1], of each image to the nearest photo or mirrored photo.

    Args:
        images, photos: uint8 ``(n, side, side, 3)`` and ``(m, side, side, 3)``, on one device.

    Returns:
        float32 ``(n,)`` on the CPU.
    """
    ours = _flat(images)
    best = torch.full((len(ours),), torch.inf, device=ours.device)
    for part in photos.split(PHOTOS_AT_ONCE):
        for theirs in (_flat(part), _flat(part.flip(2))):
            products = ours.square().sum(1)[:, None] + theirs.square().sum(1) - 2 * ours @ theirs.t()
            which = products.argmin(1)
            # Again for the nearest, exactly: in the line above an equal photo's distance is lost in rounding.
            best = torch.minimum(best, (ours - theirs[which]).square().mean(1))
    return best.sqrt().cpu()


def _flat(images: Tensor) -> Tensor:
    return Embedder.resize(images, min(SIDE, images.shape[1])).flatten(1).float() / 255
