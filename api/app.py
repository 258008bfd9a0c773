"""The application: ``uvicorn api.app:create_app --factory``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi_offline import FastAPIOffline

from api import errors, health
from api.auth import LOOPBACK, require_key
from api.catalogue.endpoints import router as catalogue
from api.datasets.endpoints import router as datasets
from api.encoders.endpoints import router as encoders
from api.generators.endpoints import router as generators
from api.jobs.endpoints import router as jobs
from api.limits import BodyLimit
from api.processes import Helper
from state.blobs import BlobStore
from state.database import make_engine
from state.settings import Settings, get_settings
from workers.celery_app import make_app

log = logging.getLogger(__name__)
DESCRIPTION = """Give a domain in words, get a small image encoder.

1. `POST /v1/jobs` with class names and a student size.
2. `GET /v1/jobs/{id}` or the live stream `GET /v1/jobs/{id}/events`.
3. `GET /v1/jobs/{id}/report`: teacher beside student.
4. `GET /v1/encoders/{id}/archive`, or classify here: `POST /v1/encoders/{id}/classify`.

Every list is `{"data": [...], "next": cursor or null}`. Every error is `application/problem+json` (RFC 9457) with all
wrong fields in `errors`, each with a JSON pointer.
"""
TAGS = [
    {"name": "jobs", "description": "From a domain in words to an encoder."},
    {"name": "encoders", "description": "Download and try what jobs made."},
    {"name": "generators", "description": "Train a generator on labelled photos."},
    {"name": "datasets", "description": "Real photos to measure students on and to train generators with."},
    {"name": "catalogue", "description": "What a recipe may name."},
    {"name": "health", "description": "For orchestrators and monitoring."},
]


def create_app(settings: Settings | None = None) -> FastAPI:
    """An application with its own engine and blob store.

    Args:
        settings: default: those of the environment.
    """
    settings = settings or get_settings()
    # FastAPI whose /docs loads its scripts from here instead of a CDN; ReDoc's would still ask its maker's host.
    app = FastAPIOffline(
        redoc_url=None,
        title="Stillroom",
        version="1",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        responses={"default": {"model": errors.ProblemDetails, "description": "Problem details"}},
    )
    app.state.settings = settings
    app.state.engine = make_engine(settings.database_url)
    app.state.blobs = BlobStore(settings.blobs_url)
    app.state.celery = make_app(settings)
    app.state.helper = Helper()
    errors.install(app)
    app.add_middleware(BodyLimit, upload_bytes=settings.max_upload_bytes)
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(require_key)])
    for router in (jobs, encoders, generators, datasets, catalogue):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(health.router)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Warn of an open door at the start, close the connections at the end."""
    settings: Settings = app.state.settings
    if not settings.api_key and settings.host not in LOOPBACK:
        log.warning(
            "listening on %s without STILLROOM_API_KEY: whoever reaches this port may use the service", settings.host
        )
    yield
    app.state.helper.close()
    app.state.engine.dispose()
