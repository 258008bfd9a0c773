"""Zero-shot probabilities and the exported tower, against open_clip."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from torch.nn import functional as F

from models.zero_shot import ImageEmbedder, zero_shot_probabilities


def test_probabilities_are_open_clips_logits_after_softmax(teacher_folder: Path) -> None:
    clip = open_clip.create_model(f"local-dir:{teacher_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{teacher_folder}")(["a cat", "a dog", "a house"])
    pixels = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        logits, _ = clip.get_logits(pixels, tokens)
        head = F.normalize(clip.encode_text(tokens), dim=-1).T
        features = ImageEmbedder(clip.visual)(pixels)
        found = zero_shot_probabilities(features, head, clip.logit_scale.exp().item())
    assert torch.allclose(features.norm(dim=-1), torch.ones(4))
    assert (found - logits.softmax(-1)).abs().max() < 1e-6
    # SigLIP's bias moves every class alike: it changes no probability.
    assert (found - (logits - 10).softmax(-1)).abs().max() < 1e-6
