"""A generator that goes on from another one, which can draw already and has new classes to learn.

Of each class in a batch several images are made and compared with as many photos by the energy distance in what the
critic sees: images are drawn to the photos and apart from each other, so that they differ as photos do.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from distillation.generator_training.critic import Critic
from distillation.generator_training.energy import energy_distance
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.text_encoder import Texts
from distillation.generator_training.trainer import Drawn, GeneratorTrainer
from distillation.recipe import Domain

ADVERSARIAL, RECOGNITION = 0.4, 0.05
"""More recognition pleases the teacher with images that repeat themselves."""
OF_CLASS, LARGE_BATCH = 8, 1024
"""Images of a class in a batch, by whose number distributions are told apart; twice as many in a large one."""
ADVERSARIAL_RISE = 120
"""Steps over which the discriminators come to count: at first they have nothing to say, and would spoil the base."""


class FromBase(GeneratorTrainer):
    """Learns classes; ``base`` reads ``texts``, and is changed."""

    METHOD = "energy distance of images and photos of a class in the teacher's features (arXiv 1705.10743)"
    RATE, BETAS = 1.5e-4, (0.9, 0.99)

    def __init__(self, domain: Domain, critic: Critic, bank: PhotoBank, texts: Texts, seed: int, base: OneStep) -> None:
        torch.manual_seed(seed)
        super().__init__(domain, critic, bank, texts, seed, base, {})

    def of_class(self, batch_size: int) -> int:
        return math.gcd(batch_size, OF_CLASS if batch_size < LARGE_BATCH else 2 * OF_CLASS)

    def _loss(self, drawn: Drawn, number: int, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        count = len(drawn.text)
        made = self._make(self.model.draw_noise(count), drawn.text)
        unlike = self._apart(partial(energy_distance, group=self.of_class(count)), made.summaries, drawn.summaries)
        judged, adversarial = self._judge(drawn, made)
        missed = self._missed(made.summaries[0], drawn.said[:, 0], plain=0)
        risen = min(1.0, number / ADVERSARIAL_RISE)
        loss = unlike + ADVERSARIAL * risen * adversarial + RECOGNITION * missed
        return loss, {"unlike": unlike, "adversarial": adversarial, "discriminators": judged}
