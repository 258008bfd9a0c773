"""What a stage's process runs. Importing this module imports what the stages need, once for all of them."""

from __future__ import annotations

import os

# diffusers asks for a GPU when it is imported. CUDA itself, once asked, cannot be used in processes forked later; the
# driver's management library can be asked instead. Before any import of torch.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import importlib
from pathlib import Path

from distillation.plan import STAGES
from distillation.protocol import Reporter, stop_on_sigterm
from distillation.runner import run_child

for stage in STAGES:
    importlib.import_module(f"distillation.stages.{stage}")


def main(request_file: Path) -> int:
    """Run the stage that the request names; JSON lines on standard output, exit status returned."""
    report = Reporter()
    stop_on_sigterm(report)
    return run_child(request_file, report)
