"""Datasets: take in, look up, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, or_, select
from sqlalchemy.orm import Session

from api.datasets.checking import check_upload
from api.datasets.schemas import DatasetRead, Rejected
from api.errors import Problem, field_error, not_found
from api.pages import Page, cut
from api.processes import Helper
from distillation.errors import DatasetError
from state.blobs import BlobStore
from state.database import database_now, read_scope, session_scope
from state.ids import new_id
from state.tables import TERMINAL, Dataset, Job

FILES = ("images.npy", "labels.npy", "dataset.json")


def take_in(engine: Engine, blobs: BlobStore, source: Path, folder: Path, name: str) -> DatasetRead:
    """Check an uploaded file and keep its photos.

    Args:
        source: the zip or parquet file.
        folder: an empty folder to work in.

    Raises:
        Problem: 422 ``bad_dataset``, with the reason.
    """
    info = _checked(source, folder)
    bundle = blobs.put_bundle(folder, FILES)
    with session_scope(engine) as session:
        row = Dataset(
            id=new_id("ds"),
            name=name,
            created_at=database_now(session),
            images=info["images"],
            classes=info["classes"],
            rejected=info["rejected"],
            rejected_count=info["rejected_count"],
            bundle=bundle,
            size=sum((folder / file).stat().st_size for file in FILES),
        )
        session.add(row)
        session.flush()
        return _read(row)


def list_datasets(engine: Engine, *, after: str | None, limit: int) -> Page[DatasetRead]:
    """Newest first."""
    query = select(Dataset).order_by(Dataset.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Dataset.id < after)
    with read_scope(engine) as session:
        rows, more = cut(session.scalars(query).all(), limit)
    return Page(data=[_read(row) for row in rows], next=rows[-1].id if more else None)


def read_dataset(engine: Engine, dataset_id: str) -> DatasetRead:
    with read_scope(engine) as session:
        return _read(_require(session, dataset_id))


def delete_dataset(engine: Engine, dataset_id: str) -> None:
    """Forget a dataset; its blob goes with the next sweep of unused blobs.

    Raises:
        Problem: 409, an unfinished job uses it.
    """
    with session_scope(engine) as session:
        row = _require(session, dataset_id)
        evaluated_on = Job.recipe[("evaluation", "dataset")].as_string()
        trained_on = Job.recipe[("training", "agnostic", "source")].as_string()
        generator_of = Job.recipe["dataset"].as_string()
        uses = or_(evaluated_on == row.id, trained_on == row.id, generator_of == row.id)
        users = select(Job.id).where(Job.status.not_in(TERMINAL), uses)
        if user := session.scalar(users.limit(1)):
            raise Problem(409, "conflict", f"{user} uses {dataset_id}; cancel that job or wait for its end")
        session.delete(row)


def _checked(source: Path, folder: Path) -> dict[str, Any]:
    helper = Helper()
    try:
        return helper.run(check_upload, source, folder)
    except DatasetError as error:
        detail = f"{error.message}. {error.hint}" if error.hint else error.message
        raise Problem(422, error.code, detail, [field_error("/file", error.message, error.code)]) from error
    except MemoryError as error:
        message = "checking it needed more memory than this server has; upload a smaller file"
        raise Problem(422, "bad_dataset", message, [field_error("/file", message, "bad_dataset")]) from error
    finally:
        helper.close()


def _require(session: Session, dataset_id: str) -> Dataset:
    row = session.get(Dataset, dataset_id)
    if row is None:
        raise not_found("dataset", dataset_id)
    return row


def _read(row: Dataset) -> DatasetRead:
    return DatasetRead(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        images=row.images,
        classes=row.classes,
        rejected_count=row.rejected_count,
        rejected=[Rejected.model_validate(item) for item in row.rejected],
        size=row.size,
    )
