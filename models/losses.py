"""Distillation losses, from Zero-Shot Distillation for Image Encoders (arXiv 2404.16637) and its neighbours.

Shapes everywhere: student and teacher features ``(n, d)``, L2-normalised; a scalar comes back. Row ``i`` of every
argument is about the same image (the teacher saw the same crop).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a loss may look at.

    Args:
        student: features ``(n, d)``, the only ones with a gradient.
        teacher: cached features of the same views ``(n, d)``.
        scale: the teacher's ``exp(logit_scale)``, its inverse temperature.
        captions: the teacher's text features of the distinct captions ``(c, d)``, for ``contrastive``.
        caption: which caption describes each image, int64 ``(n,)``.
    """

    student: Tensor
    teacher: Tensor
    scale: float
    captions: Tensor | None = None
    caption: Tensor | None = None


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_i ||s_i - t_i||_2``: the norm itself, not its square (the paper's loss)."""
    # clamp: the norm's gradient at zero is 0 / 0.
    return (student - teacher).square().sum(-1).clamp_min(1e-12).sqrt().mean()


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_ij (s_ij - t_ij)^2``, over images and dimensions (feature distillation of CLIP-KD)."""
    return F.mse_loss(student, teacher)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_i (1 - s_i . t_i)``: half the squared L2 distance."""
    return 1 - (student * teacher).sum(-1).mean()


def i2i(student: Tensor, teacher: Tensor, scale: float) -> Tensor:
    """``-mean_i log softmax_j(scale * s_i . t_j)_i``: InfoNCE between student and teacher images (the paper's I2I)."""
    logits = scale * student @ teacher.t()
    return -logits.log_softmax(-1).diagonal().mean()


def contrastive(student: Tensor, captions: Tensor, caption: Tensor, scale: float) -> Tensor:
    """``(InfoNCE(s, text) + InfoNCE(text, s)) / 2``, the paper's vision-language arm.

    Args:
        captions: text features of distinct captions ``(c, d)``.
        caption: index of each image's caption ``(n,)``.

    Equal to the paper's where every image of the batch has its own caption. Images that share one are all positives
    of it, else the loss would push apart what the text cannot tell apart.
    """
    logits = scale * student @ captions[caption].t()
    same = (caption[:, None] == caption[None, :]).to(logits.dtype)
    positives = same / same.sum(-1, keepdim=True)
    return (F.cross_entropy(logits, positives) + F.cross_entropy(logits.t(), positives)) / 2


def _contrastive(batch: Batch) -> Tensor:
    if batch.captions is None or batch.caption is None:
        raise ValueError("the contrastive loss needs captions; images without a text have none")
    return contrastive(batch.student, batch.captions, batch.caption, batch.scale)


LOSSES: dict[str, Callable[[Batch], Tensor]] = {
    "l2": lambda batch: l2(batch.student, batch.teacher),
    "mse": lambda batch: mse(batch.student, batch.teacher),
    "cosine": lambda batch: cosine(batch.student, batch.teacher),
    "i2i": lambda batch: i2i(batch.student, batch.teacher, batch.scale),
    "contrastive": _contrastive,
}


def total_loss(weights: Mapping[Any, float], batch: Batch) -> Tensor:
    """``sum_k weight_k * loss_k``."""
    parts = [weight * LOSSES[name](batch) for name, weight in weights.items()]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
