"""Files of a finished encoder or generator: their listing, and all of them as one zip."""

from __future__ import annotations

from collections.abc import Sequence

import zipstream
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from api.deps import get_engine
from api.files import etag_matches, read_blob, require_blobs
from state.blobs import BlobStore


class FileRead(BaseModel):
    """One file. Its address never changes, nor does what it holds."""

    name: str = Field(examples=["image_encoder.onnx"])
    sha256: str
    size: int = Field(description="Bytes.")
    content_type: str
    url: str


def archive_response(request: Request, blobs: BlobStore, identity: str, files: Sequence[FileRead]) -> Response:
    """All files in one folder ``identity``, stored and not deflated: weights do not shrink.

    The zip is made while it is sent; its length is known before.

    Raises:
        Problem: 410, a file is gone from the blob store.
    """
    # Weak: the zip's entries carry the time of the download.
    tag = f"{identity}-archive"
    headers = {"ETag": f'W/"{tag}"'}
    if etag_matches(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    require_blobs(get_engine(request), blobs, {file.name: file.sha256 for file in files})
    packed = zipstream.ZipStream(sized=True)
    for file in files:
        packed.add(read_blob(blobs, file.sha256, 0, file.size), f"{identity}/{file.name}", size=file.size)
    headers |= {
        "Content-Length": str(len(packed)),
        "Content-Disposition": f'attachment; filename="{identity}.zip"',
    }
    return StreamingResponse(iter(packed), headers=headers, media_type="application/zip")
