"""Fixtures of the neural networks' tests: tiny models in the hubs' own formats."""

from __future__ import annotations

from tests.models_fixtures import sd_folder, sdxl_folder, teacher_folder, tokenizer_folder, vit_teacher_folder

__all__ = ["sd_folder", "sdxl_folder", "teacher_folder", "tokenizer_folder", "vit_teacher_folder"]
