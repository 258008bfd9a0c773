"""Other ways to train the same student, as their authors' code does it: a model, its optimiser and the loss of a batch.

Each comes as it is by default (fp32, torch's plain AdamW) and tuned: channels-last memory, fused AdamW, and bf16 where
the machine multiplies it faster than fp32; on CUDA compiled too. There each step runs with what open_clip's and timm's
trainers set: TF32 products, and convolutions chosen by timing them.
Nothing here is ours but the loss functions; the arms of a benchmark feed it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import open_clip
import timm
import timm.optim
import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from models.losses import l2
from models.teachers import bf16_is_native

Precision = Literal["fp32", "autocast", "pure"]
"""``autocast``: fp32 weights, bf16 inside; ``pure``: open_clip's ``pure_bf16``, weights in bf16 too."""


@dataclass(frozen=True)
class Peer:
    """A model in training; ``loss`` takes what the arm feeds, pixels first."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[..., Tensor]

    def step(self, *batch: Tensor) -> Tensor:
        """One optimiser step; the loss."""
        with trainers_settings():
            self.optimizer.zero_grad()
            loss = self.loss(*batch)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return loss.detach()


def open_clip_peer(
    config: dict[str, Any],
    teach: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
    *,
    tuned: bool,
    precision: Precision,
    device: torch.device,
    **settings: Any,
) -> Peer:
    """The body of ``open_clip_train``'s loop with ``--distill-model``: pixels and tokens.

    Args:
        config: of the student; its text tower is trained beside it.
        teach: pixels and tokens to the teacher's ``image_features``, ``text_features`` and ``logit_scale``.
        settings: of the optimiser, instead of open_clip's.
    """
    towers = {name: value for name, value in config.items() if name != "custom_text"}
    model = _placed(open_clip.CustomTextCLIP(**towers, output_dict=True).to(device), tuned, precision)
    run: Callable[..., Any] = torch.compile(model) if tuned and device.type == "cuda" else model
    loss = DistillClipLoss()

    def of(pixels: Tensor, tokens: Tensor) -> Tensor:
        pixels = pixels.to(next(model.parameters()).dtype)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "autocast"):
            out = run(pixels, tokens)
        with torch.no_grad():
            target = teach(pixels, tokens)
        losses = loss(**out, **{f"dist_{name}": value for name, value in target.items()}, output_dict=True)
        total: Tensor = sum(losses.values())
        return total

    return Peer(model, _optimizer(model, tuned, settings), of)


def online_l2_peer(
    tower: nn.Module,
    teach: Callable[[Tensor], Tensor],
    *,
    tuned: bool,
    device: torch.device,
    **settings: Any,
) -> Peer:
    """The paper's loss with the teacher in every step: pixels.

    Args:
        teach: pixels to the teacher's normalised image features.
        settings: of the optimiser, instead of open_clip's.
    """
    compiled, autocast = tuned and device.type == "cuda", tuned and bf16_is_native(device)
    peer = cached_peer(tower, tuned=tuned, autocast=autocast, compiled=compiled, device=device, **settings)

    def of(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            target = teach(pixels)
        return peer.loss(pixels, target.float())

    return Peer(peer.model, peer.optimizer, of)


def cached_peer(
    tower: nn.Module, *, tuned: bool, autocast: bool, compiled: bool = False, device: torch.device, **settings: Any
) -> Peer:
    """L2 to features that were stored before the training, as in NVIDIA's clip-distillation: pixels and features."""
    model = _placed(copy.deepcopy(tower).to(device), tuned, "fp32")
    run: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model

    def of(pixels: Tensor, features: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=autocast):
            student = run(_laid_out(pixels, tuned))
        return l2(F.normalize(student.float(), dim=-1), features)

    return Peer(model, _optimizer(model, tuned, settings), of)


def timm_peer(
    architecture: str, *, tuned: bool, compiled: bool, device: torch.device, ema_decay: float = 0.998, **settings: Any
) -> Peer:
    """The step of timm's ``train.py`` with ``--model-ema``: the backbone as a classifier, pixels and labels.

    Args:
        compiled: ``--torchcompile``.
    """
    model = _placed(timm.create_model(architecture, num_classes=1000).to(device), tuned, "fp32")
    optimizer = _optimizer(model, tuned, settings)
    average = ModelEmaV3(model, decay=ema_decay)
    optimizer.register_step_post_hook(lambda *_: average.update(model))
    run: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model

    def of(pixels: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=tuned and bf16_is_native(device)):
            return F.cross_entropy(run(_laid_out(pixels, tuned)), labels)

    return Peer(model, optimizer, of)


@contextmanager
def trainers_settings() -> Iterator[None]:
    """What ``open_clip_train`` and timm's ``train.py`` set where there is a GPU; no other effect than on CUDA."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, products.allow_tf32
    cudnn.benchmark = products.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.benchmark, products.allow_tf32 = before


T = TypeVar("T", nn.Module, Tensor)


def in_bf16(thing: T) -> T:
    """A bf16 copy in channels-last memory."""
    return copy.deepcopy(thing).to(torch.bfloat16).to(memory_format=torch.channels_last)


def _placed(model: nn.Module, tuned: bool, precision: Precision) -> nn.Module:
    model = model.train()
    if precision == "pure":
        model = model.to(torch.bfloat16)
    return model.to(memory_format=torch.channels_last) if tuned else model


def _laid_out(pixels: Tensor, tuned: bool) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last if tuned else torch.contiguous_format)


def _optimizer(model: nn.Module, tuned: bool, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW as open_clip's trainer sets it up, but for ``settings``; biases and gains do not decay."""
    wanted = {"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2, **settings}
    groups = timm.optim.param_groups_weight_decay(model, wanted["weight_decay"])
    return torch.optim.AdamW(groups, **wanted, fused=tuned or None)
