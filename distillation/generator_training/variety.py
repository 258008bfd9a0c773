"""How different the images of one class are: what a high share of recognised images does not tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def variety(features: NDArray[np.floating], labels: NDArray[np.integer]) -> float | None:
    """Mean cosine distance (0 to 2) between two images of one class, over the classes with two images or more.

    Args:
        features: L2-normalised ``(n, dim)``.
        labels: the class of each row ``(n,)``.

    Returns:
        None if no class has two images.
    """
    of_classes = [features[labels == label].astype(np.float64) for label in np.unique(labels)]
    apart = [1 - (np.square(rows.sum(0)).sum() - n) / (n * (n - 1)) for rows in of_classes if (n := len(rows)) > 1]
    return float(np.mean(apart)) if apart else None
