"""The one shape of every list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Some items, and where to go on."""

    data: list[Item]
    next: str | None = Field(None, description="Give it as `after` for the next page; null on the last one.")


def cut(items: Sequence[Item], limit: int) -> tuple[Sequence[Item], bool]:
    """At most ``limit`` of ``items``, and whether there were more: ask the database for ``limit + 1``."""
    return items[:limit], len(items) > limit
