"""Compiles what a pipeline spends its time in: the denoiser's repeated blocks, and the decoder.

Blocks of one class share one compilation (diffusers calls this regional compilation), so that it takes seconds where
the whole network takes minutes.
"""

from __future__ import annotations

from typing import Any

import torch._dynamo
from diffusers import DiffusionPipeline
from torch import nn

BACKEND = "inductor"
VARIANTS = 64
RESIDUAL_BLOCK = "ResnetBlock2D"
"""Repeated in every UNet; diffusers' own lists name the transformer blocks only."""


def compile_pipeline(pipeline: DiffusionPipeline) -> list[nn.Module]:
    """Compile in place, at the first call; the modules concerned. None where the pipeline has no such parts."""
    denoiser: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    repeated = {RESIDUAL_BLOCK, *(getattr(denoiser, "_repeated_blocks", None) or ())}
    modules = [] if denoiser is None else [part for part in denoiser.modules() if type(part).__name__ in repeated]
    decoder = getattr(getattr(pipeline, "vae", None), "decoder", None)
    if isinstance(decoder, nn.Module):
        modules.append(decoder)
    # One count for all modules of a network, each shape a variant: eight, the default, end half-way down a UNet.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    for module in modules:
        module.compile(backend=BACKEND)
    return modules


def run_plainly(modules: list[nn.Module]) -> None:
    """Undo :func:`compile_pipeline`."""
    for module in modules:
        module._compiled_call_impl = None
