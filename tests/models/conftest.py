"""Fixtures of the neural networks' tests: tiny models in the hubs' own formats."""

from __future__ import annotations

from tests.models_fixtures import (
    own_open_clip_models,
    sd_folder,
    sdxl_folder,
    teacher_folder,
    tokenizer_folder,
    vit_teacher_folder,
)

__all__ = [
    "own_open_clip_models",
    "sd_folder",
    "sdxl_folder",
    "teacher_folder",
    "tokenizer_folder",
    "vit_teacher_folder",
]
