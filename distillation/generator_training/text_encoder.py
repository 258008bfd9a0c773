"""The text encoder of a pipeline: the teacher's text tower with transformers' names."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.errors import ModelError
from models.teachers import TeacherModel

READ_AT_ONCE = 256
SAME_FEATURES = 0.999
"""Smallest cosine between the tower's and the converted encoder's features."""
CHECKED = ("a photo of a cat", "two red things in bright light, grey background", "x")


class Texts:
    """Hidden states of captions."""

    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        self.encoder, self.tokenizer = encoder.eval().requires_grad_(False), tokenizer

    @property
    def width(self) -> int:
        return int(self.encoder.config.hidden_size)

    def tokens(self, captions: list[str]) -> Tensor:
        """``(n, context)`` int64 on the encoder's device."""
        length = self.encoder.config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        found: Tensor = self.tokenizer(captions, return_tensors="pt", **options).input_ids
        return found.to(self.encoder.device)

    @torch.no_grad()
    def __call__(self, captions: list[str], dtype: torch.dtype = torch.float32) -> Tensor:
        """``(n, context, width)``, on the encoder's device."""
        parts = [captions[start : start + READ_AT_ONCE] for start in range(0, len(captions), READ_AT_ONCE)]
        return torch.cat([self.encoder(self.tokens(part))[0].to(dtype) for part in parts])


def teacher_texts(teacher: TeacherModel) -> Texts:
    """Texts as the teacher's text tower reads them.

    Raises:
        ModelError: the text tower or its tokenizer has no counterpart in transformers' CLIP.
    """
    try:
        tokenizer = _tokenizer(teacher)
        texts = Texts(_convert(teacher, tokenizer).to(teacher.device), tokenizer)
        alike = _agreement(teacher, texts)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise _refused(teacher, f"{type(error).__name__}: {error}") from error
    if alike < SAME_FEATURES:
        raise _refused(teacher, f"converted, its features agree with a cosine of {alike:.3f} only")
    return texts


def _tokenizer(teacher: TeacherModel) -> CLIPTokenizer:
    context = len(teacher.text_tower.get_parameter("positional_embedding"))
    if teacher.tokenizer_folder is not None:
        return CLIPTokenizer.from_pretrained(teacher.tokenizer_folder, model_max_length=context)
    plain = teacher.tokenizer
    if not isinstance(plain, SimpleTokenizer):
        raise ValueError("its tokenizer is neither CLIP's nor in its directory")
    special = {"<|startoftext|>": plain.sot_token_id, "<|endoftext|>": plain.eot_token_id}
    words = {word: number for word, number in plain.encoder.items() if number not in special.values()}
    return CLIPTokenizer(vocab=words | special, merges=list(plain.bpe_ranks), model_max_length=context)


def _convert(teacher: TeacherModel, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    tower: Any = teacher.text_tower
    blocks = tower.transformer.resblocks
    context, width = tower.positional_embedding.shape
    config = CLIPTextConfig(
        vocab_size=len(tower.token_embedding.weight),
        hidden_size=width,
        intermediate_size=blocks[0].mlp.c_fc.out_features,
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        max_position_embeddings=context,
        hidden_act="gelu" if isinstance(blocks[0].mlp.gelu, nn.GELU) else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=width,
    )
    model = CLIPTextModel(config)
    inner = getattr(model, "text_model", model)
    with torch.no_grad():
        inner.embeddings.token_embedding.weight.copy_(tower.token_embedding.weight)
        inner.embeddings.position_embedding.weight.copy_(tower.positional_embedding)
        for theirs, ours in zip(blocks, inner.encoder.layers, strict=True):
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


@torch.no_grad()
def _agreement(teacher: TeacherModel, texts: Texts) -> float:
    """Smallest cosine between the features of some captions: what a conversion may miss (masks, pooling, tokens)."""
    projection: Any = teacher.text_tower.text_projection
    pooled = texts.encoder(texts.tokens(list(CHECKED))).pooler_output
    ours = projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection
    return float((F.normalize(ours.float(), dim=-1) * teacher.encode_text(list(CHECKED))).sum(-1).min())


def _refused(teacher: TeacherModel, reason: str) -> ModelError:
    return ModelError(
        "bad_architecture",
        f"the text tower of the teacher '{teacher.name}' cannot be the text encoder of a pipeline: {reason}",
        "choose a teacher with a CLIP text tower",
        "teacher.model",
    )
