"""Distillation losses, from Zero-Shot Distillation for Image Encoders (arXiv 2404.16637) and its neighbours.

Shapes everywhere: student and teacher features ``(n, d)``, L2-normalised; a scalar comes back. Row ``i`` of every
argument is about the same image (the teacher saw the same crop).

CLIP-KD (arXiv 2307.12732) trains a text tower too; here the student has the teacher's, so both share the text features
``u``. What is left of its losses: ``crd``, ``mfd``, ``gd``, ``icl``, ``afd``; its FD is ``mse`` (the text half is
zero), its task loss is ``contrastive``. Its unified sum is ``{crd: 1, mse: 2000, icl: 1, contrastive: 1}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a loss may look at.

    Args:
        student: features ``(n, d)``, the only ones with a gradient.
        teacher: cached features of the same views ``(n, d)``.
        scale: the teacher's ``exp(logit_scale)``, its inverse temperature.
        captions: the teacher's text features of the distinct captions ``(c, d)``, where a loss needs them.
        caption: which caption describes each image, int64 ``(n,)``.
        masked: the student's features of the same views with most patches masked ``(n, d)``, for ``mfd``.
        augmented: features made of the student's and the teacher's ``(n, d)``, normalised, for ``afd``.
    """

    student: Tensor
    teacher: Tensor
    scale: float
    captions: Tensor | None = None
    caption: Tensor | None = None
    masked: Tensor | None = None
    augmented: Tensor | None = None


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_i ||s_i - t_i||_2``: the norm itself, not its square (the paper's loss)."""
    # clamp: the norm's gradient at zero is 0 / 0.
    return (student - teacher).square().sum(-1).clamp_min(1e-12).sqrt().mean()


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_ij (s_ij - t_ij)^2``, over images and dimensions: CLIP-KD's FD, whose scripts weigh it 2000."""
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
    of it, else the loss would push apart what the text cannot tell apart. It is CLIP-KD's task loss too.
    """
    logits = scale * student @ captions[caption].t()
    positives = _positives(caption, logits)
    return (F.cross_entropy(logits, positives) + F.cross_entropy(logits.t(), positives)) / 2


def icl(student: Tensor, teacher: Tensor, captions: Tensor, caption: Tensor, scale: float) -> Tensor:
    """``(InfoNCE(s, u) + InfoNCE(u, t)) / 2``, CLIP-KD's interactive contrastive learning (weight 1).

    Its second half contrasts the student's texts with the teacher's images. The student's texts are the teacher's, so
    that half has no gradient and is there for the value only. ``captions`` and ``caption`` as in :func:`contrastive`.
    """
    texts = captions[caption]
    positives = _positives(caption, student)
    halves = (scale * student @ texts.t(), scale * texts @ teacher.t())
    return torch.stack([F.cross_entropy(logits, positives) for logits in halves]).mean()


def crd(student: Tensor, teacher: Tensor, captions: Tensor, caption: Tensor, scale: float) -> Tensor:
    """``(KL(p_t || p_s) + KL(q_t || q_s)) / 2``, CLIP-KD's contrastive relational distillation (weight 1).

    ``p_x`` is ``softmax_j(scale * x_i . u_j)`` of an image over the batch's texts ``(n, n)``, ``q_x`` is
    ``softmax_j(scale * u_i . x_j)`` of a text over its images; KL is summed over ``j`` and averaged over ``i``.
    ``captions`` and ``caption`` as in :func:`contrastive`, ``u_i = captions[caption[i]]``.
    """
    texts = captions[caption]
    of_student, of_teacher = scale * student @ texts.t(), scale * teacher @ texts.t()
    return (_kl(of_student, of_teacher) + _kl(of_student.t(), of_teacher.t())) / 2


def gd(student: Tensor, teacher: Tensor, captions: Tensor, caption: Tensor, scale: float) -> Tensor:
    """``sum_k mean_ij (G_k(s)_ij - G_k(t)_ij)^2``, CLIP-KD's gradient distillation (scripts: weight 1e8).

    ``G_1 .. G_4``, each ``(n, d)``: gradients of ``InfoNCE(x, u)`` and of ``InfoNCE(u, x)``, each with respect to the
    image features ``x`` and to the text features ``u``. All four stay where the text is frozen, for those with respect
    to ``u`` depend on the images. ``captions`` and ``caption`` as in :func:`contrastive`.

    An entry of a gradient is of the order ``scale / (n * sqrt(d))``, so the loss falls with ``n^2 * d``. The weight
    1e8 belongs to batches of 1024: at another size it is ``1e8 * (n / 1024)^2``, 1.6e6 for 128 images.
    """
    texts = captions[caption]
    positives = _positives(caption, student)
    pairs = zip(
        info_nce_gradients(student, texts, positives, scale) + info_nce_gradients(texts, student, positives, scale),
        info_nce_gradients(teacher, texts, positives, scale) + info_nce_gradients(texts, teacher, positives, scale),
        strict=True,
    )
    return torch.stack([F.mse_loss(of_student, of_teacher) for of_student, of_teacher in pairs]).sum()


def info_nce_gradients(queries: Tensor, keys: Tensor, positives: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of ``mean_i CE(softmax_j(scale * queries_i . keys_j), positives_i)``, themselves differentiable.

    Args:
        queries, keys: ``(n, d)``.
        positives: the wanted distribution over keys of each query ``(n, n)``.

    Returns:
        ``scale / n * (p - positives) keys`` and ``scale / n * (p - positives)^T queries``, both ``(n, d)``.
    """
    logits = scale * queries @ keys.t()
    error = (logits.softmax(-1) - positives) * (scale / len(queries))
    return error @ keys, error.t() @ queries


def _positives(caption: Tensor, like: Tensor) -> Tensor:
    """Row ``i``: the uniform distribution over the images with the caption of image ``i``, ``(n, n)``."""
    same = (caption[:, None] == caption[None, :]).to(like.dtype)
    return same / same.sum(-1, keepdim=True)


def _kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    student, teacher = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _with_captions(name: str, loss: Callable[[Batch, Tensor, Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    def checked(batch: Batch) -> Tensor:
        if batch.captions is None or batch.caption is None:
            raise ValueError(f"the {name} loss needs captions; images without a text have none")
        return loss(batch, batch.captions, batch.caption)

    return checked


def _mfd(batch: Batch) -> Tensor:
    """``mean_ij (m_ij - t_ij)^2``: CLIP-KD's masked FD (weight 2000), ``m`` of masked views, ``t`` of whole ones."""
    if batch.masked is None:
        raise ValueError("the mfd loss needs the student's features of masked views")
    return mse(batch.masked, batch.teacher)


def _afd(batch: Batch, captions: Tensor, caption: Tensor) -> Tensor:
    """CLIP-KD's augmented feature distillation (weight 1): :func:`contrastive` of the augmented features ``(n, d)``.

    CLIP-KD augments the text features as well; here student and teacher share them and nothing is to be learned there.
    """
    if batch.augmented is None:
        raise ValueError("the afd loss needs augmented features, those of models.augmentation")
    return contrastive(batch.augmented, captions, caption, batch.scale)


LOSSES: dict[str, Callable[[Batch], Tensor]] = {
    "l2": lambda batch: l2(batch.student, batch.teacher),
    "mse": lambda batch: mse(batch.student, batch.teacher),
    "cosine": lambda batch: cosine(batch.student, batch.teacher),
    "i2i": lambda batch: i2i(batch.student, batch.teacher, batch.scale),
    "contrastive": _with_captions("contrastive", lambda b, u, index: contrastive(b.student, u, index, b.scale)),
    "crd": _with_captions("crd", lambda b, u, index: crd(b.student, b.teacher, u, index, b.scale)),
    "mfd": _mfd,
    "gd": _with_captions("gd", lambda b, u, index: gd(b.student, b.teacher, u, index, b.scale)),
    "icl": _with_captions("icl", lambda b, u, index: icl(b.student, b.teacher, u, index, b.scale)),
    "afd": _with_captions("afd", _afd),
}


def total_loss(weights: Mapping[Any, float], batch: Batch) -> Tensor:
    """``sum_k weight_k * loss_k``."""
    parts = [weight * LOSSES[name](batch) for name, weight in weights.items()]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
