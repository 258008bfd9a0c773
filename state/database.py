"""Engines and sessions, the same for SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from state.settings import get_settings

BUSY_TIMEOUT_MS = 30_000


def make_engine(url: str) -> Engine:
    """An engine for a SQLite or PostgreSQL URL.

    On SQLite every transaction begins with ``BEGIN IMMEDIATE`` unless its connection has the execution option
    ``read_only``: a deferred transaction that reads and then writes fails at once with SQLITE_BUSY_SNAPSHOT when
    another writer came between, whatever the timeout.
    """
    target = make_url(url)
    if target.drivername in ("postgres", "postgresql"):
        target = target.set(drivername="postgresql+psycopg")
    if target.get_backend_name() != "sqlite":
        return create_engine(target, pool_pre_ping=True, json_serializer=_to_json)
    if target.database:
        Path(target.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(target, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, json_serializer=_to_json)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def storable(value: Any) -> Any:
    """JSON, or a text, without what no database holds: NUL, and the lone surrogates of file names that are no UTF-8."""
    match value:
        case str():
            return value.replace("\0", "").encode("utf-8", "replace").decode()
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
    return value


def _to_json(value: Any) -> str:
    return json.dumps(storable(value))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin transactions by itself, deferred
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL: safe against a crash of any process
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@lru_cache(maxsize=1)
def default_engine() -> Engine:
    """The engine of ``Settings.database_url``, one per process."""
    return make_engine(get_settings().database_url)


@contextmanager
def session_scope(engine: Engine | None = None) -> Iterator[Session]:
    """A session that may write: committed at the end, rolled back on an exception. Keep it short."""
    with Session(engine or default_engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read_scope(engine: Engine | None = None) -> Iterator[Session]:
    """A session that only reads: on SQLite it neither waits for a writer nor holds one up."""
    bound = (engine or default_engine()).execution_options(read_only=True)
    with Session(bound, expire_on_commit=False) as session, session.begin():
        yield session


def database_now(session: Session) -> datetime:
    """The database's clock: leases must not depend on how well the workers' clocks agree."""
    if session.get_bind().dialect.name == "sqlite":  # a local file: one machine, one clock
        return datetime.now(UTC)
    now = session.scalar(select(func.clock_timestamp()))
    assert isinstance(now, datetime)
    return now.astimezone(UTC)
