"""Runs the stage that a request names, in this process or, where it trains on several GPUs, in one for each."""

from __future__ import annotations

import json
from pathlib import Path

from distillation.plan import ON_EVERY_GPU
from distillation.protocol import Reporter, stop_on_sigterm
from distillation.runner import DONE, run_child


def main(request_file: Path) -> int:
    """JSON lines on standard output, exit status returned.

    Where several GPUs are seen, a stage that trains is run by a process for each, and this one only watches them.
    """
    asked = json.loads(request_file.read_text(encoding="utf-8"))
    if asked["stage"] not in ON_EVERY_GPU:
        report = Reporter()
        stop_on_sigterm(report)
        return run_child(request_file, report)
    from distillation import distributed  # with torch, which not every stage needs

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
