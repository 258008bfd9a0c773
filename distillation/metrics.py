"""Scores of zero-shot classification, with CLIP_benchmark's names. Plain NumPy; all shares lie in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


def topk_accuracy(scores: Floats, labels: Ints, k: int) -> float:
    """Share of rows of ``scores`` ``(n, classes)`` whose label is among the ``min(k, classes)`` highest."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    # Of equal scores the lower class index counts first, as in argmax.
    columns = np.arange(scores.shape[1])
    ahead = (scores > own) | ((scores == own) & (columns < labels[:, None]))
    return float((ahead.sum(axis=1) < k).mean())


def class_recalls(predicted: Ints, labels: Ints, classes: int) -> Floats:
    """Recall of each class ``(classes,)``; NaN for a class without images."""
    images = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    return np.where(images > 0, hits / np.maximum(images, 1), np.nan)


def classification_metrics(scores: Floats, labels: Ints) -> dict[str, float]:
    """CLIP_benchmark's ``acc1``, ``acc5`` and ``mean_per_class_recall``.

    With fewer than five classes ``acc5`` is the top-k of all of them, so 1. Classes without images do not count in
    the mean recall.
    """
    recalls = class_recalls(scores.argmax(axis=1), labels, scores.shape[1])
    return {
        "acc1": topk_accuracy(scores, labels, 1),
        "acc5": topk_accuracy(scores, labels, 5),
        "mean_per_class_recall": float(np.nanmean(recalls)),
    }


def per_class_table(
    names: Sequence[str], labels: Ints, teacher: Ints, student: Ints, on: str
) -> list[dict[str, str | int | float | None]]:
    """One row for each class: its images, and the share of them that teacher and student recognise (None: no images).

    Args:
        teacher: predicted classes ``(n,)``; ``student`` likewise.
        on: ``real`` or ``synthetic``.
    """
    images = np.bincount(labels, minlength=len(names))
    recalls = [class_recalls(predicted, labels, len(names)) for predicted in (teacher, student)]
    return [
        {
            "class": name,
            "images": int(images[index]),
            "teacher_recall": float(recalls[0][index]) if images[index] else None,
            "student_recall": float(recalls[1][index]) if images[index] else None,
            "on": on,
        }
        for index, name in enumerate(names)
    ]


def confusions(names: Sequence[str], labels: Ints, predicted: Ints, most: int = 10) -> list[dict[str, str | int]]:
    """The most frequent mistakes, the first in class order among equals."""
    wrong = predicted != labels
    pairs, counts = np.unique(labels[wrong].astype(np.int64) * len(names) + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        {
            "class": names[int(pairs[i]) // len(names)],
            "taken_for": names[int(pairs[i]) % len(names)],
            "count": int(counts[i]),
        }
        for i in order
    ]


def agreement(first: Ints, second: Ints) -> float:
    """Share of images that two models give the same class."""
    return float((first == second).mean())


def feature_cosine(first: Floats, second: Floats) -> float:
    """Mean cosine between paired features ``(n, d)``; they need not be normalised."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).mean())
