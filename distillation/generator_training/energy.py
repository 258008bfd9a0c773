"""How far generated images are from photos of their class, as two distributions: repetition counts against them."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_distance(made: Tensor, photos: Tensor, group: int) -> Tensor:
    """``2 E|x - y| - E|x - x'| - E|y - y'|`` of images x and photos y of one class, mean over the classes.

    Estimated without bias from a few of each, so that its gradient leads to the photos' distribution however few they
    are (arXiv 1705.10743, section 4); a distance between pairs of an image and a photo would lead to their mean.

    Args:
        made, photos: ``(n, dim)`` float32, one class after another.
        group: rows of a class, 2 or more; it divides n.
    """
    ours, theirs = (rows.unflatten(0, (-1, group)) for rows in (made, photos))
    return 2 * _distances(ours, theirs).mean() - _within(ours) - _within(theirs)


def _within(rows: Tensor) -> Tensor:
    """Mean distance of two different rows of a class."""
    group = rows.shape[1]
    return _distances(rows, rows).sum((1, 2)).mean() / (group * (group - 1))


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # By differences: through products, rows that lie close together would lose their digits.
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
