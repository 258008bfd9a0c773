"""Zero-shot classification: image features against one text direction for each class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def zero_shot_probabilities(features: Tensor, head: Tensor, logit_scale: float) -> Tensor:
    """Class probabilities ``(n, classes)``.

    Args:
        features: image features ``(n, embed_dim)``, L2-normalised.
        head: one normalised direction for each class, ``(embed_dim, classes)``.
        logit_scale: inverse temperature. A logit bias (SigLIP) shifts all classes alike, so softmax has no use for it.
    """
    return (logit_scale * features @ head).softmax(dim=-1)


class ImageEmbedder(nn.Module):
    """An image tower followed by normalisation: normalised pixels ``(n, 3, s, s)`` -> ``(n, embed_dim)``."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.tower(image), dim=-1)
