"""A stage's child process: its start, its lines, its end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from workers import launch

STDERR_LINES = 40
LINE_CHARACTERS = 2000


class Child:
    """A running stage. Two threads empty its pipes, so that it never waits for its supervisor."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """Start ``command`` in a process group of its own, so that Ctrl-C and a worker's end leave it to us.

        Args:
            folder: its working folder, which gets the lock file and the log of its standard error.
        """
        self._process = subprocess.Popen(
            launch.command(list(command), signal_number=signal.SIGKILL, lock_file=str(folder / "lock")),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        assert self._process.stdout and self._process.stderr
        self._readers = [
            threading.Thread(target=self._read_stdout, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(self._process.stderr, folder / "stderr.log"), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr_tail(self) -> list[str]:
        """The last lines of its standard error."""
        return list(self._stderr)

    def line(self, timeout: float) -> str | None:
        """The next line of its standard output, or None if none comes in time (seconds)."""
        with suppress(queue.Empty):
            return self._lines.get(timeout=timeout)
        return None

    def remaining_lines(self) -> Iterator[str]:
        """What it had written when it ended."""
        for reader in self._readers:
            reader.join(2)  # a grandchild may hold the pipe open for ever
        while not self._lines.empty():
            yield self._lines.get()

    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def stop(self, grace_seconds: float) -> None:
        """Let it save its work: SIGTERM, then SIGKILL after the grace."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_seconds)

    def close(self) -> None:
        """End it and everything it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read_stdout(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))

    def _read_stderr(self, stream: IO[str], copy: Path) -> None:
        with copy.open("a", encoding="utf-8") as file:
            for line in stream:
                self._stderr.append(line.rstrip("\n")[:LINE_CHARACTERS])
                with suppress(OSError):  # a full disk must not stop the reading
                    file.write(line)
                    file.flush()
