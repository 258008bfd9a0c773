"""Which synthetic images are fit for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_CONTRAST = 4.0
"""Standard deviation in grey levels (of 255) below which an image shows nothing; photos have 30 to 80."""

CHUNK = 64


@dataclass(frozen=True)
class Verdict:
    """One entry for each image: ``near_constant`` and ``disagrees`` exclude each other; ``right`` is before filters."""

    keep: Tensor
    near_constant: Tensor
    disagrees: Tensor
    right: Tensor


def near_constant(images: Tensor) -> Tensor:
    """Black, blank or nearly uniform images: bool ``(n,)`` for uint8 ``(n, height, width, 3)``.

    Safety checkers answer with black images; broken sampling gives one flat colour, of which each channel is flat.
    """
    parts = [part.float().flatten(1, 2).std(dim=1, correction=0).amax(dim=1) for part in images.split(CHUNK)]
    return torch.cat(parts) < LEAST_CONTRAST


def judge(
    images: Tensor, logits: Tensor, labels: Tensor, *, drop_near_constant: bool, drop_disagreeing: bool
) -> Verdict:
    """Apply the recipe's filters.

    Args:
        logits: the teacher's zero-shot logits ``(n, classes)``.
        labels: the intended classes ``(n,)``.
    """
    right = logits.argmax(dim=1) == labels
    flat = near_constant(images) if drop_near_constant else torch.zeros_like(right)
    disagrees = ~right & ~flat if drop_disagreeing else torch.zeros_like(right)
    return Verdict(~flat & ~disagrees, flat, disagrees, right)
