"""What can go wrong with a model, said so that its user knows what to do."""

from __future__ import annotations


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
