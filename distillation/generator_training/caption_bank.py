"""Captions of the photos that are learnt from: made and read once, before training, so that a step picks rows only."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from distillation.generator_training.captions import UNSAID, caption
from distillation.generator_training.text_encoder import Texts

OF_PHOTO = 2
"""Captions of each photo: they differ in the words that are left out and in those that no photo tells."""


class CaptionBank:
    """Captions of photos, and what the text encoder reads in them: bf16, on its device.

    Args:
        names: of each class.
        photos: class, light and background of each photo, ``(n, 3)``.
        seed: decides the captions.
    """

    def __init__(self, names: Sequence[Sequence[str]], photos: Tensor, texts: Texts, seed: int) -> None:
        said = photos.cpu().repeat_interleave(OF_PHOTO, 0)
        said[:, 1:][torch.rand(len(said), 2, generator=torch.Generator().manual_seed(seed)) < 0.5] = UNSAID
        chooser = random.Random(seed)
        captions = [
            caption(chooser.choice(names[label]), light, background, chooser)
            for label, light, background in said.tolist()
        ]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
        self._texts = texts(list(numbers), torch.bfloat16)
        self._which = torch.tensor([numbers[text] for text in captions], device=self._texts.device)
        self._said = said.to(self._texts.device)

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What one of the captions of each of some photos says, ``(n, 3)``, the last two perhaps ``UNSAID``, and its
        hidden states, float32 ``(n, context, width)``.

        Args:
            rows: of the photos, on the captions' device.
        """
        chosen = rows * OF_PHOTO + torch.randint(OF_PHOTO, rows.shape, device=rows.device)
        return self._said[chosen], self._texts[self._which[chosen]].float()
