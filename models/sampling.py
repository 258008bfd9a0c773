"""The fast sampling loop: cached prompt embeddings, one generator for each image, pixels as uint8 on the device."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from models.compiled import compile_pipeline, run_plainly
from models.errors import ModelError
from models.generators import autocast_dtype, default_size
from models.memory import in_halving_batches, is_out_of_memory

log = logging.getLogger(__name__)
CACHED_PROMPTS = 2048
"""Embeddings kept: 0.25 GB for Stable Diffusion 1.5, 0.65 GB for SDXL."""


class Sampler:
    """Samples batches of images from a text-to-image pipeline.

    Every image has its own generator, so neither its initial noise nor a stochastic scheduler's noise depends on the
    batch it is sampled in. What remains is the rounding of differently blocked matrix products: at most a few grey
    levels in a pixel.

    Args:
        pipeline: Stable Diffusion and SDXL get cached prompt embeddings; any other is called with its prompts.
        size: image side in pixels; None for the pipeline's own.
        on_halved: told the new batch size when memory ran out and the batch was halved.
        compiled: compile denoiser and decoder; by default on CUDA, where it pays from a few hundred images on.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        steps: int,
        guidance: float,
        batch_size: int,
        size: int | None = None,
        negative_prompt: str = "",
        on_halved: Callable[[int], None] = lambda _size: None,
        compiled: bool | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.device: torch.device = pipeline.device
        self.steps, self.guidance, self.batch_size = steps, guidance, batch_size
        self.size = size or default_size(pipeline)
        self.negative_prompt, self.on_halved = negative_prompt, on_halved
        multiple = int(getattr(pipeline, "vae_scale_factor", 1))
        if self.size % multiple:
            message = f"this pipeline makes images whose side is a multiple of {multiple}, not {self.size}"
            raise ModelError("bad_architecture", message, "change data.generator.size", "data.generator.size")
        self.autocast = autocast_dtype(self.device)
        self._compiled: list[nn.Module] = []
        if self.device.type == "cuda" if compiled is None else compiled:
            self._compiled = compile_pipeline(pipeline)
        self._embeddings: dict[str, tuple[Tensor, ...]] = {}
        self._accepted = set(inspect.signature(type(pipeline).__call__).parameters)

    @torch.inference_mode()
    def sample(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """One image for each prompt and seed: uint8 ``(n, size, size, 3)`` on the device.

        Raises:
            ModelError: out_of_memory, with a single image in the batch.
        """
        parts = in_halving_batches(
            lambda start, stop: self._sample_batch(prompts[start:stop], seeds[start:stop]),
            len(prompts),
            self.batch_size,
            self._halved,
        )
        return torch.cat(parts)

    def _halved(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.on_halved(batch_size)

    def _sample_batch(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        arguments: dict[str, Any] = {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "height": self.size,
            "width": self.size,
            "generator": generators,
            "output_type": "pt",
        }
        try:
            images = self._call(arguments | self._conditioning(prompts))
        except Exception as error:
            if not self._compiled or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                raise
            # No C compiler here, or an operator that the compiler cannot take: the plain call does the same, slower.
            log.warning("torch.compile failed, images are sampled without it: %.300s", error)
            run_plainly(self._compiled)
            self._compiled = []
            return self._sample_batch(prompts, seeds)
        return images.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _call(self, arguments: dict[str, Any]) -> Tensor:
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            images: Tensor = self.pipeline(**arguments).images
        return images

    def _conditioning(self, prompts: Sequence[str]) -> dict[str, Any]:
        if isinstance(self.pipeline, StableDiffusionPipeline):
            names = ["prompt_embeds", "negative_prompt_embeds"]
        elif isinstance(self.pipeline, StableDiffusionXLPipeline):
            names = ["prompt_embeds", "negative_prompt_embeds"]
            names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        else:
            extra = {"negative_prompt": [self.negative_prompt] * len(prompts)} if self.negative_prompt else {}
            return {"prompt": list(prompts), **{k: v for k, v in extra.items() if k in self._accepted}}
        rows = self._embed(prompts)
        columns = [torch.stack([row[i] for row in rows]) for i in range(len(rows[0]))]
        return {name: column for name, column in zip(names, columns, strict=True) if column.numel()}

    def _embed(self, prompts: Sequence[str]) -> list[tuple[Tensor, ...]]:
        """Embeddings of each prompt, in the order of ``encode_prompt``; an absent one is an empty tensor."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeddings]
        if missing:
            if len(self._embeddings) + len(missing) > CACHED_PROMPTS:
                self._embeddings.clear()
                missing = list(dict.fromkeys(prompts))
            negative = [self.negative_prompt] * len(missing) if self.negative_prompt else None
            encoded = self.pipeline.encode_prompt(
                prompt=missing,
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=self.guidance > 1,
                negative_prompt=negative,
            )
            columns = [torch.empty(len(missing), 0) if item is None else item for item in encoded]
            self._embeddings.update(zip(missing, zip(*columns, strict=True), strict=True))
        return [self._embeddings[prompt] for prompt in prompts]
