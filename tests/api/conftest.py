"""The API over real HTTP: uvicorn in a thread, one database per test module."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine

from api.app import create_app
from state.blobs import BlobStore
from state.migrate import upgrade
from state.settings import Settings
from tests.api.seeds import finish_job, recipe


@dataclass(frozen=True)
class Service:
    """A running API and what lies behind it."""

    http: httpx.Client
    engine: Engine
    blobs: BlobStore
    settings: Settings
    scratch: Path

    def submit(self, **changes: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/jobs", json={"recipe": recipe(**changes)})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def finish(self, job_id: str, *, onnx_export: bool = True) -> dict[str, Any]:
        finish_job(self.engine, self.blobs, job_id, self.scratch, onnx_export=onnx_export)
        return dict(self.http.get(f"/v1/jobs/{job_id}").json())


@contextmanager
def serve(settings: Settings, scratch: Path) -> Iterator[Service]:
    """The application of ``settings`` on a free port."""
    app = create_app(settings)
    upgrade(app.state.engine)
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield Service(http, app.state.engine, app.state.blobs, settings, scratch)
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """On SQLite, in a folder of its own."""
    home = tmp_path_factory.mktemp("home")
    with serve(Settings(home=home), tmp_path_factory.mktemp("scratch")) as running:
        yield running


@pytest.fixture
def any_service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    """On SQLite and on PostgreSQL."""
    with serve(Settings(home=tmp_path / "home", database_url=database_url), tmp_path / "scratch") as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services with settings of the test's own."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        count = iter(range(10))

        def start_one(**settings: Any) -> Service:
            home = tmp_path / f"home{next(count)}"
            return stack.enter_context(serve(Settings(home=home, **settings), tmp_path / "scratch"))

        yield start_one
