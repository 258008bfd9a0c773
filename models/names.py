"""``python -m models.names > distillation/names.json``: what timm and open_clip know by name.

The API has neither, and a misspelt name should be told before a job is queued. A test holds the file to the libraries.
"""

from __future__ import annotations

import json

import open_clip
import timm


def known_names() -> dict[str, object]:
    """timm architectures, and the weight tags of every open_clip model."""
    tags: dict[str, list[str]] = {name: [] for name in open_clip.list_models()}
    for name, tag in open_clip.list_pretrained():
        tags.setdefault(name, []).append(tag)
    return {"timm": sorted(timm.list_models()), "open_clip": {name: sorted(tags[name]) for name in sorted(tags)}}


if __name__ == "__main__":
    print(json.dumps(known_names(), indent=0))
