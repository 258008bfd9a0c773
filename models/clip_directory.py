"""An open_clip model as a directory: the format that ``open_clip.create_model('local-dir:PATH')`` reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def save_clip_directory(
    model: nn.Module,
    folder: Path,
    *,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    tokenizer_folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write config, safetensors and, for a Hugging Face tokenizer, its files.

    Args:
        model: an open_clip ``CustomTextCLIP``; ``model_cfg`` must say ``custom_text: true`` for it to load again.
        dtype: floating-point type on disk; open_clip casts back to fp32 on load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if tokenizer_folder is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, folder / name)
