"""One optional API key. Without one everybody who reaches the port is let in: right for a loopback address only."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.deps import SettingsDep
from api.errors import Problem

bearer = HTTPBearer(auto_error=False, description="The server's STILLROOM_API_KEY, where it has one.")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def require_key(settings: SettingsDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
    """Refuse a request without the key, when the settings name one."""
    if not settings.api_key:
        return
    if given is None or not secrets.compare_digest(given.credentials.encode(), settings.api_key.encode()):
        detail = "this server wants its API key: send 'Authorization: Bearer KEY'"
        raise Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
