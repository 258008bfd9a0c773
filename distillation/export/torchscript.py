"""The encoder in TorchScript, for hosts without Python."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from distillation.protocol import StageError
from models.folded import folded
from models.zero_shot import ImageEmbedder

TOLERANCE = 1e-4


@torch.inference_mode()
def write_torchscript(path: Path, student: nn.Module, pixels: Tensor, embeddings: Tensor) -> float:
    """Trace ``image -> embedding``, save it, load it again and compare.

    Args:
        pixels: normalised images ``(n, 3, size, size)``; ``embeddings``: the student's features of them.

    Returns:
        The largest absolute difference.

    Raises:
        StageError: above 1e-4.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = ImageEmbedder(folded(student)).eval()
        traced = torch.jit.trace(plain, pixels[:1], check_trace=False)
        torch.jit.save(traced, str(path))
        loaded = torch.jit.load(str(path))
    worst = float((loaded(pixels) - embeddings).abs().max())
    if not worst <= TOLERANCE:
        raise StageError(
            "bad_architecture",
            f"{path.name} differs from the student by {worst:.2g}",
            "set exports.torchscript to false",
            "exports.torchscript",
        )
    return worst
