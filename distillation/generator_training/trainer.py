"""A generator in training: its networks, the discriminators against them, its averaged weights and all of its state.

A UNet and a decoder are trained end to end to make an image of noise and text in one step. What images are compared
with differs: see ``from_nothing.py`` and ``from_base.py``.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillation.generator_training.caption_bank import CaptionBank
from distillation.generator_training.critic import Critic, lead
from distillation.generator_training.discriminators import Discriminators, discriminator_loss
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.text_encoder import Texts
from distillation.optimizers import load_optimizer, optimizer_tensors, under
from distillation.recipe import Domain

JUDGES_RATE = 1e-3
EMA_DECAY = 0.998
RECOGNISED_SHARE = 0.05
"""By how much one image changes what is noted of its class."""
LARGEST_NORM = 5.0


class Drawn(NamedTuple):
    """Photos of a batch, what the critic sees in them, what is said of them, and its hidden states."""

    photos: Tensor
    maps: list[Tensor]
    summaries: list[Tensor]
    said: Tensor
    text: Tensor


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
        self._critic, self._bank, self._seed = critic, bank, seed
        self.device = device = critic.device
        with critic.autocast():
            self._captions = CaptionBank([item.names for item in domain.classes], bank.said, texts, seed)
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        classes = len(domain.classes)
        judges = Discriminators(classes, [channels for channels, _, _ in critic.map_shapes])
        self._discriminators = judges.to(device).to(memory_format=torch.channels_last)
        self._others = {name: other.to(device).to(memory_format=torch.channels_last) for name, other in others.items()}
        trained = (self.model, *self._others.values())
        self._trained = [weight for part in trained for weight in part.parameters() if weight.requires_grad]
        self._optimizers = {
            "generator": torch.optim.Adam(self._trained, betas=self.BETAS, fused=True),
            "discriminators": torch.optim.Adam(judges.parameters(), betas=(0.0, 0.99), fused=True),
        }
        self._average = copy.deepcopy(self.model).requires_grad_(False)
        self._recognised = torch.full((classes,), 0.5, device=device)
        self._photos_of = torch.bincount(bank.said[:, 0], minlength=classes)
        self._first_of = self._photos_of.cumsum(0) - self._photos_of

    @property
    def result(self) -> OneStep:
        """The averaged weights."""
        return self._average

    @abstractmethod
    def of_class(self, batch_size: int) -> int:
        """Images of one class, one after another, in a batch; they divide it."""

    def step(self, number: int, batch_size: int, rate: float, done: float) -> dict[str, Tensor]:
        """One step of both sides; figures for people, detached.

        Args:
            number: of this step, from 0.
            batch_size: a multiple of 8.
            rate: share of the peak learning rates.
            done: share of the training that is over, 0 to 1.
        """
        torch.manual_seed(self._seed * 1_000_003 + number)
        self._optimizers["generator"].param_groups[0]["lr"] = self.RATE * rate
        self._optimizers["discriminators"].param_groups[0]["lr"] = JUDGES_RATE * rate
        loss, figures = self._loss(self._draw(batch_size), number, done)
        self._optimizers["generator"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, LARGEST_NORM)
        self._optimizers["generator"].step()
        self._discriminators.requires_grad_(True)
        # Not torch's AveragedModel, whose counter goes to the device, and waits for it, in each step.
        share = 1 - EMA_DECAY if number else 1.0
        torch._foreach_lerp_(list(self._average.parameters()), [*map(Tensor.detach, self.model.parameters())], share)
        figures["recognised"] = self._recognised.mean()
        return {name: figure.detach() for name, figure in figures.items()}

    @abstractmethod
    def _loss(self, drawn: Drawn, number: int, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss and its parts; the discriminators make their step in it."""

    def _draw(self, count: int) -> Drawn:
        """A batch; classes less often recognised are drawn more often. Nothing in it waits for the device."""
        group = self.of_class(count)
        labels = torch.multinomial(1.1 - self._recognised, count // group, replacement=True)[:, None]
        which = torch.rand(len(labels), group, device=self.device) * self._photos_of[labels]
        rows = (self._first_of[labels] + which.long()).flatten()
        said, text = self._captions.draw(rows)
        maps, summaries = self._bank.seen(rows)
        photos = self._bank.images[rows].permute(0, 3, 1, 2) / 255
        return Drawn(photos, self._scaled(maps), summaries, said, text)

    def _make(self, noise: Tensor, text: Tensor) -> Made:
        """Images of noise and text."""
        with self._critic.autocast():
            images = self.model(noise, text).float() * 0.5 + 0.5
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
        note_recognised(self._recognised, labels[plain:], ahead[plain:] > 0)
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


def note_recognised(shares: Tensor, labels: Tensor, right: Tensor) -> None:
    """Move the share of each image's class a little towards 1 or 0, in place, one image of a class after another.

    Args:
        shares: of every class, float32 ``(classes,)``.
        labels: int64 ``(n,)``.
        right: whether the image is recognised, bool ``(n,)``.
    """
    own = (labels[:, None] == torch.arange(len(shares), device=labels.device)).float()
    kept = (1 - RECOGNISED_SHARE) ** (own.sum(0) - own.cumsum(0))  # of each image, after the later ones of its class
    shares.mul_((1 - RECOGNISED_SHARE) ** own.sum(0)).add_(RECOGNISED_SHARE * (own * kept * right[:, None]).sum(0))
