"""Which photo each generated image is compared with."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def matched(made: Tensor, photos: Tensor, group: int) -> Tensor:
    """For each image the row of a photo, another for each, of the same group: the assignment with the least sum of
    squared distances.

    Args:
        made: summaries of images ``(n, dim)``.
        photos: summaries of photos ``(n, dim)``.
        group: rows that belong together, one group after another; it divides n.

    Returns:
        int64 ``(n,)``.
    """
    ours, theirs = (rows.float().unflatten(0, (-1, group)) for rows in (made, photos))
    costs = torch.cdist(ours, theirs).square().cpu().numpy()
    orders = [torch.from_numpy(linear_sum_assignment(cost)[1]) + group * number for number, cost in enumerate(costs)]
    return torch.cat(orders).to(made.device)
