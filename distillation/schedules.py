"""Learning-rate schedules as functions of how much of the training is done."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(done: float, schedule: Literal["cosine", "constant", "linear"], warmup: float) -> float:
    """Share of the peak learning rate.

    Args:
        done: share of the training that is over, 0 to 1.
        warmup: share of it with a linearly rising rate.
    """
    if done < warmup:
        return max(done / warmup, 0.01)
    left = 1.0 if warmup >= 1 else min(1.0, max(0.0, (1 - done) / (1 - warmup)))
    if schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    return left if schedule == "linear" else 1.0


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights at ``step`` (from 0): short at first, so that the start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))
