"""A few images of a shard as plain files, to look at."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillation.protocol import write_atomically

SAMPLES_PER_CLASS = 2


def write_samples(out: Path, described: Sequence[dict[str, Any]]) -> None:
    """Copy the first images of each class out of ``images.tar`` into ``samples/`` and list them in ``samples.json``.

    Args:
        described: the lines of ``images.jsonl``.
    """
    taken: Counter[str] = Counter()
    chosen = {}
    for line in described:
        if taken[line["class"]] < SAMPLES_PER_CLASS:
            taken[line["class"]] += 1
            chosen[f"{line['index']:08d}.jpg"] = line
    folder = out / "samples"
    folder.mkdir(exist_ok=True)
    with tarfile.open(out / "images.tar") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name in chosen else None
            if content is not None:
                with (folder / member.name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    listed = [
        {"file": f"samples/{name}", "class": line["class"], "prompt": line["prompt"], "seed": line["seed"]}
        for name, line in chosen.items()
    ]
    write_atomically(out / "samples.json", json.dumps(listed, indent=1, ensure_ascii=False) + "\n")
