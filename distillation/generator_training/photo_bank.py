"""Photos of the classes and what the critic sees in them: looked at once, before training, and kept in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillation.generator_training.captions import background, light
from distillation.generator_training.critic import Critic
from distillation.views import apply_views, whole_views

MAX_BYTES = 8 << 30
"""Memory for what is kept; photos beyond it are not trained on."""
AT_ONCE = 256


@dataclass(frozen=True)
class PhotoBank:
    """Photos of some classes, half of them mirrored, and what the critic sees in each, on the CPU.

    Args:
        images: uint8 ``(n, side, side, 3)``.
        said: class, light and background, ``(n, 3)``.
        maps, summaries: bf16; ``(n, height, width, channels)`` and ``(n, dim)`` each.
        map_scale, summary_scale: bring maps to unit deviation and two photos to distance 1.
    """

    images: Tensor
    said: Tensor
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
        mirrored = torch.rand(len(images)) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        measured = [[light(image), background(image)] for image in images.numpy()]
        said = torch.cat([classes[:, None], torch.tensor(measured)], 1)
        maps = [
            torch.empty(len(images), height, width, channels, dtype=torch.bfloat16)
            for channels, height, width in critic.map_shapes
        ]
        summaries = [torch.empty(len(images), width, dtype=torch.bfloat16) for width in critic.summary_widths]
        for rows in torch.arange(len(images)).split(AT_ONCE):
            photos = images[rows].to(critic.device)
            pixels = apply_views(photos, whole_views(len(rows)), critic.size, critic.mean, critic.std)
            with torch.inference_mode(), critic.autocast():
                seen, summed = critic.look(pixels)
            for kept, features in zip(maps, seen, strict=True):
                kept[rows] = features.permute(0, 2, 3, 1).bfloat16().cpu()
            for kept, summary in zip(summaries, summed, strict=True):
                kept[rows] = summary.bfloat16().cpu()
        some = torch.randperm(len(images))[:1000]
        half = len(some) // 2
        apart = [torch.cdist(part[some[:half]].float(), part[some[half:]].float()).mean() for part in summaries]
        deviation = [part[some].float().std() for part in maps]
        return cls(images, said, maps, summaries, _inverse(deviation), _inverse(apart))

    def seen(self, rows: Tensor, critic: Critic) -> tuple[list[Tensor], list[Tensor]]:
        """Maps ``(n, channels, height, width)`` and summaries ``(n, dim)`` of some photos, on the critic's device."""
        maps = [part[rows].permute(0, 3, 1, 2).to(critic.device, torch.float32) for part in self.maps]
        return maps, [part[rows].to(critic.device, torch.float32) for part in self.summaries]


def most_photos(critic: Critic) -> int:
    """How many photos ``MAX_BYTES`` hold."""
    numbers = sum(channels * height * width for channels, height, width in critic.map_shapes)
    return MAX_BYTES // (2 * (numbers + sum(critic.summary_widths)))


def _inverse(values: list[Tensor]) -> list[float]:
    # Photos may agree in some summary (all black, say): it then counts for nothing much.
    return [1 / max(float(value), 1e-6) for value in values]
