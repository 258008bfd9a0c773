"""The networks of the starter generator: one step from noise and text to an image, and the pipeline they become."""

from __future__ import annotations

import copy
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from starter.tokenizer import CONTEXT_LENGTH

LATENT_CHANNELS, LATENT_SIDE = 32, 8
TEXT_WIDTH = 192
LAST_TIME = 999
"""The one time step at which the UNet is asked: pure noise."""
KEPT_TEXTS = 40_000


class OneStep(nn.Module):
    """Noise and text to pixels, as the pipeline does it in one step."""

    def __init__(self) -> None:
        super().__init__()
        # Attention at 4 x 4 only; the pooled text also scales and shifts every block (as in ADM), which learns soonest.
        self.unet = UNet2DConditionModel(
            sample_size=LATENT_SIDE,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            block_out_channels=(64, 128),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
            resnet_time_scale_shift="scale_shift",
        )
        self.vae = AutoencoderTiny(
            encoder_block_out_channels=(16,) * 4,
            decoder_block_out_channels=(32,) * 4,
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(2, 2, 1, 0),
            latent_channels=LATENT_CHANNELS,
            scaling_factor=1.0,
        )
        self.vae.encoder.requires_grad_(False)  # text-to-image never encodes

    def forward(self, noise: Tensor, text: Tensor) -> Tensor:
        """Images ``(n, 3, 64, 64)`` in about [-1, 1].

        Args:
            noise: ``(n, 32, 8, 8)``.
            text: hidden states, ``(n, context, width)``.
        """
        times = torch.full((len(noise),), LAST_TIME)
        # On a CPU the fused attention's backward pass is slower than plain matrix products at these tiny sizes.
        with sdpa_kernel(SDPBackend.MATH):
            latents = self.unet(noise, times, encoder_hidden_states=text).sample
        pixels: Tensor = self.vae.decoder(latents)
        return pixels


def text_encoder_from_teacher(teacher: Path) -> CLIPTextModel:
    """The teacher's text tower as a transformers CLIPTextModel (same architecture, other names)."""
    tower = open_clip.create_model_and_transforms(f"local-dir:{teacher}")[0].text
    tokenizer = CLIPTokenizer.from_pretrained(teacher)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=len(tower.transformer.resblocks),
        num_attention_heads=tower.transformer.resblocks[0].attn.num_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=TEXT_WIDTH,
    )
    model = CLIPTextModel(config)
    inner = getattr(model, "text_model", model)
    with torch.no_grad():
        inner.embeddings.token_embedding.weight.copy_(tower.token_embedding.weight)
        inner.embeddings.position_embedding.weight.copy_(tower.positional_embedding)
        for theirs, ours in zip(tower.transformer.resblocks, inner.encoder.layers, strict=True):
            weights = theirs.attn.in_proj_weight.chunk(3)
            biases = theirs.attn.in_proj_bias.chunk(3)
            names = ("q_proj", "k_proj", "v_proj")
            for name, weight, bias in zip(names, weights, biases, strict=True):
                getattr(ours.self_attn, name).weight.copy_(weight)
                getattr(ours.self_attn, name).bias.copy_(bias)
            pairs = [
                (theirs.attn.out_proj, ours.self_attn.out_proj),
                (theirs.ln_1, ours.layer_norm1),
                (theirs.ln_2, ours.layer_norm2),
                (theirs.mlp.c_fc, ours.mlp.fc1),
                (theirs.mlp.c_proj, ours.mlp.fc2),
            ]
            for source, target in pairs:
                target.load_state_dict(source.state_dict())
        inner.final_layer_norm.load_state_dict(tower.ln_final.state_dict())
    return model


class Texts:
    """Hidden states of captions; the latest are kept."""

    def __init__(self, teacher: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(teacher)
        self.encoder = text_encoder_from_teacher(teacher).eval().requires_grad_(False)
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: list[str]) -> Tensor:
        if len(self._known) > KEPT_TEXTS:
            self._known.clear()
        if missing := [text for text in dict.fromkeys(captions) if text not in self._known]:
            options = {"padding": "max_length", "truncation": True, "max_length": CONTEXT_LENGTH}
            tokens = self.tokenizer(missing, return_tensors="pt", **options)
            self._known.update(zip(missing, self.encoder(tokens.input_ids)[0], strict=True))
        return torch.stack([self._known[text] for text in captions])


def save_pipeline(model: OneStep, texts: Texts, out: Path) -> None:
    """Write a StableDiffusionPipeline in fp16 safetensors."""
    half = copy.deepcopy(model).half().eval()
    pipeline = StableDiffusionPipeline(
        vae=half.vae,
        text_encoder=copy.deepcopy(texts.encoder).half(),
        tokenizer=texts.tokenizer,
        unet=half.unet,
        # One step from pure noise: the UNet's answer is the sample.
        scheduler=DDIMScheduler(
            prediction_type="sample", timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
