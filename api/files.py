"""A stored blob over HTTP: strong sha256 ETag, 304, one byte range, HEAD; a redirect where the store can sign URLs.

Starlette's FileResponse makes its ETag of time and size and never answers 304, hence these lines (RFC 9110, 13 and 14).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from sqlalchemy import Engine

from api.deps import get_engine
from api.errors import Problem
from state.blobs import BlobStore
from state.database import session_scope
from state.remake import forget_outputs

CHUNK = 1 << 20
PRESIGNED_SECONDS = 900
BINARY = {"schema": {"type": "string", "format": "binary"}}
FILE_DESCRIPTION = (
    "Resumable: Range and If-Range with the sha256 as ETag; 304 for If-None-Match. On object storage the answer is a "
    "redirect (307) to a signed URL."
)
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": BINARY}},
    206: {"description": "The part asked for"},
    304: {"description": "Not changed"},
    307: {"description": "Where the file is"},
    410: {"description": "The file is gone from the blob store"},
    416: {"description": "The range lies outside the file"},
}
"""For OpenAPI."""
RANGE = re.compile(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)


def blob_response(
    request: Request,
    blobs: BlobStore,
    sha256: str,
    *,
    size: int,
    content_type: str,
    filename: str,
    disposition: str = "attachment",
) -> Response:
    """Answer a GET or HEAD for one blob.

    Args:
        size: bytes of the blob.
        filename: the name under which a browser saves it.
        disposition: ``attachment`` to save, ``inline`` to show.

    Raises:
        Problem: 410, the blob is gone; 416, the range lies outside it.
    """
    headers = {
        "ETag": f'"{sha256}"',
        "Accept-Ranges": "bytes",
        # The address names a finished encoder's or generator's file, which never changes.
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if etag_matches(request.headers.get("if-none-match", ""), sha256):
        return Response(status_code=304, headers=headers)
    require_blobs(get_engine(request), blobs, {filename: sha256})
    headers["Content-Disposition"] = f"{disposition}; filename*=UTF-8''{quote(filename, safe='')}"
    # A signature is for one method.
    if request.method == "GET":
        url = blobs.presigned_url(sha256, PRESIGNED_SECONDS, headers["Content-Disposition"], content_type)
        if url is not None:
            return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})
    start, end, status = 0, size, 200
    wanted = request.headers.get("range")
    if wanted and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        part = parse_range(wanted, size)
        if part is not None:
            (start, end), status = part, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=content_type)
    return StreamingResponse(
        read_blob(blobs, sha256, start, end), status_code=status, headers=headers, media_type=content_type
    )


def require_blobs(engine: Engine, blobs: BlobStore, files: Mapping[str, str]) -> None:
    """Look before an answer begins: a body that breaks off tells nobody why.

    What is gone is forgotten as an output, so that the same recipe makes it again.

    Args:
        files: sha256 by name.

    Raises:
        Problem: 410, the blob of a file is gone.
    """
    gone = {name: sha256 for name, sha256 in files.items() if not blobs.exists(sha256)}
    if not gone:
        return
    with session_scope(engine) as session:
        for sha256 in gone.values():
            forget_outputs(session, sha256)
    names = ", ".join(f"'{name}'" for name in sorted(gone))
    detail = (
        f"gone from the blob store: {names}; submit the same recipe again and it is made again. A database restored "
        "without its blobs and a bucket's rule that deletes old objects are the usual reasons"
    )
    raise Problem(410, "gone", detail, headers={"Cache-Control": "no-store"})  # it may come back


def etag_matches(if_none_match: str, sha256: str) -> bool:
    """Whether an If-None-Match names this blob; comparison is weak, as the header asks."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or f'"{sha256}"' in tags


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """``bytes=2-5`` of a blob becomes ``(2, 6)``.

    Returns:
        None for what may be ignored by RFC 9110: another unit, several ranges, nonsense. The answer is then whole.

    Raises:
        Problem: 416, no byte of the range exists.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        detail = f"the range '{header}' holds no byte of this file of {size} bytes"
        raise Problem(416, "range_not_satisfiable", detail, headers={"Content-Range": f"bytes */{size}"})
    return start, end


def read_blob(blobs: BlobStore, sha256: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes ``start`` to ``end`` of a blob, in chunks of at most 1 MiB."""
    with blobs.open(sha256) as file:
        file.seek(start)
        while start < end:
            chunk = file.read(min(CHUNK, end - start))
            if not chunk:
                raise OSError(f"blob {sha256} ended at byte {start}, before {end}")
            start += len(chunk)
            yield chunk
