"""Fixtures shared by all tests: real servers, a fresh migrated database, a blob store, settings."""

from __future__ import annotations

import copy
import multiprocessing.forkserver
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import s3fs
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from distillation.stage_process import warm_up
from state.blobs import BlobStore
from state.database import make_engine
from state.migrate import upgrade
from tests.servers import postgres_server, redis_server, s3_server

LONG = ("benchmarks", "distillation", "workers")
"""Folders of long tests. They come first: with short ones at the end, no process of `make test` waits for another."""
NUMBERS = count()
S3_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
_forkserver = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
_preloaded: set[int] = set()
"""Process ids of the forkservers that have imported what the real stages need."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of this test session: the URL of its maintenance database."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server of this test session, as a Celery broker URL."""
    with redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An S3 server of this test session."""
    with s3_server() as address:
        yield address


@pytest.fixture
def s3_url(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty blob store in a bucket, with the environment that an operator would set."""
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    bucket = f"bucket-{next(NUMBERS)}"
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir(bucket)
    yield f"s3://{bucket}/blobs"
    files.rm(bucket, recursive=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> str:
    """The name of a migrated database that tests copy."""
    _execute(postgres_url, "CREATE DATABASE migrated")
    engine = make_engine(_database(postgres_url, "migrated"))
    upgrade(engine)
    engine.dispose()
    return "migrated"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that tests copy."""
    path = tmp_path_factory.mktemp("template") / "migrated.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def preloaded_stages() -> None:
    """Real stages start as in a worker: with all imports done. Another test's entry may have started the forkserver,
    which imports nothing later on: then each stage would spend ten seconds on it."""
    if _forkserver._forkserver_pid not in _preloaded:
        _forkserver._stop()
        warm_up()
        _preloaded.add(_forkserver._forkserver_pid)


@pytest.fixture
def own_open_clip_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that the test makes known to open_clip are forgotten after it."""
    from open_clip import factory  # with torch, which most tests do without

    for known in ("_MODEL_CONFIGS", "_MODEL_CONFIG_PATHS"):
        monkeypatch.setattr(factory, known, copy.copy(getattr(factory, known)))


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database; parametrise indirectly with ``sqlite`` or ``postgresql``."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    yield from _postgres_database(request.getfixturevalue("postgres_url"), "template1")


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a fresh, migrated SQLite database."""
    path = tmp_path / "stillroom.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a fresh, migrated database: the test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server = request.getfixturevalue("postgres_url")
    yield from _postgres_database(server, request.getfixturevalue("postgres_template"))


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """An engine on ``database_url``."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    """An empty blob store in a folder."""
    return BlobStore(str(tmp_path / "blobs"))


def _postgres_database(server: str, template: str) -> Iterator[str]:
    name = f"test_{next(NUMBERS)}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _database(server, name)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
