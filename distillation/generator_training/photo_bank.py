"""Photos of the classes and what the critic sees in them: looked at once, before training, and kept in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillation.generator_training.captions import background, light
from distillation.generator_training.critic import Critic, draw_views, noisy
from distillation.views import apply_views

VIEWS = 3
"""Crops of each photo that are kept."""
MAX_BYTES = 8 << 30
"""Memory for what is kept; photos beyond it are not trained on."""
AT_ONCE = 256


@dataclass(frozen=True)
class PhotoBank:
    """Photos of some classes and what the critic sees in ``VIEWS`` crops of each, on the CPU.

    Args:
        images: uint8 ``(n, side, side, 3)``.
        said: class, light and background, ``(n, 3)``.
        maps, summaries: bf16; ``(n, VIEWS, height, width, channels)`` and ``(n, VIEWS, dim)`` each.
        map_scale, summary_scale: bring maps to unit deviation and two photos to distance 1.
    """

    images: Tensor
    said: Tensor
    views: Tensor
    maps: list[Tensor]
    summaries: list[Tensor]
    map_scale: list[float]
    summary_scale: list[float]

    @classmethod
    def fill(cls, critic: Critic, images: Tensor, classes: Tensor) -> PhotoBank:
        """Look at every photo.

        Args:
            classes: int64 ``(n,)``.
        """
        measured = [[light(image), background(image)] for image in images.numpy()]
        said = torch.cat([classes[:, None], torch.tensor(measured)], 1)
        views = draw_views(len(images) * VIEWS).view(len(images), VIEWS, 5)
        maps = [
            torch.empty(len(images), VIEWS, height, width, channels, dtype=torch.bfloat16)
            for channels, height, width in critic.map_shapes
        ]
        summaries = [torch.empty(len(images), VIEWS, width, dtype=torch.bfloat16) for width in critic.summary_widths]
        for number in range(VIEWS):
            for rows in torch.arange(len(images)).split(AT_ONCE):
                photos = images[rows].to(critic.device)
                pixels = noisy(apply_views(photos, views[rows, number], critic.size, critic.mean, critic.std))
                with torch.inference_mode(), critic.autocast():
                    seen, summed = critic.look(pixels)
                for kept, features in zip(maps, seen, strict=True):
                    kept[rows, number] = features.permute(0, 2, 3, 1).bfloat16().cpu()
                for kept, summary in zip(summaries, summed, strict=True):
                    kept[rows, number] = summary.bfloat16().cpu()
        some = torch.randperm(len(images))[:1000]
        half = len(some) // 2
        apart = [torch.cdist(part[some[:half], 0].float(), part[some[half:], 0].float()).mean() for part in summaries]
        deviation = [part[some].float().std() for part in maps]
        return cls(images, said, views, maps, summaries, _inverse(deviation), _inverse(apart))


def most_photos(critic: Critic) -> int:
    """How many photos ``MAX_BYTES`` hold."""
    numbers = sum(channels * height * width for channels, height, width in critic.map_shapes)
    return MAX_BYTES // (VIEWS * 2 * (numbers + sum(critic.summary_widths)))


def _inverse(values: list[Tensor]) -> list[float]:
    # Photos may agree in some summary (all black, say): it then counts for nothing much.
    return [1 / max(float(value), 1e-6) for value in values]
