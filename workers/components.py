"""Processes that the embedded service consists of: start, watch, stop."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from workers import launch

TAIL_LINES = 15
YOUNG_SECONDS = 10.0
MAX_EARLY_DEATHS = 3


@dataclass
class Component:
    """One process; its output goes to a log file. It is asked to end when the process that started it dies."""

    name: str
    program: list[str]
    environment: dict[str, str]
    cwd: Path
    log_file: Path
    process: subprocess.Popen[bytes] | None = None
    _started: float = 0.0
    _early_deaths: int = field(default=0)

    def start(self) -> None:
        """Start it; call from the main thread only, since the kernel watches the thread that started it."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                launch.command(self.program),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                cwd=self.cwd,
                start_new_session=True,  # Ctrl-C comes to us alone, who stop things in order
            )
        self._started = time.monotonic()

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def revive(self) -> bool:
        """Start it again after it died; False if it keeps dying at once."""
        self._early_deaths = self._early_deaths + 1 if time.monotonic() - self._started < YOUNG_SECONDS else 0
        if self._early_deaths >= MAX_EARLY_DEATHS:
            return False
        self.start()
        return True

    def terminate(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for its end, then kill it."""
        if self.process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.process.kill()
        self.process.wait()

    def log_tail(self) -> str:
        """The last lines it wrote."""
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])
