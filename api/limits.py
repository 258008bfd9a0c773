"""Request bodies have a largest size, whatever their Content-Length says."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import Problem

JSON_BYTES = 8 << 20
IMAGE_BYTES = 32 << 20


class BodyLimit:
    """ASGI middleware: 413 as soon as a body is larger than its path allows, before anything is kept of it."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int) -> None:
        self.app, self.upload_bytes = app, upload_bytes

    def limit(self, path: str) -> int:
        if path.rstrip("/") == "/v1/datasets":
            return self.upload_bytes
        return IMAGE_BYTES if path.endswith("/classify") else JSON_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit(scope["path"])
        problem = Problem(413, "payload_too_large", f"the body is larger than {limit:,} bytes, the most allowed here")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await problem.response()(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                # FastAPI lets only this kind of error out of its body parsing.
                raise HTTPException(problem.status, problem.detail)
            return message

        await self.app(scope, counted, send)
