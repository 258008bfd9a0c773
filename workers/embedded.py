"""The whole service on one machine, nothing to install or configure: ``python -m workers.embedded``.

SQLite, a private Redis, the API, one worker and the janitor; Ctrl-C stops them all. The same code as with
PostgreSQL, Redis and many workers: only the settings differ, and any of them may be set here too.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from distillation.protocol import write_atomically
from state.blobs import BlobStore
from state.database import make_engine
from state.migrate import upgrade
from state.settings import Settings, environment, get_settings
from workers import janitor, private_redis
from workers.celery_app import QUEUE_NAMES, make_app
from workers.components import Component

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
POLL_SECONDS = 0.05
WATCH_SECONDS = 0.5
GRACE_OVER_STAGE = 10.0
"""Seconds a worker gets beyond its stage's own grace."""


class CannotStart(Exception):
    """The service cannot run here; the message says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.embedded", description=__doc__.splitlines()[0])
    parser.add_argument("--ready-file", type=Path, help="file that gets the service's URL once it is ready")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(get_settings(), stop, arguments.ready_file)
    except CannotStart as problem:
        print(f"stillroom: {problem}", file=sys.stderr)
        return 1
    return 0


def serve(settings: Settings, stop: threading.Event, ready_file: Path | None) -> None:
    """Run the service until ``stop`` is set.

    Raises:
        CannotStart: a part of it does not come up, or keeps dying.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with _only_one(settings.home):
        settings.port = settings.port or _free_port(settings.host)
        _check_port(settings)
        components: list[Component] = []
        cleaner: threading.Thread | None = None
        try:
            _start_broker(settings, components, stop)
            engine = make_engine(settings.database_url)
            upgrade(engine)
            components += [_api(settings), _worker(settings)]
            for component in components[-2:]:
                component.start()
            url = f"http://{_reachable(settings.host)}:{settings.port}"
            _wait_for(lambda: _answers(f"{url}/livez"), components[-2], stop)
            work = (engine, make_app(settings), BlobStore(settings.blobs_url), settings, stop)
            cleaner = threading.Thread(target=janitor.run, args=work, name="janitor")
            cleaner.start()
            if not stop.is_set():
                print(
                    f"Stillroom is ready at {url} (API: {url}/docs, files: {settings.home}); Ctrl-C stops", flush=True
                )
                if ready_file is not None:
                    ready_file.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(ready_file, url + "\n")  # whoever waits for it reads it at once
            _watch(components, stop)
        finally:
            stop.set()
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
            _stop_all(components, settings.grace_seconds + GRACE_OVER_STAGE)
            if cleaner is not None:
                cleaner.join()


def _start_broker(settings: Settings, components: list[Component], stop: threading.Event) -> None:
    if settings.broker_url != Settings(home=settings.home, broker_url="").broker_url:
        return  # the user's own broker
    binary = private_redis.find_redis()
    if binary is None:
        print("stillroom: no redis-server found, messages go through files (slower, just as safe)", file=sys.stderr)
        return
    path = private_redis.socket_path(settings.home)
    data = settings.home / "redis"
    data.mkdir(exist_ok=True)
    broker = _component(settings, "redis", private_redis.redis_command(binary, path, data))
    components.append(broker)
    broker.start()
    _wait_for(lambda: private_redis.answers(path), broker, stop)
    settings.broker_url = f"redis+socket://{path}"


def _api(settings: Settings) -> Component:
    address = ["--host", settings.host, "--port", str(settings.port)]
    # Event streams stay open for ever: without a limit, uvicorn would wait for them.
    quiet = ["--timeout-graceful-shutdown", "3", "--log-level", "warning"]
    return _component(
        settings, "api", [sys.executable, "-m", "uvicorn", "api.app:create_app", "--factory", *address, *quiet]
    )


def _worker(settings: Settings) -> Component:
    alone = ["--without-gossip", "--without-mingle", "-n", f"embedded-{settings.port}@%h", "-l", "INFO"]
    pool = ["--pool", "threads", "--concurrency", "1", "-Q", ",".join(QUEUE_NAMES)]
    return _component(
        settings, "worker", [sys.executable, "-m", "celery", "-A", "workers.celery_app", "worker", *pool, *alone]
    )


def _component(settings: Settings, name: str, program: list[str]) -> Component:
    told = {name: str(getattr(settings, name)) for name in ("home", "database_url", "broker_url", "blobs_url", "port")}
    return Component(name, program, environment(**told), ROOT, settings.home / "logs" / f"{name}.log")


def _watch(components: list[Component], stop: threading.Event) -> None:
    while not stop.wait(WATCH_SECONDS):
        for component in components:
            if component.runs():
                continue
            print(f"stillroom: {component.name} ended unexpectedly, starting it again", file=sys.stderr)
            if not component.revive():
                raise CannotStart(f"{component.name} keeps dying. {component.log_file} ends:\n{component.log_tail()}")


def _stop_all(components: list[Component], grace_seconds: float) -> None:
    """Worker and API at once, then the broker, which they need until the end."""
    brokers = [component for component in components if component.name == "redis"]
    others = [component for component in components if component.name != "redis"]
    for group in (others, brokers):
        for component in group:
            component.terminate()
        for component in group:
            component.wait(grace_seconds)


def _wait_for(ready: Callable[[], bool], component: Component, stop: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not stop.is_set() and not ready():
        if not component.runs() or time.monotonic() > deadline:
            state = "did not answer in time" if component.runs() else "ended at once"
            raise CannotStart(f"{component.name} {state}. {component.log_file} ends:\n{component.log_tail()}")
        time.sleep(POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _only_one(home: Path) -> TextIO:
    """Hold the folder's lock as long as the returned file is open."""
    lock = (home / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CannotStart(
            f"another Stillroom runs in {home}; stop it, or set STILLROOM_HOME to another folder"
        ) from error
    return lock


def _check_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); set STILLROOM_PORT to another "
                "port (0: any free one)"
            ) from error


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


if __name__ == "__main__":
    sys.exit(main())
