"""The faulty service, and the command run within the test's process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from stillroom.cli import app
from stillroom.client import Stillroom
from typer.testing import CliRunner, Result

from state.settings import Settings
from tests.api.conftest import Service
from tests.api.conftest import serve as serve_api
from tests.client.faulty import Faults, event, make_app
from tests.client.servers import serve

Run = Callable[..., Result]


@pytest.fixture
def faults() -> Faults:
    """Three events, of which the last says that the job has succeeded."""
    return Faults(events=[event(1), event(2, level="warning"), event(3, "status", status="succeeded")])


@pytest.fixture
def url(faults: Faults) -> Iterator[str]:
    logging.getLogger("uvicorn.error").disabled = True  # cut connections are meant
    with serve(make_app(faults)) as found:
        yield found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The real API; a module that wants the command to talk to it has a ``url`` of its own."""
    with serve_api(Settings(home=tmp_path_factory.mktemp("home")), tmp_path_factory.mktemp("scratch")) as running:
        yield running


@pytest.fixture(scope="module")
def service(real: Service) -> Iterator[Stillroom]:
    with Stillroom(str(real.http.base_url)) as connected:
        yield connected


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(url, "jobs", "--json")` runs the command; stdout and stderr are kept apart."""
    for name in ("STILLROOM_URL", "STILLROOM_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run_command(url: str, *arguments: Any) -> Result:
        return CliRunner().invoke(app, ["--url", url, *map(str, arguments)])

    return run_command
