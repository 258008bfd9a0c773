"""What is said when weights cannot be fetched: a small server answers as the hub does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from models.errors import ModelError
from models.hub import explain_hub_error, snapshot

REVISION = "0" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int, dict[str, str]], None]]:
    """Say what the hub answers to every request: a status and headers."""
    answer: list[tuple[int, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers = answer[-1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield lambda status, headers: answer.append((status, headers))
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "code", "word"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, "weights_gated", "HF_TOKEN"),
        (401, {"X-Error-Code": "GatedRepo"}, "weights_gated", "HF_TOKEN"),
        (403, {}, "weights_gated", "HF_TOKEN"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "weights_gated", "HF_TOKEN"),
        # To strangers the hub does not say whether a repository is missing or private.
        (401, {"X-Error-Code": "RepoNotFound"}, "weights_missing", "name"),
        (404, {"X-Error-Code": "RepoNotFound"}, "weights_missing", "name"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "weights_missing", "revision"),
        (400, {}, "hub_unreachable", "retry"),
    ],
)
def test_answers_of_the_hub(
    hub: Callable[[int, dict[str, str]], None], status: int, headers: dict[str, str], code: str, word: str
) -> None:
    hub(status, headers)
    with pytest.raises(ModelError) as caught:
        snapshot("somebody/something", REVISION, ["*.safetensors"])
    assert caught.value.code == code, caught.value.message
    assert "somebody/something" in caught.value.message and word in caught.value.hint


def raised(cause: BaseException) -> Exception:
    """As loaders do it: their own error, with the cause behind it."""
    try:
        raise OSError("Can't load the model. Is it a folder with a file config.json?") from cause
    except OSError as error:
        return error


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ENOSPC, "No space left on device", "/x/blobs/1.incomplete"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "/x/blobs/1.incomplete"),
        RuntimeError("Data processing error: I/O error: No space left on device (os error 28)"),  # hf_xet's, in Rust
        RuntimeError("Data processing error: I/O error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk(cause: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/the/cache")
    told = explain_hub_error(raised(cause), "the teacher 'x'", "teacher.model")
    assert (told.code, told.field) == ("disk_full", "teacher.model")
    assert "the teacher 'x'" in told.message and "/the/cache" in told.hint


def test_a_folder_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/the/cache")
    told = explain_hub_error(raised(PermissionError(errno.EACCES, "Permission denied", "/the/cache/x")), "the teacher")
    assert told.code == "weights_missing"
    assert "/the/cache/x" in told.message and "/the/cache" in told.hint and "check the files" not in told.hint
