"""A generator in training: its step, its averaged weights, and all of its state.

A UNet and a decoder are trained end to end to make an image of noise and text in one step: no diffusion and no
autoencoding, which two CPU cores could not afford. The drifting loss gives images the photos' distribution, small
discriminators give them local detail.
"""

from __future__ import annotations

import random
from typing import cast

import torch
from torch import Tensor, nn

from distillation.generator_training.captions import UNSAID, caption
from distillation.generator_training.critic import Critic, draw_views, noisy
from distillation.generator_training.discriminators import Discriminators, discriminator_loss
from distillation.generator_training.drifting import drifting_loss
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import VIEWS, PhotoBank
from distillation.generator_training.text_encoder import Texts
from distillation.optimizer_state import load_optimizer, optimizer_tensors, under
from distillation.recipe import Domain
from distillation.views import apply_views

SAME_CLASS = 8
"""Images of one class in a batch: they repel each other."""
PHOTOS_OF_CLASS = 64
GENERATOR_RATE, DISCRIMINATOR_RATE = 5e-4, 1e-3
EMA_DECAY = 0.998
LARGEST_NORM = 5.0


class GeneratorTrainer:
    """The networks, their optimisers, and what they are compared with.

    Args:
        domain: the classes, by the labels of the bank's photos.
        seed: decides the first weights, and with a step's number all that is drawn in it.
    """

    def __init__(self, domain: Domain, critic: Critic, bank: PhotoBank, texts: Texts, seed: int) -> None:
        torch.manual_seed(seed)
        self._names = [(item.name, *item.synonyms) for item in domain.classes]
        self._critic, self._bank, self._texts, self._seed = critic, bank, texts, seed
        device = critic.device
        model = OneStep(critic.size, texts.width)
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        judges = Discriminators(len(self._names), [channels for channels, _, _ in critic.map_shapes])
        self._discriminators = judges.to(device).to(memory_format=torch.channels_last)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizers = {
            name: torch.optim.Adam(parameters, betas=(0.0, 0.99), fused=True)
            for name, parameters in (("generator", self._trained), ("discriminators", judges.parameters()))
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

    def step(self, number: int, batch_size: int, rate: float) -> dict[str, Tensor]:
        """One step of both sides; figures for people, detached.

        Args:
            number: of this step, from 0.
            batch_size: a multiple of ``SAME_CLASS``.
            rate: share of the peak learning rates.
        """
        torch.manual_seed(self._seed * 1_000_003 + number)
        chooser = random.Random(self._seed * 1_000_003 + number)
        peaks = (("generator", GENERATOR_RATE), ("discriminators", DISCRIMINATOR_RATE))
        for name, peak in peaks:
            self._optimizers[name].param_groups[0]["lr"] = peak * rate
        # Classes that the teacher recognises less often are drawn more often.
        count = batch_size // SAME_CLASS
        drawn = torch.multinomial(1.1 - self._recognised, count, replacement=count > len(self._recognised))
        rows = torch.cat([_choose(self._of_class[label], SAME_CLASS) for label in drawn.tolist()])
        said = self._bank.said[rows].clone()
        said[:, 1:][torch.rand(len(rows), 2) < 0.5] = UNSAID
        captions = [
            caption(chooser.choice(self._names[label]), light, background, chooser)
            for label, light, background in said.tolist()
        ]
        noise = self.model.draw_noise(len(rows))
        with self._critic.autocast():
            made = self._critic.crop(self.model(noise, self._texts(captions)), draw_views(len(rows)))
            maps, summaries = self._critic.look(made)
        self._note_recognised(summaries[0].detach(), said[:, 0], drawn)
        maps = [part * scale for part, scale in zip(maps, self._bank.map_scale, strict=True)]
        said = said.to(made.device)
        judged = self._discriminate(rows, said, made, maps)
        with self._critic.autocast():
            scores = self._discriminators.requires_grad_(False)(made, maps, said)
        adversarial = -torch.stack([score.mean() for score in scores]).mean()
        drifting = self._drift(summaries, [_choose(self._of_class[label], PHOTOS_OF_CLASS) for label in drawn.tolist()])
        self._optimizers["generator"].zero_grad()
        (drifting + adversarial).backward()
        nn.utils.clip_grad_norm_(self._trained, LARGEST_NORM)
        self._optimizers["generator"].step()
        self._discriminators.requires_grad_(True)
        self._average.update_parameters(self.model)
        return {
            "drifting": drifting.detach(),
            "adversarial": adversarial.detach(),
            "discriminators": judged,
            "recognised": self._recognised.mean(),
        }

    def _note_recognised(self, features: Tensor, labels: Tensor, drawn: Tensor) -> None:
        right = ((features @ self._critic.head).argmax(1).cpu() == labels).float().view(len(drawn), -1).mean(1)
        for label, share in zip(drawn.tolist(), right, strict=True):  # a class may be drawn twice
            self._recognised[label].lerp_(share, 0.05)

    def _discriminate(self, rows: Tensor, said: Tensor, made: Tensor, maps: list[Tensor]) -> Tensor:
        """One step of the discriminators; returns their loss."""
        bank, critic = self._bank, self._critic
        which = torch.randint(VIEWS, (len(rows),))
        photos = bank.images[rows].to(critic.device)
        pixels = noisy(apply_views(photos, bank.views[rows, which], critic.size, critic.mean, critic.std))
        both = [
            torch.cat([photo[rows, which].permute(0, 3, 1, 2).to(ours.device, ours.dtype) * scale, ours.detach()])
            for photo, ours, scale in zip(bank.maps, maps, bank.map_scale, strict=True)
        ]
        with critic.autocast():
            scores = self._discriminators(torch.cat([pixels, made.detach()]), both, said.repeat(2, 1))
        halves = [score.chunk(2) for score in scores]
        loss = discriminator_loss([real for real, _ in halves], [fake for _, fake in halves])
        self._optimizers["discriminators"].zero_grad()
        loss.backward()
        self._optimizers["discriminators"].step()
        return loss.detach()

    def _drift(self, summaries: list[Tensor], rows: list[Tensor]) -> Tensor:
        """Mean drifting loss over all summaries.

        Args:
            rows: photos to drift to, one tensor for each class of the batch.
        """
        total = torch.zeros((), device=self._critic.device)
        chosen = torch.stack(rows)
        which = torch.randint(VIEWS, chosen.shape)
        for made, photos, scale in zip(summaries, self._bank.summaries, self._bank.summary_scale, strict=True):
            ours = made.view(len(rows), -1, made.shape[1]) * scale
            total = total + drifting_loss(ours, photos[chosen, which].to(ours.device, torch.float32) * scale)
        return total / len(summaries)

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
        return {"generator": self.model, "average": self._average, "discriminators": self._discriminators}


def _choose(rows: Tensor, count: int) -> Tensor:
    return rows[torch.randint(len(rows), (count,))]
