"""What a stage's process runs. Importing this module imports what the stages need, once for all of them."""

from __future__ import annotations

from pathlib import Path

from distillation.protocol import Reporter, stop_on_sigterm
from distillation.runner import run_child
from distillation.stages import agnostic, distil, evaluate, export, generate, prompts

PRELOADED = (prompts, generate, agnostic, distil, evaluate, export)


def main(request_file: Path) -> int:
    """Run the stage that the request names; JSON lines on standard output, exit status returned."""
    report = Reporter()
    stop_on_sigterm(report)
    return run_child(request_file, report)
