"""``/v1/encoders``: what jobs made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from api.archives import archive_response
from api.deps import AfterEncoder, BlobsDep, EngineDep, HelperDep, Limit, SettingsDep
from api.encoders import service
from api.encoders.schemas import Classification, EncoderRead, EncoderSummary
from api.errors import Problem
from api.files import BINARY, FILE_DESCRIPTION, FILE_RESPONSES, blob_response
from api.pages import Page
from api.uploads import receive_body, receive_form, workplace

router = APIRouter(prefix="/encoders", tags=["encoders"])
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@router.get("", summary="List encoders, newest first")
def list_encoders(engine: EngineDep, after: AfterEncoder = None, limit: Limit = 20) -> Page[EncoderSummary]:
    return service.list_encoders(engine, after=after, limit=limit)


@router.get("/{encoder_id}", summary="One encoder: report and files")
def read_encoder(encoder_id: str, engine: EngineDep) -> EncoderRead:
    return service.read_encoder(engine, encoder_id)


@router.head("/{encoder_id}/files/{name:path}", include_in_schema=False)
@router.get(
    "/{encoder_id}/files/{name:path}",
    summary="Download one file",
    description=FILE_DESCRIPTION,
    response_class=Response,
    responses=FILE_RESPONSES,
)
def download_file(encoder_id: str, name: str, request: Request, engine: EngineDep, blobs: BlobsDep) -> Response:
    file = service.read_file(engine, encoder_id, name)
    return blob_response(
        request, blobs, file.sha256, size=file.size, content_type=file.content_type, filename=name.rpartition("/")[2]
    )


@router.get(
    "/{encoder_id}/archive",
    summary="Download all files as one zip",
    response_class=Response,
    responses={200: {"content": {"application/zip": BINARY}}},
)
def download_archive(encoder_id: str, request: Request, engine: EngineDep, blobs: BlobsDep) -> Response:
    return archive_response(request, blobs, encoder_id, service.read_encoder(engine, encoder_id).files)


@router.post(
    "/{encoder_id}/classify",
    summary="Classify an image",
    description="The image as the body, or as part `image` of a form. JPEG, PNG, WEBP, BMP, GIF and TIFF are read.",
    openapi_extra=IMAGE_BODY,
)
async def classify(
    encoder_id: str,
    request: Request,
    engine: EngineDep,
    blobs: BlobsDep,
    settings: SettingsDep,
    helper: HelperDep,
    top: Annotated[int | None, Query(ge=1, description="Only the most probable classes (default: all).")] = None,
) -> Classification:
    with workplace(settings) as folder:
        image = folder / "image"
        await _receive(request, image)
        return await to_thread.run_sync(
            lambda: service.classify(engine, blobs, settings.blobs_url, helper, encoder_id, image, top=top)
        )


async def _receive(request: Request, target: Path) -> None:
    """The image as a file, from the body or from the form."""
    content_type = request.headers.get("content-type", "application/octet-stream")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        await receive_form(content_type, request.stream(), {"image": target}, wanted="image")
    elif kind.startswith("image/") or kind == "application/octet-stream":
        await receive_body(request.stream(), target)
    else:
        detail = f"send the image itself or a multipart form, not '{kind}'"
        raise Problem(415, "unsupported_media_type", detail)
