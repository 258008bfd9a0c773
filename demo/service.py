"""The embedded service, started for the demo and stopped after it, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from state.settings import environment
from workers import launch

START_SECONDS = 120.0
STOP_SECONDS = 60.0
"""More than the service grants its worker to save what it does."""
TAIL_LINES = 40


class ServiceError(Exception):
    """The service did not start."""


@contextmanager
def embedded_service(home: Path, log: Path) -> Iterator[str]:
    """Run `python -m workers.embedded` on a free port; yields its URL.

    Raises:
        ServiceError: it ended at once, or was not ready in time.
    """
    ready = home / "ready"
    # The demo's own service: what the user has set for theirs must not leak in.
    settings = environment(
        home=str(home.absolute()), port="0", database_url="", broker_url="", blobs_url="", api_key="", host="127.0.0.1"
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            # Should the demo be killed outright, the kernel (Linux) asks the service to end.
            launch.command([sys.executable, "-m", "workers.embedded", "--ready-file", str(ready)]),
            env=settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops the service in order
        )
    try:
        yield _await_url(process, ready)
    finally:
        _stop(process)


def _await_url(process: subprocess.Popen[bytes], ready: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if ready.exists() and (url := ready.read_text(encoding="utf-8").strip()):
            return url
        time.sleep(0.1)
    if process.poll() is not None:
        raise ServiceError(f"the service ended at once, with exit code {process.returncode}")
    raise ServiceError(f"the service was not ready after {START_SECONDS:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask as Ctrl-C would, then insist."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()  # its parts are told by the kernel that it is gone
    process.wait()


def log_tails(home: Path, log: Path) -> str:
    """The ends of the service's logs, for when something failed."""
    parts = []
    for path in (log, *sorted((home / "logs").glob("*.log"))):
        if path.exists() and (text := path.read_text(encoding="utf-8", errors="replace").rstrip()):
            parts.append(f"The end of {path}:\n" + "\n".join(text.splitlines()[-TAIL_LINES:]))
    return "\n\n".join(parts)
