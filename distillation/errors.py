"""Errors that both sides of the service name; importing them imports nothing else."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset that cannot be used: what is wrong, and what to do about it."""

    code = "bad_dataset"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
