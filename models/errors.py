"""What can go wrong with a model, said so that its user knows what to do."""

from __future__ import annotations

import errno
import os

FULL = (errno.ENOSPC, errno.EDQUOT)


class ModelError(Exception):
    """A model cannot be loaded or run.

    Args:
        code: machine-readable reason: ``weights_missing``, ``weights_gated``, ``hub_unreachable``, ``disk_full``,
            ``out_of_memory``, ``bad_architecture``, ``impossible_budget``.
        message: what happened, with the model's name.
        hint: what to do.
        field: the recipe's field at fault, e.g. ``data.generator.model``.
    """

    def __init__(self, code: str, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.field = code, message, hint, field


def causes(error: BaseException) -> list[BaseException]:
    """The error and those behind it, the last one first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def full_disk(error: BaseException) -> BaseException | None:
    """The first cause of ``error`` that says that a disk or a quota is full, or None."""
    return next((item for item in causes(error) if _says_full(item)), None)


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    # Libraries in Rust (safetensors, the hub's downloader) raise types of their own.
    return any(os.strerror(code) in str(error) for code in FULL)
