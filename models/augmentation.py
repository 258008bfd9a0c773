"""Augmented features: the student's and the teacher's through one trainable layer, for the ``afd`` loss of CLIP-KD.

The layer lives as long as the training; no exported model has it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def augmentation_layer(width: int) -> nn.Linear:
    """A layer ``(n, 2 * width) -> (n, width)`` with random weights of torch's default generator."""
    return nn.Linear(2 * width, width)


def augmented_features(layer: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """``normalise(W [s_i; t_i] + b)``, CLIP-KD's fusion of image features (arXiv 2307.12732).

    Args:
        layer: of :func:`augmentation_layer`.
        student, teacher: features ``(n, d)``.

    Returns:
        Features ``(n, d)``, L2-normalised.
    """
    return F.normalize(layer(torch.cat([student, teacher], dim=-1)), dim=-1)
