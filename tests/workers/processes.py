"""Real worker and janitor processes for the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from state.settings import Settings, environment

ROOT = Path(__file__).resolve().parents[2]


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment that gives a process these settings."""
    values = settings.model_dump(mode="json", exclude_none=True)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return environment(**texts)


@contextmanager
def worker(settings: Settings, name: str = "w") -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker on all queues, started as the documentation says."""
    queues = "generate,distil,evaluate,export"
    options = ["--pool", "threads", "--concurrency", "1", "-Q", queues, "-n", f"{name}@%h", "-l", "INFO"]
    program = [sys.executable, "-m", "celery", "-A", "workers.celery_app", "worker", *options]
    with process([*program, "--without-gossip", "--without-mingle"], settings, f"worker-{name}") as started:
        yield started


@contextmanager
def janitor_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    with process([sys.executable, "-m", "workers.janitor"], settings, "janitor") as started:
        yield started


@contextmanager
def process(program: list[str], settings: Settings, name: str) -> Iterator[subprocess.Popen[bytes]]:
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(program, cwd=ROOT, env=environment_of(settings), stdout=log, stderr=log)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
        try:
            started.wait(60)
        finally:
            started.kill()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
