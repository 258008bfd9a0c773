"""Checks an uploaded file; called in a process of its own, which alone loads pyarrow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any


def check_upload(source: Path, folder: Path) -> dict[str, Any]:
    """Write the dataset directory of an uploaded zip or parquet file; returns what ``dataset.json`` says.

    Raises:
        DatasetError: it cannot be used.
    """
    from distillation.datasets import import_dataset

    return asdict(import_dataset(source, folder))
