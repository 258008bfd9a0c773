"""What generated images are compared with photos by: the frozen teacher's feature maps, and plain pixels.

Photos are looked at once, before training; their maps and summaries stay in memory (about 4 GB).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from distillation.views import apply_views, sample_views
from starter.captions import background, light
from starter.discriminators import MAP_CHANNELS
from starter.photos import SIDE

VIEWS = 3
"""Crops of each photo that are kept."""
NOISE = 0.15
"""Deviation of the noise on all pixels that the critic sees, so that no faint pattern can please it."""


class Critic:
    """The teacher's image tower, frozen; ``mean`` and ``std`` are of its pixels, ``head`` is its zero-shot head."""

    def __init__(self, teacher: Path, prompts: list[str]) -> None:
        clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{teacher}")
        with torch.inference_mode():
            tokens = open_clip.get_tokenizer(f"local-dir:{teacher}")(prompts)
            self.head = F.normalize(clip.encode_text(tokens).float(), dim=-1)
        self.tower: Any = clip.visual.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.mean, self.std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)

    def look(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The first three feature maps, and summaries of the image, each ``(n, dim)`` float32.

        Summaries: the image feature, the last two maps in 2 x 2 parts, mean and deviation of the first three maps'
        channels, colours in 8 x 8 and 16 x 16 parts, and how rough the pixels are.
        """
        final, maps = self.tower.trunk.forward_intermediates(pixels, indices=[1, 2, 3, 4])
        feature = F.normalize(self.tower.head(self.tower.trunk.forward_head(final)).float(), dim=-1)
        summaries = [feature, maps[3].flatten(1), F.adaptive_avg_pool2d(maps[2], 2).flatten(1)]
        for features in maps[:3]:
            summaries += [features.mean((2, 3)), features.flatten(2).std(2)]
        summaries += [F.avg_pool2d(pixels, 8).flatten(1), F.avg_pool2d(pixels, 4).flatten(1), _roughness(pixels)]
        return maps[:3], [summary.float() for summary in summaries]

    def crop(self, made: Tensor, views: Tensor) -> Tensor:
        """Views of generated images in [-1, 1], as ``apply_views`` makes of photos, but with gradient."""
        top, left, height, width, flip = views.unbind(1)
        theta = torch.zeros(len(made), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = width * (1 - 2 * flip), height
        theta[:, 0, 2], theta[:, 1, 2] = 2 * left + width - 1, 2 * top + height - 1
        grid = F.affine_grid(theta, [len(made), 3, SIDE, SIDE], align_corners=False)
        cropped = F.grid_sample(made.float().contiguous(), grid, padding_mode="border", align_corners=False)
        pixels = ((cropped * 0.5 + 0.5) - self.mean[:, None, None]) / self.std[:, None, None]
        return noisy(pixels).contiguous(memory_format=torch.channels_last)


def noisy(pixels: Tensor) -> Tensor:
    return pixels + NOISE * torch.randn_like(pixels)


def draw_views(count: int) -> Tensor:
    return sample_views(count, scale=(0.75, 1.0), ratio=(0.9, 1.1), generator=torch.default_generator)


def _roughness(pixels: Tensor) -> Tensor:
    across, down = pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]
    detail = pixels - F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
    parts = [across.abs(), down.abs(), across.square(), down.square(), detail.abs()]
    means = [part.mean((2, 3)) for part in parts]
    return torch.cat([means[0], means[1], means[2].sqrt(), means[3].sqrt(), means[4]], 1)


@dataclass(frozen=True)
class PhotoBank:
    """Photos of some classes and what the critic sees in ``VIEWS`` crops of each.

    ``said`` is class (from 0), light and background, ``(n, 3)``. ``map_scale`` and ``summary_scale`` bring maps to unit
    deviation and two photos to distance 1.
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
        measured = [[light(image), background(image)] for image in images.numpy()]
        said = torch.cat([classes[:, None], torch.tensor(measured)], 1)
        views = draw_views(len(images) * VIEWS).view(len(images), VIEWS, 5)
        sides = (SIDE // 4, SIDE // 8, SIDE // 16)
        maps = [
            torch.empty(len(images), VIEWS, side, side, channels, dtype=torch.bfloat16)
            for side, channels in zip(sides, MAP_CHANNELS, strict=True)
        ]
        summaries: list[Tensor] = []
        for number in range(VIEWS):
            for rows in torch.arange(len(images)).split(256):
                pixels = noisy(apply_views(images[rows], views[rows, number], SIDE, critic.mean, critic.std))
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                    seen, summed = critic.look(pixels)
                for kept, features in zip(maps, seen, strict=True):
                    kept[rows, number] = features.permute(0, 2, 3, 1).bfloat16()
                summaries = summaries or [
                    torch.empty(len(images), VIEWS, part.shape[1], dtype=torch.bfloat16) for part in summed
                ]
                for kept, summary in zip(summaries, summed, strict=True):
                    kept[rows, number] = summary.bfloat16()
        some = torch.randperm(len(images))[:1000]
        apart = [torch.cdist(part[some[:500], 0].float(), part[some[500:], 0].float()).mean() for part in summaries]
        deviation = [part[some].float().std() for part in maps]
        return cls(
            images, said, views, maps, summaries, [1 / float(d) for d in deviation], [1 / float(d) for d in apart]
        )
