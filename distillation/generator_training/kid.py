"""Kernel distance between two sets of features: KID, "Demystifying MMD GANs" (arXiv 1801.01401). Plain NumPy."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

SUBSETS = 100
LARGEST_SUBSET = 1000


class Kid(TypedDict):
    """Mean and standard deviation over subsets, and their size."""

    mean: float
    deviation: float
    subset_size: int


def squared_mmd(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with the kernel ``(x . y / dim + 1) ** 3``.

    It is about zero, and may be negative, where both sets are of one distribution.

    Args:
        first, second: ``(n, dim)`` and ``(m, dim)``, two rows or more each.
    """
    n, m = len(first), len(second)
    within_first, within_second, across = _kernel(first, first), _kernel(second, second), _kernel(first, second)
    own = (within_first.sum() - np.trace(within_first)) / (n * (n - 1))
    other = (within_second.sum() - np.trace(within_second)) / (m * (m - 1))
    return float(own + other - 2 * across.mean())


def kernel_distance(first: NDArray[np.floating], second: NDArray[np.floating], seed: int) -> Kid:
    """:func:`squared_mmd` over random subsets, of half the smaller set or 1,000, whichever is less.

    Args:
        first, second: L2-normalised features; they are scaled to unit mean square, so that the kernel is
            ``(cosine + 1) ** 3``.
    """
    size = max(2, min(LARGEST_SUBSET, min(len(first), len(second)) // 2))
    random = np.random.default_rng(seed)
    scale = np.sqrt(first.shape[1])
    values = [
        squared_mmd(
            *(scale * features[random.choice(len(features), size, replace=False)] for features in (first, second))
        )
        for _ in range(SUBSETS)
    ]
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values)), "subset_size": size}


def _kernel(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    products = first.astype(np.float64) @ second.astype(np.float64).T
    kernel: NDArray[np.float64] = (products / first.shape[1] + 1) ** 3
    return kernel
