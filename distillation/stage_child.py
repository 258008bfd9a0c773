"""What a stage's process runs. Importing this module imports what the stages need, once for all of them."""

from __future__ import annotations

import os

# diffusers asks for a GPU when it is imported. CUDA itself, once asked, cannot be used in processes forked later; the
# driver's management library can be asked instead. Before any import of torch.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import gc
import importlib
import json
from pathlib import Path

from distillation import distributed
from distillation.plan import STAGES
from distillation.protocol import Reporter, stop_on_sigterm
from distillation.runner import DONE, run_child

for stage in STAGES:
    importlib.import_module(f"distillation.stages.{stage}")
# What is imported stays: no stage's garbage collection looks through it again, or copies its pages by touching them.
gc.collect()
gc.freeze()


def main(request_file: Path) -> int:
    """Run the stage that the request names; JSON lines on standard output, exit status returned.

    Where several GPUs are seen, a stage that trains is run by a process for each, and this one only watches them.
    """
    asked = json.loads(request_file.read_text(encoding="utf-8"))
    batch_size = asked["recipe"].get("training", {}).get("batch_size", 1)
    if (processes := distributed.processes_for(asked["stage"], batch_size)) > 1:
        return distributed.start(request_file, processes)
    distributed.join()
    report = Reporter(leads=distributed.rank() == 0)
    stop_on_sigterm(report)
    status = run_child(request_file, report)
    if status == DONE:  # else the others may wait for this process: it leaves by its end
        distributed.leave()
    return status
