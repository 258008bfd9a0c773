"""The student that the distil stage left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from models.students import build_student


def read_student(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The image tower in eval mode, and ``student.json``."""
    described: dict[str, Any] = json.loads((folder / "student.json").read_text(encoding="utf-8"))
    student = build_student(described["model_cfg"])
    student.load_state_dict(load_file(folder / "student.safetensors"))
    return student.eval(), described
