"""The recipe's optimisers, and their state as named tensors, for checkpoints without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import timm.optim
import torch
from timm.optim import muon
from torch import Tensor, nn

from distillation.recipe import Training
from models.teachers import bf16_is_native

SETTINGS: dict[str, dict[str, Any]] = {
    # betas and eps as in the paper's scripts
    "adamw": {"betas": (0.9, 0.98), "eps": 1e-6, "fused": True},
    "sgd": {"momentum": 0.9, "fused": True},
    "lion": {},
    "muon": {},
}
CAPTURABLE = ("adamw", "muon")
"""Those that read the rate from a tensor, so that a CUDA graph can hold their step."""
_orthogonalized = muon.zeropower_via_newtonschulz


def new_optimizer(
    student: nn.Module, training: Training, device: torch.device, *, capturable: bool = False
) -> torch.optim.Optimizer:
    """The optimiser that the recipe names, for the student's parameters; vectors and scalars do not decay.

    Args:
        capturable: for a CUDA graph; of ``CAPTURABLE`` only.
    """
    if training.optimizer == "muon":
        # timm's works in bf16 and offers no choice. A CPU without bf16 emulates it, several hundred times slower.
        exact = None if bf16_is_native(device) else torch.float32
        muon.zeropower_via_newtonschulz = partial(_orthogonalized, dtype=exact) if exact else _orthogonalized
    optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        student,
        opt=training.optimizer,
        lr=training.lr,
        weight_decay=training.weight_decay,
        **SETTINGS[training.optimizer],
        **({"capturable": True} if capturable else {}),
    )
    return optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of every parameter, by its number and the state's name; hyper-parameters are not in it."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Go back to what :func:`optimizer_tensors` gave."""
    entries: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        owner = parameters[int(index)]
        if tensor.shape == owner.shape:  # fused kernels want the parameter's memory layout
            tensor = torch.empty_like(owner, dtype=tensor.dtype).copy_(tensor)
        entries.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
