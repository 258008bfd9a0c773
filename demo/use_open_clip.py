"""Use a downloaded encoder with plain open_clip: python demo/use_open_clip.py ENCODER IMAGE...

Each class is the mean of its prompts' text features: every template with the name and every synonym.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps


def run(encoder: Path, images: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """Embeddings (n, D), zero-shot probabilities (n, classes) and the names of the classes."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{encoder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{encoder}")
    domain = json.loads((encoder / "labels.json").read_text(encoding="utf-8"))
    with torch.inference_mode():
        means = [model.encode_text(tokenizer(prompts), normalize=True).mean(0) for prompts in domain["prompts"]]
        head = F.normalize(torch.stack(means), dim=-1).t()
        photos = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in images]
        features = model.encode_image(torch.stack([preprocess(photo) for photo in photos]), normalize=True)
        probabilities = (model.logit_scale.exp() * features @ head).softmax(-1)
    return features.numpy(), probabilities.numpy(), domain["labels"]


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[2:]]
    _, probabilities, names = run(Path(sys.argv[1]), paths)
    for path, row in zip(paths, probabilities, strict=True):
        print(f"{path.name}: {names[int(row.argmax())]} ({row.max():.1%})")
