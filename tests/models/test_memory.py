"""Freed memory stays with the process that asked for it."""

from __future__ import annotations

import subprocess
import sys

FAULTS = """
import ctypes, resource, torch
from models.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000)  # 64 MB, a large activation
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
faults()
print(usual, faults())
"""


def test_kept_memory_is_used_again_without_new_pages() -> None:
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    usual, kept = map(int, out.split())
    assert usual > 20 * 100, "without it every tensor takes fresh pages"
    assert kept < usual / 20
