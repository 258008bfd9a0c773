"""A stage's process: its start, its lines, its end. Torch-free; the process itself is not.

Python's forkserver keeps one process that has imported torch, open_clip and diffusers once, ten seconds of work on a
small machine, and forks every stage from it. A stage's memory and its CUDA context still go when it ends, and a crash
harms nobody else.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

STDERR_LINES = 40
LINE_CHARACTERS = 2000
LOCK_SECONDS = 30
POLL_SECONDS = 0.2
ENTRY = "distillation.stage_child:main"
"""``module:function`` that is called with the request file in the new process and returns its exit status."""

_context = multiprocessing.get_context("forkserver")


def warm_up(entry: str = ENTRY) -> None:
    """Start the process that imports ``entry``'s module, so that the first stage need not wait for it."""
    _context.set_forkserver_preload([entry.partition(":")[0]])
    multiprocessing.forkserver.ensure_running()


class StageProcess:
    """A running stage. Two threads empty its pipes, so that it never waits for its supervisor."""

    def __init__(self, request_file: Path, entry: str = ENTRY) -> None:
        """Start a process group of its own, so that Ctrl-C and a worker's end leave it to us.

        Args:
            request_file: in its working folder, which also gets the lock file and the log of its standard error.
        """
        warm_up(entry)
        stdout, its_stdout = _context.Pipe(duplex=False)
        stderr, its_stderr = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_become, args=(entry, request_file, its_stdout, its_stderr))
        self._process.start()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        log = request_file.with_name("stderr.log")
        self._readers = [
            threading.Thread(target=self._read_stdout, args=(stdout,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(stderr, log), daemon=True),
        ]
        for its_end, reader in zip((its_stdout, its_stderr), self._readers, strict=True):
            its_end.close()
            reader.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stderr_tail(self) -> list[str]:
        """The last lines of its standard error."""
        return list(self._stderr)

    def line(self, timeout: float = POLL_SECONDS) -> str | None:
        """The next line of its standard output, or None if it has ended or none comes in time (seconds)."""
        with suppress(queue.Empty):
            return self._lines.get(timeout=timeout)
        return None

    def remaining_lines(self) -> Iterator[str]:
        """What it had written when it ended."""
        for reader in self._readers:
            reader.join(2)  # a grandchild may hold the pipe open for ever
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                yield line

    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.exitcode

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and time to save its work; `close` ends it if that was not enough."""
        self._process.terminate()
        self._process.join(grace_seconds)

    def close(self) -> None:
        """End it and everything it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # it may not have its own group yet
        self._process.join()

    def _read_stdout(self, stream: Connection) -> None:
        with stream, open(stream.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        wait([self._process.sentinel])
        self._lines.put(None)  # whoever waits for a line learns at once that it has ended

    def _read_stderr(self, stream: Connection, log: Path) -> None:
        with (
            stream,
            open(stream.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines,
            log.open("a", encoding="utf-8") as copy,
        ):
            for line in lines:
                self._stderr.append(line.rstrip("\n")[:LINE_CHARACTERS])
                with suppress(OSError):  # a full disk must not stop the reading
                    copy.write(line)
                    copy.flush()


def _become(entry: str, request_file: Path, stdout: Connection, stderr: Connection) -> None:
    """The new process: a group, two pipes, a locked folder, then ``entry``."""
    os.setsid()
    for stream, number in ((stdout, 1), (stderr, 2)):
        os.dup2(stream.fileno(), number)
        stream.close()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not hold(request_file.with_name("lock")):
        message = f"another process still works in {request_file.parent}"
        hint = "End the left-over process on this worker's machine, then retry."
        print(json.dumps({"event": "error", "code": "internal", "message": message, "hint": hint}), flush=True)
        sys.exit(1)
    module, _, function = entry.partition(":")
    sys.exit(getattr(importlib.import_module(module), function)(request_file))


def _end_with_parent() -> None:
    """A worker that is killed takes its stage with it: nobody would read its lines or store its work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(os.getpgid(0), signal.SIGKILL)


def hold(lock_file: Path) -> bool:
    """Lock a file until this process ends, so that no attempt writes beside one that outlived its worker.

    Returns:
        False if another process keeps it.
    """
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(lock, True)  # what this process starts may write there too
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
