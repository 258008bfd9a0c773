"""Small discriminators that tell generated images from photos by local detail: in pixels and in a frozen network's
feature maps, as in Projected GAN (arXiv 2111.01007), with the class as projection (arXiv 1802.05637).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from distillation.generator_training.captions import COLOURS, LIGHT

WIDTH = 128
PIXEL_CHANNELS = 64


class Head(nn.Module):
    """Scores each place of a feature map, given what the caption says."""

    def __init__(self, channels: int, classes: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, 64, 3, stride, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(64, WIDTH, 3, 1, 1)),
            nn.LeakyReLU(0.2),
        )
        self.score = spectral_norm(nn.Conv2d(WIDTH, 1, 1))
        self.said = nn.ModuleList(nn.Embedding(count, WIDTH) for count in (classes, len(LIGHT) + 1, len(COLOURS) + 1))
        for table in self.said:
            nn.init.normal_(table.weight, std=0.1)  # type: ignore[arg-type]

    def forward(self, features: Tensor, said: Tensor) -> Tensor:
        """Scores ``(n, height, width)``.

        Args:
            said: class, light and background of the captions, ``(n, 3)``; the last two may be ``UNSAID``.
        """
        hidden = self.body(features)
        # UNSAID is -1, which stands for the last row.
        rows = [said[:, column] % table.num_embeddings for column, table in enumerate(self.said)]  # type: ignore[operator]
        embedded = torch.stack([table(row) for table, row in zip(self.said, rows, strict=True)]).sum(0)
        matched: Tensor = (hidden * embedded[:, :, None, None]).sum(1) * 3 / math.sqrt(WIDTH)
        scores: Tensor = self.score(hidden)[:, 0] + matched
        return scores


class Discriminators(nn.Module):
    """One head on pixels, one on each feature map; only the last map, the coarsest, is scored at full resolution.

    Args:
        channels: of the feature maps.
    """

    def __init__(self, classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            spectral_norm(nn.Conv2d(3, 32, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(32, PIXEL_CHANNELS, 4, 2, 1)),
            nn.LeakyReLU(0.2),
        )
        strides = [2] * len(channels) + [1]
        self.heads = nn.ModuleList(
            Head(width, classes, stride) for width, stride in zip((PIXEL_CHANNELS, *channels), strides, strict=True)
        )

    def forward(self, pixels: Tensor, maps: list[Tensor], said: Tensor) -> list[Tensor]:
        seen = [self.pixels(pixels), *maps]
        return [head(features, said).float() for head, features in zip(self.heads, seen, strict=True)]


def discriminator_loss(photos: list[Tensor], made: list[Tensor]) -> Tensor:
    """Hinge loss, summed over heads."""
    return torch.stack(
        [F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in zip(photos, made, strict=True)]
    ).sum()
