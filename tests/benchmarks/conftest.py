"""Fixtures of the benchmarks' tests: tiny models in the hubs' own formats."""

from __future__ import annotations

from tests.models_fixtures import vit_teacher_folder

__all__ = ["vit_teacher_folder"]
