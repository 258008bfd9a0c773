"""One student in training: its step, its averaged weights, and all of its state.

Two losses of CLIP-KD need more of the step: ``mfd`` a second forward on masked views, ``afd`` a layer of its own.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import timm.optim
import torch
from torch import Tensor, nn
from torch.func import functional_call

from distillation.corpus import TrainingBatch
from distillation.distributed import own_rows, rows_of_all, size, sum_gradients, with_shared_statistics
from distillation.optimizers import CAPTURABLE, load_optimizer, new_optimizer, optimizer_tensors, under
from distillation.recipe import Training
from distillation.schedules import ema_decay
from distillation.views import apply_views, mask_patches
from distillation.whole_step import Step, whole_step
from models.augmentation import augmentation_layer, augmented_features
from models.cpu_layers import speed_up_bf16
from models.losses import Batch, total_loss
from models.memory import is_out_of_memory, keep_freed_memory
from models.students import student_features
from models.teachers import bf16_is_native

log = logging.getLogger(__name__)
MASK_RATIO, MASK_PATCH = 0.75, 16
"""Of ``mfd``: the share in CLIP-KD's scripts, and the patch of its ViTs in pixels."""


@dataclass(frozen=True)
class TeacherFacts:
    """What training needs of the teacher beside cached image features.

    Args:
        model_cfg: its open_clip configuration.
        image_size: side of its input in pixels.
        embed_dim: width of its features.
        params_image_tower: parameters of its image tower, for students sized by it.
        mean, std: of its preprocessing; the student sees pixels normalised that way.
        scale: ``exp(logit_scale)``.
        captions: text features of the distinct captions ``(c, embed_dim)``, for the losses that need them.
    """

    model_cfg: dict[str, Any]
    image_size: int
    embed_dim: int
    params_image_tower: int
    mean: Sequence[float]
    std: Sequence[float]
    scale: float
    captions: Tensor | None = None


class Trainer:
    """The student, its optimiser and its averaged weights.

    Args:
        student: image tower, float32; it is moved to ``device`` and to channels-last memory.
        image_size: side of its input in pixels.
    """

    def __init__(
        self, student: nn.Module, image_size: int, training: Training, teacher: TeacherFacts, device: torch.device
    ) -> None:
        self.student = with_shared_statistics(student.to(device)).to(memory_format=torch.channels_last).train()
        self._autocast = bf16_is_native(device)
        if device.type == "cpu":
            keep_freed_memory()
            if self._autocast:
                speed_up_bf16(self.student)
        self.average: nn.Module | None = None
        if training.ema is not None:
            self.average = copy.deepcopy(self.student).eval().requires_grad_(False)
        self._alone = size() == 1
        # One CUDA graph of the whole step; of the other optimisers not all read the rate from a tensor.
        self._recordable = device.type == "cuda" and self._alone and training.optimizer in CAPTURABLE
        self._replay: Step | None = None
        self._recorded_shape: torch.Size | None = None
        self._lr, self._decay = torch.zeros(2, device=device).unbind()
        self.optimizer = new_optimizer(self.student, training, device, capturable=self._recordable)
        self.augmentation: nn.Module | None = None
        if "afd" in training.losses:
            self.augmentation = augmentation_layer(teacher.embed_dim).to(device)
            for group in timm.optim.param_groups_weight_decay(self.augmentation, training.weight_decay):
                self.optimizer.add_param_group(group)
        self._training, self._teacher, self._image_size = training, teacher, image_size
        self._mean = torch.tensor(teacher.mean, device=device)
        self._std = torch.tensor(teacher.std, device=device)
        self._captions = None if teacher.captions is None else teacher.captions.to(device)
        self._compiled: Callable[[TrainingBatch], Tensor] | None = None
        if device.type == "cuda" and self._alone:
            # A small student's step is bound by kernel launches: CUDA graphs, of the loss alone where not of all.
            mode = "default" if self._recordable else "reduce-overhead"
            self._compiled = torch.compile(self._loss, mode=mode, dynamic=False)

    @property
    def result(self) -> nn.Module:
        """The weights to be used: averaged where the recipe asks for it."""
        return self.student if self.average is None else self.average

    def step(self, batch: TrainingBatch, number: int, lr: float) -> Tensor:
        """One optimiser step; the loss, detached, still on the device.

        Raises:
            RuntimeError: of a kind that ``is_out_of_memory`` knows, with weights and optimiser unchanged.
        """
        seed = self._training.seed * 1_000_003 + number  # dropout, stochastic depth, masks
        decay = ema_decay(number, self._training.ema or 0.0)
        if self._recordable:
            return self._replayed(batch, seed, lr, decay)
        torch.manual_seed(seed)
        return self._update(batch, lr, decay)

    def _update(self, batch: TrainingBatch, lr: float | Tensor, decay: float | Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self._backward(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self._update_average(decay)
        return loss.detach().clone()  # the memory of a compiled loss is its next call's

    def _replayed(self, batch: TrainingBatch, seed: int, lr: float, decay: float) -> Tensor:
        """:meth:`_update` as one CUDA graph, from the second batch of a shape on."""
        inputs = [tensor for tensor in (batch.images, batch.views, batch.features, batch.caption) if tensor is not None]

        def update(images: Tensor, views: Tensor, features: Tensor, caption: Tensor | None = None) -> Tensor:
            return self._update(TrainingBatch(images, views, features, caption), self._lr, self._decay)

        self._lr.fill_(lr)
        self._decay.fill_(decay)
        step: Step | None = update
        if batch.images.shape != self._recorded_shape:
            self._replay, self._recorded_shape = None, batch.images.shape
        else:
            self._replay = step = self._replay or whole_step(update, inputs, self.state())
        torch.manual_seed(seed)
        if step is None:
            self._recordable = False
            return self._update(batch, lr, decay)
        return step(*inputs)

    def _loss(self, batch: TrainingBatch) -> Tensor:
        pixels = apply_views(batch.images, batch.views, self._image_size, self._mean, self._std)
        student = student_features(self.student, pixels, autocast=self._autocast)
        masked = augmented = None
        if "mfd" in self._training.losses:
            masked = self._masked_features(pixels, batch.count or len(pixels))
        if self.augmentation is not None:
            augmented = augmented_features(self.augmentation, student, batch.features)
        seen = Batch(student, batch.features, self._teacher.scale, self._captions, batch.caption, masked, augmented)
        return total_loss(self._training.losses, seen if self._alone else _of_all(seen, batch.count or len(student)))

    def _masked_features(self, pixels: Tensor, count: int) -> Tensor:
        # Copied buffers: batch normalisation's running statistics are of whole images only.
        buffers = {name: buffer.clone() for name, buffer in self.student.named_buffers()}
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self._autocast):
            first = 0 if self._alone else own_rows(count).start
            masked = mask_patches(pixels, MASK_RATIO, MASK_PATCH, first=first, count=count)
            features = functional_call(self.student, buffers, (masked,))
        return nn.functional.normalize(features.float(), dim=-1)

    def _backward(self, batch: TrainingBatch) -> Tensor:
        """Loss with gradients left in the parameters; on an error there are none."""
        try:
            loss = (self._compiled or self._loss)(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            sum_gradients(parameter for group in self.optimizer.param_groups for parameter in group["params"])
            return loss
        except Exception as error:
            self.optimizer.zero_grad(set_to_none=True)
            if self._compiled is None or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                raise
            if self._recordable and torch.cuda.is_current_stream_capturing():
                raise  # it cannot be recorded, but is compiled
            log.warning("torch.compile failed, the student is trained without it: %.300s", error)
        # No C compiler here, or an operator that the compiler cannot take: eager does the same, slower.
        self._compiled = None
        return self._backward(batch)

    @torch.no_grad()
    def _update_average(self, decay: float | Tensor) -> None:
        assert self.average is not None
        average, current = list(_tensors(self.average)), list(_tensors(self.student))
        floating = [i for i, tensor in enumerate(average) if tensor.is_floating_point()]
        old_ones, new_ones = [average[i] for i in floating], [current[i] for i in floating]
        if isinstance(decay, Tensor):  # lerp takes no weight from the device
            moves = torch._foreach_sub(new_ones, old_ones)
            torch._foreach_mul_(moves, 1 - decay)
            torch._foreach_add_(old_ones, moves)
        else:
            torch._foreach_lerp_(old_ones, new_ones, 1 - decay)
        for old, new in zip(average, current, strict=True):
            if not old.is_floating_point():
                old.copy_(new)

    @torch.inference_mode()
    def encode(self, images: Tensor, views: Tensor) -> Tensor:
        """Features of :attr:`result` in eval mode, normalised float32 ``(n, embed_dim)``."""
        model = self.result.eval()
        features = student_features(
            model, apply_views(images, views, self._image_size, self._mean, self._std), autocast=self._autocast
        )
        self.student.train()
        return features

    def state(self) -> dict[str, Tensor]:
        """Every tensor that decides the rest of the training, by name."""
        tensors = {f"student.{name}": tensor for name, tensor in self.student.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        if self.augmentation is not None:
            tensors |= {f"augmentation.{name}": tensor for name, tensor in self.augmentation.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a :meth:`state`."""
        self._replay = self._recorded_shape = None  # a graph holds on to the optimiser's old tensors
        self.student.load_state_dict(under("student.", tensors))
        if self.average is not None:
            self.average.load_state_dict(under("average.", tensors))
        if self.augmentation is not None:
            self.augmentation.load_state_dict(under("augmentation.", tensors))
        load_optimizer(self.optimizer, under("optimizer.", tensors))


def _of_all(part: Batch, count: int) -> Batch:
    """The whole batch of ``count`` images from the parts of all processes."""

    def whole(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else rows_of_all(rows, count)

    return replace(
        part,
        student=rows_of_all(part.student, count),
        teacher=rows_of_all(part.teacher, count),
        caption=whole(part.caption),
        masked=whole(part.masked),
        augmented=whole(part.augmented),
    )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
