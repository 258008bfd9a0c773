"""Pipelines are loaded as users load them; an image depends on its prompt and seed, not on its batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, LCMScheduler, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from models.errors import ModelError
from models.generators import default_size, load_generator
from models.sampling import Sampler

PROMPTS = ["a photo of a goldfish", "a photo of a trolleybus", "a photo of a goldfish", "a photo of a lemon, outdoors"]
SEEDS = [11, 12, 13, 14]
GREY_LEVELS = 6
"""Largest difference in one pixel from batching alone: bf16 products are blocked differently."""


def make_sampler(folder: Path, batch_size: int = 4, guidance: float = 3.0, negative: str = "") -> Sampler:
    pipeline = load_generator(str(folder), device=torch.device("cpu"))
    return Sampler(pipeline, steps=2, guidance=guidance, batch_size=batch_size, negative_prompt=negative)


def difference(first: Tensor, second: Tensor) -> int:
    return int((first.int() - second.int()).abs().max())


@pytest.mark.parametrize("family", ["sd_folder", "sdxl_folder"])
@pytest.mark.parametrize("guidance", [0.5, 3.0])
def test_images_do_not_depend_on_their_batch(family: str, guidance: float, request: pytest.FixtureRequest) -> None:
    sampler = make_sampler(request.getfixturevalue(family), guidance=guidance)
    together = sampler.sample(PROMPTS, SEEDS)
    assert together.shape == (4, 64, 64, 3)
    assert together.dtype == torch.uint8
    alone = torch.cat([sampler.sample([p], [s]) for p, s in zip(PROMPTS[::-1], SEEDS[::-1], strict=True)]).flip(0)
    assert difference(together, alone) <= GREY_LEVELS
    assert difference(together[:1], together[2:3]) > 4 * GREY_LEVELS, "same prompt, other seed: another image"
    assert torch.equal(sampler.sample(PROMPTS, SEEDS), together)


@pytest.mark.parametrize("family", ["sd_folder", "sdxl_folder"])
def test_cached_embeddings_give_the_pipelines_own_images(family: str, request: pytest.FixtureRequest) -> None:
    sampler = make_sampler(request.getfixturevalue(family), negative="blurry")
    ours = sampler.sample(PROMPTS, SEEDS)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=sampler.autocast is not None):
        theirs = sampler.pipeline(
            prompt=PROMPTS,
            negative_prompt=["blurry"] * 4,
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type="pt",
        ).images
    assert difference(ours, theirs.mul(255).round().permute(0, 2, 3, 1)) <= GREY_LEVELS


def test_each_prompt_is_encoded_once(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = make_sampler(sd_folder)
    asked: list[str] = []
    encode = StableDiffusionPipeline.encode_prompt

    def counting(self: StableDiffusionPipeline, *arguments: object, **named: Any) -> object:
        asked.extend(named.get("prompt", []))
        return encode(self, *arguments, **named)

    monkeypatch.setattr(StableDiffusionPipeline, "encode_prompt", counting)
    sampler.sample(PROMPTS, SEEDS)
    sampler.sample(PROMPTS, SEEDS)
    assert sorted(asked) == sorted(set(PROMPTS))


def test_other_pipelines_are_called_with_their_prompts(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = make_sampler(sd_folder)
    expected = sampler.sample(PROMPTS, SEEDS)
    monkeypatch.setattr("models.sampling.StableDiffusionPipeline", type("Unknown", (), {}))
    assert difference(sampler.sample(PROMPTS, SEEDS), expected) <= GREY_LEVELS


def test_batch_is_halved_when_memory_runs_out(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = make_sampler(sd_folder)
    expected = sampler.sample(PROMPTS, SEEDS)
    told: list[int] = []
    sampler.on_halved = told.append
    real = Sampler._sample_batch

    def limited(self: Sampler, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, prompts, seeds)

    monkeypatch.setattr(Sampler, "_sample_batch", limited)
    assert difference(sampler.sample(PROMPTS, SEEDS), expected) <= GREY_LEVELS
    assert told == [2, 1]
    assert sampler.batch_size == 1


def test_memory_too_small_for_one_image_is_a_clear_error(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Sampler, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Sampler, "_sample_batch", never)
    with pytest.raises(ModelError) as caught:
        make_sampler(sd_folder).sample(PROMPTS, SEEDS)
    assert caught.value.code == "out_of_memory"


def test_size_follows_the_pipeline_and_must_fit_it(sd_folder: Path, sdxl_folder: Path) -> None:
    for folder in (sd_folder, sdxl_folder):
        pipeline = load_generator(str(folder), device=torch.device("cpu"))
        assert default_size(pipeline) == 64
        with pytest.raises(ModelError, match="multiple of 4") as caught:
            Sampler(pipeline, steps=1, guidance=1.0, batch_size=1, size=66)
        assert caught.value.field == "data.generator.size"


def test_safety_checker_is_left_out_and_weights_are_frozen_safetensors(sd_folder: Path) -> None:
    pipeline = load_generator(str(sd_folder), device=torch.device("cpu"))
    assert pipeline.safety_checker is None
    assert not list(sd_folder.rglob("*.bin"))


def test_missing_directory_is_weights_missing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError) as caught:
            load_generator(str(folder), device=torch.device("cpu"))
        assert (caught.value.code, caught.value.field) == ("weights_missing", "data.generator.model")
        assert str(folder) in caught.value.message


def test_incomplete_directory_is_weights_missing(sd_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text((sd_folder / "model_index.json").read_text())
    with pytest.raises(ModelError) as caught:
        load_generator(str(tmp_path), device=torch.device("cpu"))
    assert caught.value.code == "weights_missing"


def test_offline_hub_is_hub_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load_generator("nobody/no-such-pipeline", device=torch.device("cpu"), revision="0" * 40)
    assert caught.value.code == "hub_unreachable"
    assert "nobody/no-such-pipeline" in caught.value.message


def test_lora_is_fused_and_an_lcm_one_brings_its_scheduler(sd_folder: Path, tmp_path: Path) -> None:
    plain = make_sampler(sd_folder)
    donor = load_generator(str(sd_folder), device=torch.device("cpu"))
    donor.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(donor.unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "style", unet_lora_layers=layers)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lcm-lora", unet_lora_layers=layers)

    styled = load_generator(str(sd_folder), device=torch.device("cpu"), lora=str(tmp_path / "style"))
    images = Sampler(styled, steps=2, guidance=3.0, batch_size=4).sample(PROMPTS, SEEDS)
    assert difference(images, plain.sample(PROMPTS, SEEDS)) > GREY_LEVELS
    assert not isinstance(styled.scheduler, LCMScheduler)

    fast = load_generator(str(sd_folder), device=torch.device("cpu"), lora=str(tmp_path / "lcm-lora"))
    assert isinstance(fast.scheduler, LCMScheduler)
    sampler = Sampler(fast, steps=2, guidance=0.5, batch_size=4)
    together = sampler.sample(PROMPTS, SEEDS)
    alone = torch.cat([sampler.sample([p], [s]) for p, s in zip(PROMPTS, SEEDS, strict=True)])
    assert difference(together, alone) <= GREY_LEVELS, "its noise between the steps is each image's own, too"


def test_missing_lora_is_named(sd_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_generator(str(sd_folder), device=torch.device("cpu"), lora=str(tmp_path / "lora"))
    assert (caught.value.code, caught.value.field) == ("weights_missing", "data.generator.lora")


@pytest.mark.parametrize("family", ["sd_folder", "sdxl_folder"])
def test_compiled_parts_give_the_same_images(
    family: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.compiled.BACKEND", "eager")  # traced as ever, without a minute of code generation
    folder = request.getfixturevalue(family)
    expected = make_sampler(folder).sample(PROMPTS, SEEDS)
    pipeline = load_generator(str(folder), device=torch.device("cpu"))
    sampler = Sampler(pipeline, steps=2, guidance=3.0, batch_size=4, compiled=True)
    assert difference(sampler.sample(PROMPTS, SEEDS), expected) <= GREY_LEVELS
    kinds = {type(module).__name__ for module in sampler._compiled}
    assert {"ResnetBlock2D", "BasicTransformerBlock", "Decoder"} <= kinds, "still compiled: no error was swallowed"
    assert all(module._compiled_call_impl is not None for module in sampler._compiled)


def test_where_the_compiler_fails_images_are_made_without_it(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "models.compiled.BACKEND", lambda _graph, _inputs: (_ for _ in ()).throw(OSError("no compiler"))
    )
    expected = make_sampler(sd_folder).sample(PROMPTS, SEEDS)
    pipeline = load_generator(str(sd_folder), device=torch.device("cpu"))
    sampler = Sampler(pipeline, steps=2, guidance=3.0, batch_size=4, compiled=True)
    modules = sampler._compiled
    assert difference(sampler.sample(PROMPTS, SEEDS), expected) <= GREY_LEVELS
    assert modules and all(module._compiled_call_impl is None for module in modules)


def test_a_tiny_decoder_takes_the_place_of_the_pipelines_own(sd_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    four = {"encoder_block_out_channels": (16,) * 3, "decoder_block_out_channels": (16,) * 3}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    AutoencoderTiny(**four, **blocks).save_pretrained(tmp_path / "tiny")
    pipeline = load_generator(str(sd_folder), device=torch.device("cpu"), decoder=str(tmp_path / "tiny"))
    assert isinstance(pipeline.vae, AutoencoderTiny)
    images = Sampler(pipeline, steps=2, guidance=1.0, batch_size=4).sample(PROMPTS, SEEDS)
    assert images.shape == (4, 64, 64, 3)
    assert difference(images, make_sampler(sd_folder, guidance=1.0).sample(PROMPTS, SEEDS)) > GREY_LEVELS

    AutoencoderTiny(**four, **blocks, latent_channels=8).save_pretrained(tmp_path / "other")
    for name, message in ((tmp_path / "nothing", "there is no decoder at"), (tmp_path / "other", "8 latent channels")):
        with pytest.raises(ModelError, match=message) as caught:
            load_generator(str(sd_folder), device=torch.device("cpu"), decoder=str(name))
        assert caught.value.field == "data.generator.decoder"
