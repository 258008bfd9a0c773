"""The teacher's view of images in memory: features of whole images and of random views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distillation.recipe import Training
from distillation.views import apply_views, crop_boxes, whole_views
from models.memory import in_halving_batches
from models.teachers import TeacherModel

VIEWS_AT_ONCE = {"cuda": 256, "cpu": 128}
"""Views in one batch of the teacher; on a CPU more of them leave the cache, and each takes a third longer."""


class Embedder:
    """Runs a teacher over uint8 images on its device; batches are halved when memory runs out.

    Args:
        class_prompts: prompts of each class, for the zero-shot head ``(embed_dim, classes)``.
    """

    def __init__(self, teacher: TeacherModel, class_prompts: list[list[str]], on_halved: Callable[[int], None]) -> None:
        self._teacher, self._on_halved = teacher, on_halved
        self._at_once = VIEWS_AT_ONCE[teacher.device.type]
        self._mean = torch.tensor(teacher.mean, device=teacher.device)
        self._std = torch.tensor(teacher.std, device=teacher.device)
        self.head = teacher.zero_shot_head(class_prompts)

    @staticmethod
    def resize(images: Tensor, side: int) -> Tensor:
        """Resize uint8 ``(n, height, width, 3)`` to ``(n, side, side, 3)``, antialiased."""
        if images.shape[1:3] == (side, side):
            return images.contiguous()
        pixels = images.permute(0, 3, 1, 2).float()
        small = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)
        return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def whole(self, images: Tensor) -> Tensor:
        """Normalised features ``(n, embed_dim)`` of the uncropped images."""
        return self._encode(images, whole_views(len(images)))

    def views(self, images: Tensor, whole: Tensor, seeds: Sequence[int], training: Training) -> tuple[Tensor, Tensor]:
        """The views of each image that training shows, the whole image first and then random crops; their features.

        Args:
            whole: features of the uncropped images, see :meth:`whole`.
            seeds: one for each image, so that its crops depend on nothing else.

        Returns:
            views ``(n, views, 5)`` on the CPU and normalised features ``(n, views, embed_dim)``.
        """
        views, features = whole_views(len(images))[:, None], whole[:, None]
        if not (crops := training.views - 1):
            return views, features
        uniform = [torch.rand(crops, 5, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        drawn = crop_boxes(torch.stack(uniform), scale=training.crop_scale)
        if not training.flip:
            drawn[..., 4] = 0.0
        owners = torch.arange(len(images), device=images.device).repeat_interleave(crops)
        embedded = self._encode(images, drawn.flatten(0, 1), owners).unflatten(0, (len(images), crops))
        return torch.cat([views, drawn], 1), torch.cat([features, embedded], 1)

    @torch.inference_mode()
    def _encode(self, images: Tensor, views: Tensor, owners: Tensor | None = None) -> Tensor:
        """Features of each view of ``images[owners]`` (of ``images`` themselves without ``owners``)."""

        def encode(start: int, stop: int) -> Tensor:
            seen = images[start:stop] if owners is None else images[owners[start:stop]]
            size = self._teacher.image_size
            return self._teacher.encode_image(apply_views(seen, views[start:stop], size, self._mean, self._std))

        return torch.cat(in_halving_batches(encode, len(views), self._at_once, self._halved))

    def _halved(self, size: int) -> None:
        self._at_once = size
        self._on_halved(size)
