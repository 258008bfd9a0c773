"""Becomes another program: ``launch.py PARENT_PID SIGNAL LOCK_FILE|- COMMAND...``. Standard library only.

Two guards are set before the command takes over, and stay with it: it gets a signal when its parent ends (Linux),
and it may hold a lock on its working folder, so that a new attempt at a stage never writes beside an old process
that outlived its worker. Both are set here and not by ``preexec_fn``, which is unsafe where there are threads.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1
LOCK_SECONDS = 30


def command(program: list[str], *, signal_number: int, lock_file: str = "-") -> list[str]:
    """The command line that starts ``program`` behind the guards, for the process that calls this."""
    return [
        sys.executable,
        "-I",
        str(Path(__file__).resolve()),
        str(os.getpid()),
        str(signal_number),
        lock_file,
        *program,
    ]


def main(parent: int, signal_number: int, lock_file: str, program: list[str]) -> NoReturn:
    """Set the guards and become ``program``; ends with an error event if the folder stays locked."""
    die_with(parent, signal_number)
    if lock_file != "-" and not hold(lock_file):
        message = f"another process still works in {Path(lock_file).parent}"
        hint = "End the left-over process on this worker's machine, then retry."
        print(json.dumps({"event": "error", "code": "internal", "message": message, "hint": hint}), flush=True)
        sys.exit(1)
    os.execvp(program[0], program)


def hold(lock_file: str) -> bool:
    """Lock a file until the program ends; False if another process keeps it."""
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(lock, True)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)


def die_with(parent: int, signal_number: int) -> None:
    """Ask the kernel to send this process a signal when its parent ends; elsewhere than on Linux, nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the request
            os.kill(os.getpid(), signal_number)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
