"""What a stage's process runs. Importing this module imports what the stages need, once for all of them."""

from __future__ import annotations

import os

# diffusers asks for a GPU when it is imported. CUDA itself, once asked, cannot be used in processes forked later; the
# driver's management library can be asked instead. Before any import of torch.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import atexit
import gc
import importlib

from distillation.plan import STAGES
from distillation.stage_main import main

__all__ = ["main"]

# A sixth of the imports' time would be the collector's, which finds nothing to free in them.
gc.disable()
for stage in STAGES:
    importlib.import_module(f"distillation.stages.{stage}")
# What is imported stays: no stage's garbage collection looks through it again, or copies its pages by touching them.
gc.collect()
gc.freeze()
gc.enable()
atexit.register(gc.unfreeze)  # else triton takes what is never collected for leaks, and lists them
