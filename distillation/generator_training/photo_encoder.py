"""What the noise says of a photo: a few of its channels become the photo's code while a generator is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillation.generator_training.critic import Critic

CODE_CHANNELS = 4
"""Channels of the noise that stand for a photo; the others are always noise, for detail that no code holds."""
WIDTH = 128
FIRST_LOG_VARIANCE = -4.0
"""Codes are nearly exact at first, so that the generator learns to read them; then they say less and less."""


class PhotoEncoder(nn.Module):
    """From what the critic sees in a photo to a Gaussian over its code (arXiv 1312.6114).

    It is used in training only: images are made from plain noise, which codes come to resemble.

    Args:
        side: height and width of the noise.
    """

    def __init__(self, critic: Critic, side: int) -> None:
        super().__init__()
        self._side = side
        coarsest = critic.summary_widths[1] // 4  # the last map in 2 x 2 parts
        self.maps = nn.ModuleList(
            nn.Conv2d(channels, WIDTH // 2, 1) for channels in (*(shape[0] for shape in critic.map_shapes), coarsest)
        )
        self.colours = nn.Conv2d(3 * 4, WIDTH // 2, 1)
        self.body = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(WIDTH // 2, WIDTH, 3, 1, 1),
            nn.GroupNorm(16, WIDTH),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, 1, 1),
            nn.GroupNorm(16, WIDTH),
            nn.SiLU(),
        )
        self.code = nn.Conv2d(WIDTH, 2 * CODE_CHANNELS, 1)
        nn.init.zeros_(self.code.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.code.bias[CODE_CHANNELS:] = FIRST_LOG_VARIANCE  # type: ignore[index]

    def forward(self, maps: list[Tensor], summaries: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log variance, ``(n, CODE_CHANNELS, side, side)`` each, float32.

        Args:
            maps, summaries: as ``Critic.look`` gives them.
        """
        colours = self._fit(summaries[-2].view(-1, 3, 16, 16), 2 * self._side)
        hidden = self.colours(F.pixel_unshuffle(colours, 2))
        for project, features in zip(self.maps, (*maps, summaries[1].view(len(colours), -1, 2, 2)), strict=True):
            hidden = hidden + project(self._fit(features, self._side))
        mean, log_variance = self.code(self.body(hidden)).float().chunk(2, 1)
        return mean, log_variance.clamp(-8, 4)

    @staticmethod
    def _fit(features: Tensor, side: int) -> Tensor:
        # Antialiased resizing has no bf16 on a CPU.
        return F.interpolate(features.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over images of the Kullback-Leibler divergence of the codes from plain noise, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2, 3)).mean()
