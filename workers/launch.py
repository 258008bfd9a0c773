"""Becomes another program: ``launch.py PARENT_PID COMMAND...``. Standard library only.

A guard is set before the command takes over, and stays with it: it gets SIGTERM when its parent ends (Linux). It is
set here and not by ``preexec_fn``, which is unsafe where there are threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def command(program: list[str]) -> list[str]:
    """The command line that starts ``program`` behind the guard, for the process that calls this."""
    return [
        sys.executable,
        "-I",
        str(Path(__file__).resolve()),
        str(os.getpid()),
        *program,
    ]


def main(parent: int, program: list[str]) -> NoReturn:
    """Set the guard and become ``program``."""
    die_with(parent)
    os.execvp(program[0], program)


def die_with(parent: int) -> None:
    """Ask the kernel to send this process SIGTERM when its parent ends; elsewhere than on Linux, nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the request
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
