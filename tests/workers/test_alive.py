"""Signs of life of real workers and janitors, and the health check that reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from state.database import make_engine
from state.settings import Settings
from tests.workers.conftest import House, wait_until
from tests.workers.processes import ROOT, environment_of, janitor_process, worker
from workers import janitor
from workers.celery_app import make_app


def health(settings: Settings) -> subprocess.CompletedProcess[str]:
    """What Compose's health check says."""
    command = [sys.executable, "-m", "workers.alive"]
    return subprocess.run(command, cwd=ROOT, env=environment_of(settings), capture_output=True, text=True)


@pytest.mark.parametrize("start", [worker, janitor_process])
def test_it_is_healthy_while_it_works(
    start: Callable[..., object], house_of: Callable[..., House], sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "alive"
    settings = house_of(make_engine(sqlite_url), broker_url=redis_url, alive_file=file).settings
    assert health(settings).returncode == 1, "it has not begun"
    with start(settings):  # type: ignore[attr-defined]
        wait_until(file.exists)
        os.utime(file, (0, 0))
        wait_until(lambda: file.stat().st_mtime)
        assert health(settings).returncode == 0
    os.utime(file, (0, 0))
    silent = health(settings)
    assert silent.returncode == 1 and "old" in silent.stderr


def test_a_janitor_that_cannot_work_gives_no_sign(
    house_of: Callable[..., House], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without_tables = make_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    house = house_of(without_tables, alive_file=tmp_path / "alive")
    stop = threading.Event()
    celery = make_app(house.settings)
    work = (house.engine, celery, house.blobs, house.settings, stop)
    thread = threading.Thread(target=janitor.run, args=work)
    thread.start()
    wait_until(lambda: caplog.text.count("round failed") > 1)
    stop.set()
    thread.join()
    celery.close()
    assert not (tmp_path / "alive").exists()


def test_a_check_without_a_file_says_so(house_of: Callable[..., House], sqlite_url: str) -> None:
    unset = health(house_of(make_engine(sqlite_url)).settings)
    assert unset.returncode == 1 and "STILLROOM_ALIVE_FILE" in unset.stderr
