"""A generator in training: its step, its averaged weights, and all of its state.

A UNet and a decoder are trained end to end to make an image of noise and text in one step. In half of a batch the noise
holds the code of a photo, which the image must then resemble (a conditional variational autoencoder, arXiv 1312.6114
and 1512.09300): every image has a target of its own, which teaches many classes at once. Codes are held close to plain
noise, from which the other half is made; small discriminators give both local detail.
"""

from __future__ import annotations

import random
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillation.generator_training.captions import UNSAID, caption
from distillation.generator_training.critic import Critic, lead
from distillation.generator_training.discriminators import Discriminators, discriminator_loss
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.photo_encoder import CODE_CHANNELS, PhotoEncoder, divergence
from distillation.generator_training.text_encoder import Texts
from distillation.optimizer_state import load_optimizer, optimizer_tensors, under
from distillation.recipe import Domain

LEARNING_RATE = 1e-3
ADVERSARIAL, RECOGNITION, DIVERGENCE = 0.3, 0.2, 0.02
COARSE, COARSE_WEIGHT = (4, 8), 40.0
"""Sides in pixels of the parts whose colours are compared, and their weight."""
FIRST_NATS, NATS = 5.6, 1.0
"""How much each place of a code may tell of its photo, at first and from ``EARLY`` on."""
EARLY = 0.15
"""Share of the training in which images are made to resemble photos before they must pass for some."""
ADVERSARY_FROM = 0.45
"""Part of the early time that is left when the discriminators come in."""
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
        encoder = PhotoEncoder(critic, self.model.latent_side)
        self._encoder = encoder.to(device).to(memory_format=torch.channels_last)
        self._trained = [part for part in (*self.model.parameters(), *encoder.parameters()) if part.requires_grad]
        self._optimizers = {
            "generator": torch.optim.Adam(self._trained, betas=(0.9, 0.99), fused=True),
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

        The first half of the batch is made from codes of photos and compared with them, the other half from plain
        noise; until the discriminators come in, which alone have to say something about the latter, all of it is coded.

        Args:
            number: of this step, from 0.
            rate: share of the peak learning rates.
            done: share of the training that is over, 0 to 1.
        """
        torch.manual_seed(self._seed * 1_000_003 + number)
        for optimizer in self._optimizers.values():
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        rows, said, captions = self._draw(batch_size, random.Random(self._seed * 1_000_003 + number))
        early = max(0.0, 1 - done / EARLY)
        with_adversary = early < ADVERSARY_FROM
        coded = batch_size // 2 if with_adversary else batch_size
        photo_maps, photo_summaries = self._bank.seen(rows, self._critic)
        noise = self.model.draw_noise(batch_size)
        with self._critic.autocast():
            mean, log_variance = self._encoder(
                [part[:coded] for part in photo_maps], [p[:coded] for p in photo_summaries]
            )
            code, rest = noise.split([CODE_CHANNELS, noise.shape[1] - CODE_CHANNELS], 1)
            code = torch.cat([mean + (log_variance / 2).exp() * code[:coded], code[coded:]])
            noise = torch.cat([code, rest], 1).contiguous(memory_format=torch.channels_last)
            images = self.model(noise, self._texts(captions)).float() * 0.5 + 0.5
            made = self._critic.normalise(images)
            maps, summaries = self._critic.look(made)
        scales = self._bank.map_scale
        maps, photo_maps = ([m * scale for m, scale in zip(p, scales, strict=True)] for p in (maps, photo_maps))
        photos = self._bank.images[rows].to(made.device).permute(0, 3, 1, 2) / 255
        unlike = self._unlike(images[:coded], maps, summaries, photos, photo_maps, photo_summaries)
        nats = divergence(mean, log_variance)
        target = (NATS + (FIRST_NATS - NATS) * early) * self.model.latent_side**2
        loss = unlike + DIVERGENCE * (nats - target).abs()
        figures = {"unlike": unlike, "nats": nats, "recognised": self._recognised.mean()}
        if with_adversary:
            missed = self._missed(summaries[0], said[:, 0].to(made.device))
            judged, adversarial = self._judge(self._critic.normalise(photos), made, photo_maps, maps, said)
            loss = loss + ADVERSARIAL * adversarial + RECOGNITION * missed
            figures |= {"adversarial": adversarial, "discriminators": judged}
        self._optimizers["generator"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, LARGEST_NORM)
        self._optimizers["generator"].step()
        self._discriminators.requires_grad_(True)
        self._average.update_parameters(self.model)
        return {name: figure.detach() for name, figure in figures.items()}

    def _draw(self, count: int, chooser: random.Random) -> tuple[Tensor, Tensor, list[str]]:
        """Rows of photos, what is said of them, and captions; classes less often recognised are drawn more often."""
        drawn = torch.multinomial(1.1 - self._recognised, count, replacement=True)
        rows = torch.stack([self._of_class[label][torch.randint(len(self._of_class[label]), ())] for label in drawn])
        said = self._bank.said[rows].clone()
        said[:, 1:][torch.rand(count, 2) < 0.5] = UNSAID
        captions = [
            caption(chooser.choice(self._names[label]), light, background, chooser)
            for label, light, background in said.tolist()
        ]
        return rows, said, captions

    def _unlike(
        self,
        images: Tensor,
        maps: list[Tensor],
        summaries: list[Tensor],
        photos: Tensor,
        photo_maps: list[Tensor],
        photo_summaries: list[Tensor],
    ) -> Tensor:
        """How much images made from codes differ from their photos: in pixels, in coarse colours, in what the critic
        sees; the image feature counts once more."""
        count = len(images)
        photos = photos[:count]
        coarse = sum(F.mse_loss(F.avg_pool2d(images, k), F.avg_pool2d(photos, k)) for k in COARSE)
        total = 2 * F.l1_loss(images, photos) + COARSE_WEIGHT * coarse
        for made, seen in zip(maps, photo_maps, strict=True):
            total = total + F.mse_loss(made[:count].float(), seen[:count]) / len(maps)
        apart = [
            ((made[:count] - seen[:count]) * scale).square().sum(1).mean()
            for made, seen, scale in zip(summaries, photo_summaries, self._bank.summary_scale, strict=True)
        ]
        return total + torch.stack(apart).mean() + apart[0]

    def _missed(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the zero-shot classifier, of images whose class does not yet lead all others by one nat: the
        rest is left to the photos. Notes which classes are recognised when made from plain noise."""
        logits = features @ self._critic.head.float() * self._critic.logit_scale
        ahead, half = lead(logits, labels), len(labels) // 2
        for label, right in zip(labels[half:].tolist(), (ahead[half:] > 0).float().cpu(), strict=True):
            self._recognised[label].lerp_(right, 0.05)
        return (F.cross_entropy(logits, labels, reduction="none") * (ahead < 1)).mean()

    def _judge(
        self, photos: Tensor, made: Tensor, photo_maps: list[Tensor], maps: list[Tensor], said: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of the discriminators; returns their loss and that of the images before them."""
        said = said.to(made.device)
        both = [torch.cat([seen.to(ours.dtype), ours.detach()]) for seen, ours in zip(photo_maps, maps, strict=True)]
        with self._critic.autocast():
            scores = self._discriminators(torch.cat([photos, made.detach()]), both, said.repeat(2, 1))
        halves = [score.chunk(2) for score in scores]
        loss = discriminator_loss([real for real, _ in halves], [fake for _, fake in halves])
        self._optimizers["discriminators"].zero_grad()
        loss.backward()
        self._optimizers["discriminators"].step()
        with self._critic.autocast():
            scores = self._discriminators.requires_grad_(False)(made, maps, said)
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
        return {
            "generator": self.model,
            "average": self._average,
            "encoder": self._encoder,
            "discriminators": self._discriminators,
        }
