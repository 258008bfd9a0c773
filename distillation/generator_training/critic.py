"""What generated images are compared with photos by: the frozen teacher's feature maps, and plain pixels."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import ModelError
from models.teachers import TeacherModel, bf16_is_native

NOISE = 0.15
"""Deviation of the noise on all pixels that the critic sees, so that no faint pattern can please it."""
LEVELS = 4
"""Depths of the teacher's image tower that are looked at."""


class Critic:
    """The teacher's image tower, frozen; ``mean`` and ``std`` are of its pixels, ``head`` and ``logit_scale`` are those
    of its zero-shot classifier.

    Args:
        class_prompts: prompts of each class, for the head ``(embed_dim, classes)``.
        size: side in pixels of the images to be judged; the tower sees them at its own size.

    Raises:
        ModelError: the image tower is not a timm network with intermediate features.
    """

    def __init__(self, teacher: TeacherModel, class_prompts: list[list[str]], size: int) -> None:
        visual: Any = teacher.model.get_submodule("visual")
        self._levels = feature_levels(visual, teacher.name)
        self._trunk, self._head = visual.trunk, visual.head
        self._dtype = next(visual.parameters()).dtype
        self._seen_size = teacher.image_size
        self.size, self.device = size, teacher.device
        self.mean = torch.tensor(teacher.mean, device=self.device)
        self.std = torch.tensor(teacher.std, device=self.device)
        self.head, self.logit_scale = teacher.zero_shot_head(class_prompts), teacher.logit_scale
        with torch.no_grad():
            maps, summaries = self.look(torch.zeros(1, 3, size, size, device=self.device))
        self.map_shapes = [tuple(features.shape[1:]) for features in maps]
        """Channels, height and width of each map that :meth:`look` gives."""
        self.summary_widths = [summary.shape[1] for summary in summaries]

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where it is fast."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16_is_native(self.device))

    def look(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """All feature maps but the last, and summaries of the image, each ``(n, dim)`` float32.

        Summaries: the image feature, the last two maps in 2 x 2 parts, mean and deviation of the other maps'
        channels, colours in 8 x 8 and 16 x 16 parts, and how rough the pixels are.

        Args:
            pixels: normalised, ``(n, 3, size, size)``; gradients flow back to them.
        """
        seen = pixels
        if self.size != self._seen_size:
            side = (self._seen_size, self._seen_size)
            seen = F.interpolate(pixels.contiguous(), side, mode="bilinear", align_corners=False, antialias=True)
        final, maps = self._trunk.forward_intermediates(
            seen.to(self._dtype, memory_format=torch.channels_last), indices=self._levels
        )
        feature = F.normalize(self._head(self._trunk.forward_head(final)).float(), dim=-1)
        summaries = [feature, *(F.adaptive_avg_pool2d(features, 2).flatten(1) for features in (maps[-1], maps[-2]))]
        for features in maps[:-1]:
            summaries += [features.mean((2, 3)), features.flatten(2).std(2)]
        summaries += [F.adaptive_avg_pool2d(pixels, parts).flatten(1) for parts in (8, 16)]
        return maps[:-1], [summary.float() for summary in (*summaries, _roughness(pixels))]

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1], ``(n, 3, size, size)``, as the critic's pixels, with :func:`noisy`'s noise."""
        pixels = (images - self.mean[:, None, None]) / self.std[:, None, None]
        return noisy(pixels).contiguous(memory_format=torch.channels_last)


def feature_levels(visual: nn.Module, name: str) -> list[int]:
    """Which of a timm network's features to look at, from fine to coarse: the last of each of its coarsest
    resolutions, or some spread evenly over a network of one resolution.

    Raises:
        ModelError: it is no timm network, or one without intermediate features.
    """
    trunk: Any = getattr(visual, "trunk", None)
    described = getattr(trunk, "feature_info", None)
    if described is None or not hasattr(trunk, "forward_intermediates"):
        raise _refused(name)
    reductions = [int(item["reduction"]) for item in getattr(described, "info", described)]
    last_of = list({reduction: index for index, reduction in enumerate(reductions)}.values())
    if len(last_of) == 1:
        count = min(LEVELS, len(reductions))
        last_of = [round((number + 1) * len(reductions) / count) - 1 for number in range(count)]
    if len(last_of) < 2:
        raise _refused(name)
    return last_of[-LEVELS:]


def noisy(pixels: Tensor) -> Tensor:
    """With noise drawn on their device."""
    return pixels + NOISE * torch.randn(pixels.shape, device=pixels.device)


def lead(scores: Tensor, labels: Tensor) -> Tensor:
    """By how much each image's own class leads all others ``(n,)``; negative where another leads.

    Args:
        scores: of every class, ``(n, classes)``.
        labels: int64 ``(n,)``.
    """
    own = labels[:, None]
    return scores.gather(1, own)[:, 0] - scores.scatter(1, own, -torch.inf).amax(1)


def _roughness(pixels: Tensor) -> Tensor:
    across, down = pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]
    detail = pixels - F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
    parts = [across.abs(), down.abs(), across.square(), down.square(), detail.abs()]
    means = [part.mean((2, 3)) for part in parts]
    return torch.cat([means[0], means[1], means[2].sqrt(), means[3].sqrt(), means[4]], 1)


def _refused(name: str) -> ModelError:
    return ModelError(
        "bad_architecture",
        f"the image tower of the teacher '{name}' is not a timm network with intermediate features, by which "
        "generated images are compared with photos",
        "choose a teacher whose open_clip configuration names a timm_model_name",
        "teacher.model",
    )
