"""The drifting loss: generated images move towards photos of their class and away from each other.

After "Generative Modeling via Drifting" (arXiv 2602.04770): no adversary, no noise schedule, one step at inference. The
field is zero once both sets are distributed alike, so images neither collapse nor copy a photo.
"""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURES = (0.05, 0.2)
"""In units of the typical distance between two photos."""


def drifting_loss(made: Tensor, photos: Tensor) -> Tensor:
    """Mean squared distance of each image's features from where they should drift.

    Args:
        made: features of generated images, ``(classes, k, dim)``, with gradient.
        photos: features of photos of the same classes, ``(classes, m, dim)``. Both are scaled so that two photos are
            about 1 apart.
    """
    here = made.detach()
    to_photos = -torch.cdist(here, photos)
    to_made = -torch.cdist(here, here) - 1e6 * torch.eye(here.shape[1], device=here.device)
    logits = torch.cat([to_photos, to_made], 2)
    drift = torch.zeros_like(here)
    for temperature in TEMPERATURES:
        scaled = logits / temperature
        weights = (scaled.softmax(2) * scaled.softmax(1)).sqrt()
        attract, repel = weights.split([photos.shape[1], here.shape[1]], 2)
        field = (attract * repel.sum(2, keepdim=True)) @ photos - (repel * attract.sum(2, keepdim=True)) @ here
        drift = drift + field / (field.square().sum(2).mean((1,), keepdim=True)[..., None].sqrt() + 1e-6)
    return (made - (here + drift)).square().sum(2).mean()
