"""The encoder as an open_clip directory: the student's image tower beside the teacher's text tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from distillation.protocol import StageError
from models.clip_directory import save_clip_directory
from models.teachers import TeacherModel

TOLERANCE = 1e-4
PROBE = "a photo of a thing"


def write_open_clip_directory(
    folder: Path,
    student: nn.Module,
    teacher: TeacherModel,
    *,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
) -> None:
    """Write config, weights and tokenizer files.

    Args:
        student: the image tower, an open_clip ``TimmModel``.
        model_cfg: the student's vision tower and the teacher's everything else; ``custom_text`` is set, because only
            ``CustomTextCLIP`` keeps the text tower under ``text.``, as the loaded teacher does.
    """
    clip = nn.Module()
    clip.visual = student
    clip.text = teacher.text_tower
    clip.logit_scale = teacher.model.logit_scale
    if getattr(teacher.model, "logit_bias", None) is not None:
        clip.logit_bias = teacher.model.logit_bias
    save_clip_directory(
        clip,
        folder,
        model_cfg={**model_cfg, "custom_text": True},
        preprocess_cfg=preprocess_cfg,
        tokenizer_folder=teacher.tokenizer_folder,
    )


@torch.inference_mode()
def check_open_clip_directory(folder: Path, pixels: Tensor, embeddings: Tensor, teacher: TeacherModel) -> float:
    """Load the directory in plain open_clip and compare it with the models in memory.

    Args:
        pixels: normalised images ``(n, 3, size, size)``; ``embeddings``: the student's features of them ``(n, d)``.

    Returns:
        The largest absolute difference of image and text features.

    Raises:
        StageError: above 1e-4.
    """
    name = f"local-dir:{folder}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    model.eval()
    tokens = open_clip.get_tokenizer(name)([PROBE])
    image = (model.encode_image(pixels, normalize=True) - embeddings).abs().max()
    text = (model.encode_text(tokens, normalize=True) - teacher.encode_text([PROBE]).cpu()).abs().max()
    worst = max(float(image), float(text))
    if not worst <= TOLERANCE:
        raise StageError("internal", f"the encoder loaded by open_clip differs from the student by {worst:.2g}")
    return worst
