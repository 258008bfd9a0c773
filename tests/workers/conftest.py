"""A small service for the tests of the workers: real database, real blobs, the tests' own child program."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from state.blobs import BlobStore
from state.database import read_scope, session_scope
from state.jobs import get_job, job_tasks
from state.settings import Settings
from state.tables import Event, Job, Task
from tests.state.examples import RECIPE, new_job, stage_tasks
from workers.celery_app import make_app
from workers.janitor import run as run_janitor
from workers.supervisor import Outcome, run_task

ENTRY = "tests.workers.child:main"


@dataclass
class House:
    """The parts of a service, and short ways to look at its jobs."""

    engine: Engine
    settings: Settings
    blobs: BlobStore
    shutdown: threading.Event = field(default_factory=threading.Event)

    def submit(
        self,
        ways: str = "",
        images: str = "images",
        student: str = "student",
        shards: int = 2,
        dataset: str | None = None,
    ) -> str:
        """A job whose stages behave as ``ways`` says (see child.py); returns its id."""
        domain = RECIPE.domain.model_copy(update={"superclass": ways})
        with session_scope(self.engine) as session:
            evaluation = RECIPE.evaluation.model_copy(update={"dataset": dataset})
            recipe = RECIPE.model_copy(update={"domain": domain, "evaluation": evaluation})
            return new_job(session, stage_tasks(images, student, shards), recipe=recipe).id

    def job(self, job_id: str) -> Job:
        with read_scope(self.engine) as session:
            job = get_job(session, job_id)
            assert job is not None
            return job

    def tasks(self, job_id: str, stage: str | None = None) -> list[Task]:
        with read_scope(self.engine) as session:
            return [task for task in job_tasks(session, job_id) if stage in (None, task.stage)]

    def events(self, job_id: str, type: str | None = None) -> list[Event]:
        with read_scope(self.engine) as session:
            events = session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.id))
            return [event for event in events if type in (None, event.type)]

    def work(self, task: Task) -> Outcome:
        """Run one task here, without a broker."""
        return run_task(task.id, engine=self.engine, blobs=self.blobs, settings=self.settings, shutdown=self.shutdown)

    def work_all(self, job_id: str, until: str = "export") -> None:
        """Run ready tasks one after the other until none is left or the stage ``until`` is done."""
        while ready := [task for task in self.tasks(job_id) if task.status == "ready"]:
            for task in ready:
                self.work(task)
            if all(task.status == "done" for task in self.tasks(job_id, until)):
                return


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_until(true: Callable[[], Any], seconds: float = 200) -> None:
    """Wait for something that must happen; the limit only ends a test that would hang."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@contextmanager
def janitor(house: House) -> Iterator[None]:
    """The janitor, in a thread as in the embedded service."""
    stop = threading.Event()
    celery = make_app(house.settings)
    work = (house.engine, celery, house.blobs, house.settings, stop)
    thread = threading.Thread(target=run_janitor, args=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        celery.close()


@pytest.fixture
def house_of(tmp_path: Path) -> Callable[..., House]:
    """Makes a service on an engine; more settings by keyword."""

    def make(engine: Engine, **settings: object) -> House:
        values: dict[str, object] = {
            "home": tmp_path / "home",
            "database_url": engine.url.render_as_string(hide_password=False),
            "stage_entry": ENTRY,
            "lease_seconds": 30,
            "heartbeat_seconds": 0.2,
            "grace_seconds": 5,
            "janitor_seconds": 0.3,
            "retry_seconds": 0,
        }
        chosen = Settings.model_validate({**values, **settings})
        return House(engine, chosen, BlobStore(chosen.blobs_url))

    return make


@pytest.fixture
def house(house_of: Callable[..., House], database: Engine) -> House:
    """A service on SQLite, and on PostgreSQL."""
    return house_of(database)
