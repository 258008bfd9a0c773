"""Photos of the classes and what the critic sees in them: looked at once, before training, and kept in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distillation.generator_training.captions import background, light
from distillation.generator_training.critic import Critic, lead
from distillation.generator_training.photos import Photos
from distillation.views import apply_views, whole_views

MAX_BYTES, GPU_SHARE = 8 << 30, 0.5
"""Memory for what is kept, on a CPU and of what is free on a GPU; photos beyond it are not trained on."""
AT_ONCE = 256
LEAST_SHARE = 0.5
"""Of each class's photos is learnt from, whether the teacher recognises them or not."""


@dataclass(frozen=True)
class PhotoBank:
    """Photos of some classes, one class after another, half of them mirrored, and what the critic sees in each; all on
    the critic's device.

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
    def fill(cls, critic: Critic, photos: Photos, on_looked: Callable[[int], None] = lambda _count: None) -> PhotoBank:
        """Look at every photo once; keep those that the teacher takes for their class, and at least the surest
        ``LEAST_SHARE`` of each class. What the teacher does not see in a photo, nobody can learn from its features.

        Args:
            on_looked: told how many photos were looked at so far.
        """
        mirrored = torch.rand(len(photos)) < 0.5
        images = torch.where(mirrored[:, None, None, None], photos.images.flip(2), photos.images)
        # On a CPU, pages of a tensor are taken when they are written: what is not kept costs nothing.
        place: dict[str, Any] = {"dtype": torch.bfloat16, "device": critic.device}
        room = _Seen(
            [torch.empty(len(photos), h, w, channels, **place) for channels, h, w in critic.map_shapes],
            [torch.empty(len(photos), width, **place) for width in critic.summary_widths],
        )
        rows_kept: list[Tensor] = []
        looked = count = 0
        for label in photos.labels.unique():
            rows = torch.nonzero(photos.labels == label)[:, 0]
            seen, ahead = _look(critic, images[rows], photos.labels[rows])
            kept = (ahead > 0) | (ahead.argsort(descending=True).argsort() < math.ceil(LEAST_SHARE * len(rows)))
            after = count + int(kept.sum())
            for part, new in zip((*room.maps, *room.summaries), (*seen.maps, *seen.summaries), strict=True):
                part[count:after] = new[kept]
            rows_kept.append(rows[kept.cpu()])
            count = after
            on_looked(looked := looked + len(rows))
        chosen = torch.cat(rows_kept)
        images = images[chosen]
        measured = [[light(image), background(image)] for image in images.numpy()]
        said = torch.cat([photos.labels[chosen][:, None], torch.tensor(measured)], 1)
        maps, summaries = [part[:count] for part in room.maps], [part[:count] for part in room.summaries]
        some = torch.randperm(count)[:1000]
        half = len(some) // 2
        apart = [torch.cdist(part[some[:half]].float(), part[some[half:]].float()).mean() for part in summaries]
        deviation = [part[some].float().std() for part in maps]
        images, said = images.to(critic.device), said.to(critic.device)
        return cls(images, said, maps, summaries, _inverse(deviation), _inverse(apart))

    @property
    def photos(self) -> Photos:
        """What was kept, mirrored as it is learnt from."""
        return Photos(self.images, self.said[:, 0])

    def seen(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps ``(n, channels, height, width)`` and summaries ``(n, dim)`` of some photos, float32."""
        maps = [part[rows].permute(0, 3, 1, 2).float() for part in self.maps]
        return maps, [part[rows].float() for part in self.summaries]


class _Seen(NamedTuple):
    """What the critic sees in photos, bf16, as :class:`PhotoBank` keeps it."""

    maps: list[Tensor]
    summaries: list[Tensor]


def _look(critic: Critic, images: Tensor, labels: Tensor) -> tuple[_Seen, Tensor]:
    """What is seen in each image, and by how much, in cosine, its class leads all others."""
    found, leads = [], []
    for rows in torch.arange(len(images)).split(AT_ONCE):
        photos = images[rows].to(critic.device)
        pixels = apply_views(photos, whole_views(len(rows)), critic.size, critic.mean, critic.std)
        with torch.inference_mode(), critic.autocast():
            maps, summaries = critic.look(pixels)
        leads.append(lead(summaries[0] @ critic.head.float(), labels[rows].to(critic.device)))
        found.append([*(part.permute(0, 2, 3, 1).bfloat16() for part in maps), *(s.bfloat16() for s in summaries)])
    parts = [torch.cat(part) for part in zip(*found, strict=True)]
    count = len(critic.map_shapes)
    return _Seen(parts[:count], parts[count:]), torch.cat(leads)


def most_photos(critic: Critic) -> int:
    """How many photos there is memory for."""
    room = MAX_BYTES
    if critic.device.type == "cuda":
        room = int(GPU_SHARE * torch.cuda.mem_get_info(critic.device)[0])
    numbers = sum(channels * height * width for channels, height, width in critic.map_shapes)
    return room // (2 * (numbers + sum(critic.summary_widths)))


def _inverse(values: list[Tensor]) -> list[float]:
    # Photos may agree in some summary (all black, say): it then counts for nothing much.
    return [1 / max(float(value), 1e-6) for value in values]
