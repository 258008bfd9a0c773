"""How many files a pattern such as ``{000..009}.tar`` names. Torch-free."""

from __future__ import annotations

import re

from braceexpand import alphabet

DEEPEST = 20
TOKEN = re.compile(
    r"\\."  # a backslash takes the next character as it is
    r"|\{(?:(-?\d+)\.\.(-?\d+)|([A-Za-z])\.\.([A-Za-z]))(?:\.\.-?(\d+))?\n?\}"
    r"|[{},]",
    re.DOTALL,
)


def count_paths(pattern: str, most: int) -> int:
    """How many paths ``braceexpand`` makes of a pattern, without making them; ``most + 1`` stands for any more.

    Raises:
        ValueError: a brace has no partner, or they are nested too deeply.
    """
    groups = [[0, 1]]  # the pattern, then each open brace: paths of its earlier alternatives, paths of its present one
    for match in TOKEN.finditer(pattern):
        token = match[0]
        if token == "{":
            if len(groups) > DEEPEST:
                raise ValueError(f"braces are nested more than {DEEPEST} deep")
            groups.append([0, 1])
        elif token == "," and len(groups) > 1:
            earlier, present = groups[-1]
            groups[-1] = [min(earlier + present, most + 1), 1]
        elif token == "}":
            paths = sum(groups.pop())
            if not groups:
                raise ValueError("a closing brace has no opening one")
            groups[-1][1] = min(groups[-1][1] * paths, most + 1)
        elif token[0] == "{":
            groups[-1][1] = min(groups[-1][1] * _range_length(match), most + 1)
    if len(groups) > 1:
        raise ValueError("an opening brace has no closing one")
    return groups[0][1]


def _range_length(match: re.Match[str]) -> int:
    """Of ``{first..last}`` or ``{first..last..step}``, in numbers or letters."""
    if match[1] is not None:
        first, last = int(match[1]), int(match[2])
    else:
        first, last = alphabet.index(match[3]), alphabet.index(match[4])
    return abs(last - first) // (int(match[5] or 1) or 1) + 1
