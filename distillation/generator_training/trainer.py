"""A generator in training: its networks, the discriminators against them, its averaged weights and all of its state.

A UNet and a decoder are trained end to end to make an image of noise and text in one step. What images are compared
with differs: see ``from_nothing.py`` and ``from_base.py``.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillation.generator_training.captions import UNSAID, caption
from distillation.generator_training.critic import Critic, lead
from distillation.generator_training.discriminators import Discriminators, discriminator_loss
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.text_encoder import Texts
from distillation.optimizer_state import load_optimizer, optimizer_tensors, under
from distillation.recipe import Domain

JUDGES_RATE = 1e-3
EMA_DECAY = 0.998
LARGEST_NORM = 5.0


class Drawn(NamedTuple):
    """Photos of a batch, what the critic sees in them, and what is said of them."""

    photos: Tensor
    maps: list[Tensor]
    summaries: list[Tensor]
    said: Tensor
    captions: list[str]


class Made(NamedTuple):
    """Images of a batch, and what the critic sees in them, with noise on their pixels."""

    images: Tensor
    pixels: Tensor
    maps: list[Tensor]
    summaries: list[Tensor]


class GeneratorTrainer(ABC):
    """The networks, their optimisers, and what they are compared with.

    Args:
        domain: the classes, by the labels of the bank's photos.
        seed: with a step's number it decides all that is drawn in it.
        model: the generator to train.
        others: what is trained with it, by name.
    """

    METHOD: str
    """How images are compared with photos, for the card."""
    RATE: float
    BETAS: tuple[float, float]
    """Of the generator's Adam."""
    OF_CLASS: int
    """Images of one class, one after another, in a batch."""

    def __init__(
        self,
        domain: Domain,
        critic: Critic,
        bank: PhotoBank,
        texts: Texts,
        seed: int,
        model: OneStep,
        others: dict[str, nn.Module],
    ) -> None:
        self._names = [item.names for item in domain.classes]
        self._critic, self._bank, self._texts, self._seed = critic, bank, texts, seed
        device = critic.device
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        judges = Discriminators(len(self._names), [channels for channels, _, _ in critic.map_shapes])
        self._discriminators = judges.to(device).to(memory_format=torch.channels_last)
        self._others = {name: other.to(device).to(memory_format=torch.channels_last) for name, other in others.items()}
        trained = (self.model, *self._others.values())
        self._trained = [weight for part in trained for weight in part.parameters() if weight.requires_grad]
        self._optimizers = {
            "generator": torch.optim.Adam(self._trained, betas=self.BETAS, fused=True),
            "discriminators": torch.optim.Adam(judges.parameters(), betas=(0.0, 0.99), fused=True),
        }
        swa = torch.optim.swa_utils
        self._average = swa.AveragedModel(self.model, multi_avg_fn=swa.get_ema_multi_avg_fn(EMA_DECAY))
        self._recognised = torch.full((len(self._names),), 0.5)
        labels = bank.said[:, 0]
        self._of_class = [torch.nonzero(labels == number)[:, 0] for number in range(len(self._names))]

    @property
    def result(self) -> OneStep:
        """The averaged weights."""
        return cast(OneStep, self._average.module)

    def step(self, number: int, batch_size: int, rate: float, done: float) -> dict[str, Tensor]:
        """One step of both sides; figures for people, detached.

        Args:
            number: of this step, from 0.
            batch_size: a multiple of ``OF_CLASS``.
            rate: share of the peak learning rates.
            done: share of the training that is over, 0 to 1.
        """
        torch.manual_seed(self._seed * 1_000_003 + number)
        self._optimizers["generator"].param_groups[0]["lr"] = self.RATE * rate
        self._optimizers["discriminators"].param_groups[0]["lr"] = JUDGES_RATE * rate
        drawn = self._draw(batch_size, random.Random(self._seed * 1_000_003 + number))
        loss, figures = self._loss(drawn, number, done)
        self._optimizers["generator"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, LARGEST_NORM)
        self._optimizers["generator"].step()
        self._discriminators.requires_grad_(True)
        self._average.update_parameters(self.model)
        figures["recognised"] = self._recognised.mean()
        return {name: figure.detach() for name, figure in figures.items()}

    @abstractmethod
    def _loss(self, drawn: Drawn, number: int, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss and its parts; the discriminators make their step in it."""

    def _draw(self, count: int, chooser: random.Random) -> Drawn:
        """A batch; classes less often recognised are drawn more often."""
        labels = torch.multinomial(1.1 - self._recognised, count // self.OF_CLASS, replacement=True)
        of_class = [self._of_class[label] for label in labels.tolist()]
        rows = torch.cat([numbers[torch.randint(len(numbers), (self.OF_CLASS,))] for numbers in of_class])
        said = self._bank.said[rows].clone()
        said[:, 1:][torch.rand(count, 2) < 0.5] = UNSAID
        captions = [
            caption(chooser.choice(self._names[label]), light, background, chooser)
            for label, light, background in said.tolist()
        ]
        maps, summaries = self._bank.seen(rows, self._critic)
        photos = self._bank.images[rows].to(self._critic.device).permute(0, 3, 1, 2) / 255
        return Drawn(photos, self._scaled(maps), summaries, said.to(photos.device), captions)

    def _make(self, noise: Tensor, captions: list[str]) -> Made:
        """Images of noise and text."""
        with self._critic.autocast():
            images = self.model(noise, self._texts(captions)).float() * 0.5 + 0.5
            pixels = self._critic.normalise(images)
            maps, summaries = self._critic.look(pixels)
        return Made(images, pixels, self._scaled(maps), summaries)

    def _scaled(self, maps: list[Tensor]) -> list[Tensor]:
        return [part * scale for part, scale in zip(maps, self._bank.map_scale, strict=True)]

    def _apart(self, distance: Callable[[Tensor, Tensor], Tensor], made: list[Tensor], seen: list[Tensor]) -> Tensor:
        """Mean over summaries of a distance between images and photos; the image feature counts once more.

        Args:
            distance: of two sets of rows ``(n, dim)``, scaled so that two photos are about 1 apart.
            made, seen: summaries of images and of photos.
        """
        scales = self._bank.summary_scale
        apart = [distance(ours * scale, theirs * scale) for ours, theirs, scale in zip(made, seen, scales, strict=True)]
        return torch.stack(apart).mean() + apart[0]

    def _missed(self, features: Tensor, labels: Tensor, plain: int) -> Tensor:
        """Cross-entropy of the zero-shot classifier, of images whose class does not yet lead all others by one nat: the
        rest is left to the photos. Notes which classes are recognised.

        Args:
            plain: the first image that was made from plain noise.
        """
        logits = features @ self._critic.head.float() * self._critic.logit_scale
        ahead = lead(logits, labels)
        for label, right in zip(labels[plain:].tolist(), (ahead[plain:] > 0).float().cpu(), strict=True):
            self._recognised[label].lerp_(right, 0.05)
        return (F.cross_entropy(logits, labels, reduction="none") * (ahead < 1)).mean()

    def _judge(self, drawn: Drawn, made: Made) -> tuple[Tensor, Tensor]:
        """One step of the discriminators; returns their loss and that of the images before them."""
        pairs = zip(drawn.maps, made.maps, strict=True)
        both = [torch.cat([seen.to(ours.dtype), ours.detach()]) for seen, ours in pairs]
        pixels = torch.cat([self._critic.normalise(drawn.photos), made.pixels.detach()])
        with self._critic.autocast():
            scores = self._discriminators(pixels, both, drawn.said.repeat(2, 1))
        halves = [score.chunk(2) for score in scores]
        loss = discriminator_loss([real for real, _ in halves], [fake for _, fake in halves])
        self._optimizers["discriminators"].zero_grad()
        loss.backward()
        self._optimizers["discriminators"].step()
        with self._critic.autocast():
            scores = self._discriminators.requires_grad_(False)(made.pixels, made.maps, drawn.said)
        return loss, -torch.stack([score.mean() for score in scores]).mean()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that decides the rest of the training, by name."""
        tensors = {"recognised": self._recognised}
        for part, module in self._modules().items():
            tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        for part, optimizer in self._optimizers.items():
            tensors |= {f"optimizer-{part}.{name}": value for name, value in optimizer_tensors(optimizer).items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a :meth:`state`."""
        self._recognised.copy_(tensors["recognised"])
        for part, module in self._modules().items():
            module.load_state_dict(under(f"{part}.", tensors))
        for part, optimizer in self._optimizers.items():
            load_optimizer(optimizer, under(f"optimizer-{part}.", tensors))

    def _modules(self) -> dict[str, nn.Module]:
        trained = {"generator": self.model, "average": self._average, "discriminators": self._discriminators}
        return trained | self._others
