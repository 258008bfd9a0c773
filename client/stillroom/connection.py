"""HTTP with one service: pages, errors, and requests that are repeated where that is safe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from stillroom.errors import BadInput, NotStillroom, Unreachable, error_of

DEFAULT_URL = "http://127.0.0.1:8321"
PAGE = 100


class Connection:
    """A connection to one service. Use it as a context manager, or call `close`.

    Args:
        url: where the service is.
        api_key: sent as a bearer token, where the service wants one.
        timeout: seconds to wait for each answer.
    """

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        headers = {"User-Agent": "stillroom-client", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, follow_redirects=True)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise BadInput(f"{url!r} is not a URL: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _pages(
        self, path: str, params: Mapping[str, str] | None = None, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Items of a list, page after page: all, or `limit` of them."""
        return islice(self._all_pages(path, {**(params or {}), "limit": str(min(limit or PAGE, PAGE))}), limit)

    def _all_pages(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        while True:
            page = self._send("GET", path, params=query)
            yield from page["data"]
            if page.get("next") is None:
                return
            query = {**query, "after": str(page["next"])}

    def _send(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One request, answered with a JSON object.

        Raises:
            NotStillroom: the answer is something else.
        """
        response = self._respond(method, path, **options)
        try:
            answer = response.json()
        except ValueError as error:
            raise NotStillroom(self.url) from error
        if not isinstance(answer, dict):
            raise NotStillroom(self.url)
        return answer

    def _respond(self, method: str, path: str, *, repeat: bool = False, **options: Any) -> httpx.Response:
        """One request; a lost connection is tried again where that cannot do the thing twice.

        Raises:
            BadInput: JSON does not know a value, such as NaN, or a header a character.
            Unreachable: no answer.
            ApiError: the service refused.
        """
        tries = 3 if repeat or method == "GET" else 1
        for left in reversed(range(tries)):
            try:
                response = self._http.request(method, path, **options)
                break
            except httpx.ConnectError as error:  # nobody there: trying again at once would only delay the news
                raise Unreachable(self.url, str(error) or "connection refused") from error
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if left == 0:
                    raise Unreachable(self.url, str(error) or type(error).__name__) from error
                time.sleep(0.5)
            except (TypeError, ValueError) as error:
                raise BadInput(f"this cannot be sent: {error}; write numbers in digits, keys in ASCII") from error
        if response.is_error:
            raise error_of(response)
        return response


def part(identity: str) -> str:
    """An id as one segment of a path, whatever the user typed."""
    return quote(identity, safe="")
