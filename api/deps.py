"""What endpoints ask for. Everything hangs on the application, so that one process may hold several."""

from __future__ import annotations

from typing import Annotated, cast

from celery import Celery
from fastapi import Depends, Query, Request
from sqlalchemy import Engine

from api.processes import Helper
from state.blobs import BlobStore
from state.ids import id_pattern
from state.settings import Settings


def get_settings_of(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def get_engine(request: Request) -> Engine:
    return cast(Engine, request.app.state.engine)


def get_celery(request: Request) -> Celery:
    return cast(Celery, request.app.state.celery)


def get_helper(request: Request) -> Helper:
    return cast(Helper, request.app.state.helper)


def get_blobs(request: Request) -> BlobStore:
    return cast(BlobStore, request.app.state.blobs)


SettingsDep = Annotated[Settings, Depends(get_settings_of)]
# An engine rather than a session: since FastAPI 0.118 what a `yield` dependency does at its end, such as a commit,
# happens after the answer has gone out, and a stream would hold its connection for hours.
EngineDep = Annotated[Engine, Depends(get_engine)]
CeleryDep = Annotated[Celery, Depends(get_celery)]
HelperDep = Annotated[Helper, Depends(get_helper)]
BlobsDep = Annotated[BlobStore, Depends(get_blobs)]

CURSOR = "Cursor: the `next` of the page before."
AfterJob = Annotated[str | None, Query(description=CURSOR, pattern=id_pattern("job"))]
AfterEncoder = Annotated[str | None, Query(description=CURSOR, pattern=id_pattern("enc"))]
AfterGenerator = Annotated[str | None, Query(description=CURSOR, pattern=id_pattern("gen"))]
AfterDataset = Annotated[str | None, Query(description=CURSOR, pattern=id_pattern("ds"))]
AfterNumber = Annotated[int | None, Query(description=CURSOR, ge=0, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=100, description="Items on a page.")]
