"""``python -m models.names > distillation/names.json``: what timm and open_clip know by name.

The API has neither, and a misspelt name should be told before a job is queued. A test holds the file to the libraries.
"""

from __future__ import annotations

import json

import open_clip
import timm

TOLD = {"vision_cfg": ("timm_model_name",), "text_cfg": ("hf_model_name", "no_causal_mask")}
"""Of a model's configuration: what decides whether it can guide a generator."""


def known_names() -> dict[str, object]:
    """timm architectures, and of every open_clip model the weight tags and what its towers are."""
    tags: dict[str, list[str]] = {name: [] for name in open_clip.list_models()}
    for name, tag in open_clip.list_pretrained():
        tags.setdefault(name, []).append(tag)
    names = sorted(tags)
    configs = {name: open_clip.get_model_config(name) for name in names}
    towers = {
        name: {part: _some(config[part], keys) for part, keys in TOLD.items()} for name, config in configs.items()
    }
    return {
        "timm": sorted(timm.list_models()),
        "open_clip": {name: sorted(tags[name]) for name in names},
        "towers": towers,
    }


def _some(config: dict[str, object], keys: tuple[str, ...]) -> dict[str, object]:
    return {key: config[key] for key in keys if key in config}


if __name__ == "__main__":
    print(json.dumps(known_names(), indent=0))
