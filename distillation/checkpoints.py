"""Checkpoints of a training: tensors as safetensors, the rest as JSON, never a pickle.

A checkpoint is a folder ``checkpoints/NNNNNN`` that appears by one rename, so a kill leaves the old ones whole.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FOLDER = "checkpoints"
KEPT = 2
TENSORS, VALUES = "state.safetensors", "state.json"


def save_checkpoint(out: Path, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> str:
    """Write a checkpoint, remove all but the newest ones, and return its path relative to ``out``."""
    name = f"{FOLDER}/{step:06d}"
    fresh = out / FOLDER / f".{step:06d}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, fresh / TENSORS)
    (fresh / VALUES).write_text(json.dumps(values), encoding="utf-8")
    for path in (fresh / TENSORS, fresh / VALUES, fresh):
        _sync(path)
    shutil.rmtree(out / name, ignore_errors=True)
    fresh.replace(out / name)
    for old in _newest_first(out)[KEPT:]:
        shutil.rmtree(old)
    return name


def load_newest(out: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and values of the newest checkpoint that can be read whole, or None."""
    for folder in _newest_first(out):
        try:
            return load_file(folder / TENSORS), json.loads((folder / VALUES).read_text(encoding="utf-8"))
        except (SafetensorError, OSError, json.JSONDecodeError):
            continue
    return None


def _newest_first(out: Path) -> list[Path]:
    folders = (path for path in (out / FOLDER).glob("[0-9]*") if path.is_dir())
    return sorted(folders, key=lambda path: int(path.name), reverse=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
