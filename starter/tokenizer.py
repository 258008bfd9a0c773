"""A CLIP tokenizer cut to its first merges.

The starter's text towers are tiny; the full 49,408-word table would weigh more than everything else.
Byte-level BPE still spells any word.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import open_clip
from open_clip.tokenizer import bytes_to_unicode
from transformers import CLIPTokenizer

MERGES = 6000
CONTEXT_LENGTH = 32


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write ``vocab.json`` and ``merges.txt`` into ``folder`` and load them the usual way."""
    source = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")[1 : 1 + MERGES]
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT_LENGTH)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
