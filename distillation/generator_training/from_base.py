"""A generator that goes on from another one, which can draw already and has new classes to learn.

Of each class in a batch several images are made, and each is compared with a photo of its own: the assignment of images
to photos that costs least in what the critic sees (as in OT-GAN, arXiv 1803.05573), so that images differ as photos do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillation.generator_training.critic import Critic
from distillation.generator_training.matching import matched
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.text_encoder import Texts
from distillation.generator_training.trainer import ADVERSARIAL, RECOGNITION, Drawn, GeneratorTrainer
from distillation.recipe import Domain

ADVERSARIAL_RISE = 120
"""Steps over which the discriminators come to count: at first they have nothing to say, and would spoil the base."""


class FromBase(GeneratorTrainer):
    """Learns classes; ``texts`` are those that ``base`` reads, and ``base`` itself is changed."""

    METHOD = "images assigned to photos by the teacher's features (arXiv 1803.05573)"
    RATE, BETAS, OF_CLASS = 2e-4, (0.5, 0.99), 8

    def __init__(self, domain: Domain, critic: Critic, bank: PhotoBank, texts: Texts, seed: int, base: OneStep) -> None:
        torch.manual_seed(seed)
        super().__init__(domain, critic, bank, texts, seed, base, {})

    def _loss(self, drawn: Drawn, number: int, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        made = self._make(self.model.draw_noise(len(drawn.captions)), drawn.captions)
        scales = self._bank.summary_scale
        ours, theirs = (
            torch.cat([part.detach() * scale for part, scale in zip(summaries, scales, strict=True)], 1)
            for summaries in (made.summaries, drawn.summaries)
        )
        order = matched(ours, theirs, self.OF_CLASS)
        unlike = self._apart(made.summaries, [part[order] for part in drawn.summaries])
        judged, adversarial = self._judge(drawn, made)
        missed = self._missed(made.summaries[0], drawn.said[:, 0], plain=0)
        risen = min(1.0, number / ADVERSARIAL_RISE)
        loss = unlike + ADVERSARIAL * risen * adversarial + RECOGNITION * missed
        return loss, {"unlike": unlike, "adversarial": adversarial, "discriminators": judged}
