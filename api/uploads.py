"""Uploads written straight to disk: FastAPI's own parsing would spool them before the API key is looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import Problem, field_error
from state.settings import Settings

FIELD_BYTES = 4096
MAX_PARTS = 8


class FormToDisk:
    """Writes parts that are files to disk and keeps small text parts in memory.

    Args:
        targets: where the file of a part goes, by the part's name; files of other parts are refused.

    Attributes:
        fields: text parts by name.
        filenames: the names that the uploader's machine gave the files, by part.
        complete: whether the last boundary was seen.
    """

    def __init__(self, content_type: str, targets: Mapping[str, Path]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            detail = f"send multipart/form-data with a file as part '{next(iter(targets))}'"
            raise Problem(415, "unsupported_media_type", detail)
        self.targets = targets
        self.fields: dict[str, str] = {}
        self.filenames: dict[str, str] = {}
        self.complete = False
        self._headers: dict[bytes, bytes] = {}
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._part, self._text, self._parts = "", bytearray(), 0
        self._file: BinaryIO | None = None
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._open,
                "on_part_data": self._write,
                "on_part_end": self._close,
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def close(self) -> None:
        """Close a file that a broken body left open."""
        if self._file is not None:
            self._file.close()

    def _end(self) -> None:
        self.complete = True

    def _begin(self) -> None:
        self._headers, self._parts = {}, self._parts + 1
        if self._parts > MAX_PARTS:
            raise FormParserError(f"more than {MAX_PARTS} parts")

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._part, self._text = options.get(b"name", b"").decode("utf-8", "replace"), bytearray()
        if b"filename" in options:
            if self._part not in self.targets or self._part in self.filenames:
                raise FormParserError(f"the part '{self._part}' may not be a file, or is there twice")
            self.filenames[self._part] = options[b"filename"].decode("utf-8", "replace")
            self._file = self.targets[self._part].open("wb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES:
            raise FormParserError(f"the part '{self._part}' is larger than {FIELD_BYTES} bytes")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._part:
            self.fields[self._part] = self._text.decode("utf-8", "replace")
        self._part = ""


@contextmanager
def workplace(settings: Settings) -> Iterator[Path]:
    """A folder for one upload, gone afterwards; on the disk of the blobs, so that files are linked, not copied."""
    settings.uploads.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.uploads) as folder:
        yield Path(folder)


async def receive_body(body: AsyncIterator[bytes], target: Path) -> None:
    """Write a whole body to ``target``."""
    with target.open("wb") as file:
        async for chunk in body:
            await to_thread.run_sync(file.write, chunk)


async def receive_form(
    content_type: str, body: AsyncIterator[bytes], targets: Mapping[str, Path], *, wanted: str
) -> FormToDisk:
    """Read a multipart body; the files of its parts go to ``targets``, of which the part ``wanted`` must come.

    Raises:
        Problem: 415 or 422, another content type, a broken form or no part ``wanted``.
    """
    form = FormToDisk(content_type, targets)
    try:
        async for chunk in body:
            if chunk:
                await to_thread.run_sync(form.write, chunk)
        if not form.complete:
            raise FormParserError("it ended before its last boundary")
    except FormParserError as error:
        raise Problem(422, "invalid_request", f"the multipart form cannot be read: {error}") from error
    finally:
        form.close()
    if wanted not in form.filenames:
        missing = field_error(f"/{wanted}", f"the form needs a part named '{wanted}' with a file name", "missing")
        raise Problem(422, "invalid_request", missing.message, [missing])
    return form
