"""Sortable ids: a prefix that names the kind, a time stamp, randomness (the layout of a ULID)."""

from __future__ import annotations

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
LENGTH = 26


def id_pattern(prefix: str) -> str:
    """The regular expression of the ids that :func:`new_id` makes."""
    return f"^{prefix}_[{ALPHABET}]{{{LENGTH}}}$"


def new_id(prefix: str) -> str:
    """``prefix_`` and 26 characters; ids made later sort later (to the millisecond)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(LENGTH)))
