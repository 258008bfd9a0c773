"""``/v1/datasets``: real photos, to measure students on and to train generators with."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from api.datasets import service
from api.datasets.schemas import DatasetRead
from api.deps import AfterDataset, BlobsDep, EngineDep, Limit, SettingsDep
from api.pages import Page
from api.uploads import receive_form, workplace

router = APIRouter(prefix="/datasets", tags=["datasets"])
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "A .zip or .parquet file."},
                        "classes": {"type": "string", "format": "binary", "description": "classes.tsv, optional."},
                        "name": {"type": "string", "description": "For people (default: the file's name)."},
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    status_code=201,
    summary="Upload real photos",
    description="A zip with a folder of photos per class, or a parquet file with columns `image` and `label`; a "
    "parquet file without class names wants a `classes.tsv` as well. Broken photos are left out and listed.",
    openapi_extra=UPLOAD_BODY,
)
async def create_dataset(
    request: Request, response: Response, engine: EngineDep, blobs: BlobsDep, settings: SettingsDep
) -> DatasetRead:
    with workplace(settings) as folder:
        source, out = folder / "upload", folder / "dataset"
        targets = {"file": source, "classes": folder / "classes.tsv"}
        form = await receive_form(request.headers.get("content-type", ""), request.stream(), targets, wanted="file")
        name = form.fields.get("name", "").strip() or PurePath(form.filenames["file"]).name
        name = "".join(filter(str.isprintable, name))[:200] or "photos"  # databases and terminals choke on the rest
        dataset = await to_thread.run_sync(service.take_in, engine, blobs, source, out, name)
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return dataset


@router.get("", summary="List datasets, newest first")
def list_datasets(engine: EngineDep, after: AfterDataset = None, limit: Limit = 20) -> Page[DatasetRead]:
    return service.list_datasets(engine, after=after, limit=limit)


@router.get("/{dataset_id}", summary="One dataset")
def read_dataset(dataset_id: str, engine: EngineDep) -> DatasetRead:
    return service.read_dataset(engine, dataset_id)


@router.delete("/{dataset_id}", status_code=204, summary="Delete a dataset", description="409 while a job uses it.")
def delete_dataset(dataset_id: str, engine: EngineDep) -> None:
    service.delete_dataset(engine, dataset_id)
