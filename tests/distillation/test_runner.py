"""What a user is told of an exception in a stage."""

from __future__ import annotations

import errno

import pytest
from safetensors import SafetensorError

from distillation.runner import explain


def raised(cause: BaseException) -> Exception:
    try:
        raise RuntimeError("the file was not written") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/images.tar"), "/x/images.tar"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file"),
        # What safetensors 0.8 raises on a full disk.
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "a file"),
    ],
)
def test_a_full_disk_is_no_defect(error: Exception, word: str, chained: bool) -> None:
    told = explain(raised(error) if chained else error)
    assert told.code == "disk_full" and word in told.message and "free" in told.hint


def test_other_errors_are() -> None:
    told = explain(raised(OSError(errno.EIO, "Input/output error")))
    assert told.code == "internal" and "RuntimeError" in told.message
