"""A generator that is trained from nothing.

In half of a batch the noise holds the code of a photo, which the image must then resemble (a conditional variational
autoencoder, arXiv 1312.6114 and 1512.09300): every image has a target of its own, without which a network that cannot
draw yet makes one image for each class. Codes are held close to plain noise, from which the other half is made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distillation.generator_training.critic import Critic
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.photo_encoder import CODE_CHANNELS, PhotoEncoder, divergence
from distillation.generator_training.text_encoder import Texts
from distillation.generator_training.trainer import Drawn, GeneratorTrainer, Made
from distillation.recipe import Domain

ADVERSARIAL, RECOGNITION = 0.3, 0.2
DIVERGENCE = 0.02
COARSE, COARSE_WEIGHT = (4, 8), 40.0
"""Sides in pixels of the parts whose colours are compared, and their weight."""
FIRST_NATS, NATS = 5.6, 1.0
"""How much each place of a code may tell of its photo, at first and from ``EARLY`` on."""
EARLY = 0.15
"""Share of the training in which images are made to resemble photos before they must pass for some."""
ADVERSARY_FROM = 0.45
"""Part of the early time that is left when the discriminators come in."""


class FromNothing(GeneratorTrainer):
    """Learns to draw and the classes at once; the seed decides the first weights too."""

    METHOD = "conditional variational autoencoder (arXiv 1312.6114, 1512.09300) on the teacher's features"
    RATE, BETAS = 1e-3, (0.9, 0.99)

    def __init__(self, domain: Domain, critic: Critic, bank: PhotoBank, texts: Texts, seed: int) -> None:
        torch.manual_seed(seed)
        model = OneStep(critic.size, texts.width)
        self._encoder = PhotoEncoder(critic, model.latent_side)
        others: dict[str, torch.nn.Module] = {"encoder": self._encoder}
        super().__init__(domain, critic, bank, texts, seed, model, others)

    def of_class(self, batch_size: int) -> int:
        return 1

    def _loss(self, drawn: Drawn, number: int, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        # Until the discriminators come in, which alone can say something about images of plain noise, all are coded.
        early = max(0.0, 1 - done / EARLY)
        count = len(drawn.text)
        coded = count // 2 if early < ADVERSARY_FROM else count
        noise = self.model.draw_noise(count)
        with self._critic.autocast():
            mean, log_variance = self._encoder([p[:coded] for p in drawn.maps], [p[:coded] for p in drawn.summaries])
        code, rest = noise.split([CODE_CHANNELS, noise.shape[1] - CODE_CHANNELS], 1)
        code = torch.cat([mean + (log_variance / 2).exp() * code[:coded], code[coded:]])
        made = self._make(torch.cat([code, rest], 1).contiguous(memory_format=torch.channels_last), drawn.text)
        unlike = self._unlike(made, drawn, coded)
        nats = divergence(mean, log_variance)
        target = (NATS + (FIRST_NATS - NATS) * early) * self.model.latent_side**2
        loss = unlike + DIVERGENCE * (nats - target).abs()
        figures = {"unlike": unlike, "nats": nats}
        if coded < count:
            judged, adversarial = self._judge(drawn, made)
            missed = self._missed(made.summaries[0], drawn.said[:, 0], plain=coded)
            loss = loss + ADVERSARIAL * adversarial + RECOGNITION * missed
            figures |= {"adversarial": adversarial, "discriminators": judged}
        return loss, figures

    def _unlike(self, made: Made, drawn: Drawn, coded: int) -> Tensor:
        """How much images made from codes differ from their photos: in pixels, in coarse colours, in what the critic
        sees."""
        images, photos = made.images[:coded], drawn.photos[:coded]
        coarse = sum(F.mse_loss(F.avg_pool2d(images, k), F.avg_pool2d(photos, k)) for k in COARSE)
        total = 2 * F.l1_loss(images, photos) + COARSE_WEIGHT * coarse
        for ours, theirs in zip(made.maps, drawn.maps, strict=True):
            total = total + F.mse_loss(ours[:coded].float(), theirs[:coded]) / len(made.maps)
        seen = [part[:coded] for part in drawn.summaries]
        return total + self._apart(_squared_distance, [part[:coded] for part in made.summaries], seen)


def _squared_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of an image and the photo that it is to resemble, row by row; mean over the rows."""
    return (ours - theirs).square().sum(1).mean()
