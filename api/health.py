"""Is the process alive, can it work, how does it do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from celery import Celery
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field
from sqlalchemy import Engine, text

from api.deps import CeleryDep, EngineDep
from state.database import read_scope
from state.metrics import read_metrics
from state.migrate import current_revision, head_revision

router = APIRouter(tags=["health"])
BROKER_SECONDS = 2


class Alive(BaseModel):
    status: str = Field("ok", examples=["ok"])


class Check(BaseModel):
    ok: bool
    detail: str


class Readiness(BaseModel):
    status: str = Field(examples=["ready"])
    checks: dict[str, Check]


@router.get("/livez", summary="Is the process alive?", description="Touches nothing: a slow database kills no process.")
async def livez() -> Alive:
    return Alive(status="ok")


@router.get(
    "/readyz",
    summary="Can the service work?",
    description="Database, broker and migrations.",
    responses={503: {"model": Readiness, "description": "Something it needs is missing"}},
)
def readyz(response: Response, engine: EngineDep, celery: CeleryDep) -> Readiness:
    checks = {
        "database": _check(lambda: _database(engine)),
        "migrations": _check(lambda: _migrations(engine)),
        "broker": _check(lambda: _broker(celery)),
    }
    ready = all(check.ok for check in checks.values())
    if not ready:
        response.status_code = 503
    return Readiness(status="ready" if ready else "unready", checks=checks)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(engine: EngineDep) -> Response:
    registry = CollectorRegistry()
    registry.register(ServiceCollector(engine))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class ServiceCollector(Collector):
    """Counts the database at each scrape: the figures are the same whichever API process answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        with read_scope(self.engine) as session:
            found = read_metrics(session)
        jobs = GaugeMetricFamily("stillroom_jobs", "Jobs by status.", labels=["status"])
        for status, count in sorted(found.jobs.items()):
            jobs.add_metric([status], count)
        tasks = GaugeMetricFamily("stillroom_tasks", "Tasks by stage and status.", labels=["stage", "status"])
        for (stage, status), count in sorted(found.tasks.items()):
            tasks.add_metric([stage, status], count)
        depth = GaugeMetricFamily("stillroom_queue_depth", "Tasks ready to run, by queue.", labels=["queue"])
        for queue, count in sorted(found.queue_depth.items()):
            depth.add_metric([queue], count)
        oldest = GaugeMetricFamily("stillroom_lease_age_seconds_max", "Age of the longest running task.")
        oldest.add_metric([], max(found.lease_ages.values(), default=0.0))
        left = GaugeMetricFamily("stillroom_lease_left_seconds_min", "Shortest lease; negative: a silent worker.")
        left.add_metric([], min(found.lease_left.values(), default=0.0))
        unsent = GaugeMetricFamily("stillroom_outbox_oldest_seconds", "Age of the oldest message not yet sent.")
        unsent.add_metric([], found.oldest_unsent)
        return [jobs, tasks, depth, oldest, left, unsent]


def _check(look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:  # whatever a driver raises, the answer is the same: not ready, and why
        return Check(ok=False, detail=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _database(engine: Engine) -> Check:
    with read_scope(engine) as session:
        session.execute(text("SELECT 1"))
    return Check(ok=True, detail=engine.dialect.name)


def _migrations(engine: Engine) -> Check:
    current, head = current_revision(engine), head_revision()
    hint = "" if current == head else "; run the migrations"
    return Check(ok=current == head, detail=f"database at {current}, code at {head}{hint}")


def _broker(celery: Celery) -> Check:
    with celery.connection_for_write(connect_timeout=BROKER_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
        return Check(ok=True, detail=str(connection.transport.driver_type))
