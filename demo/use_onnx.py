"""Use a downloaded encoder with nothing but onnxruntime, NumPy and Pillow: python demo/use_onnx.py ENCODER IMAGE...

On a device ENCODER needs three files: a classifier, labels.json and preprocess.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps


def load_image(path: Path, how: dict[str, Any]) -> NDArray[np.float32]:
    """One image as the encoder wants it, float32 (3, S, S); `how` is preprocess.json."""
    size, resample = how["size"], Image.Resampling[how["interpolation"].upper()]
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if how["resize_mode"] == "squash":
        image = image.resize((size, size), resample)
    elif image.size != (size, size):
        short = min(image.size)  # divided last: rounding could cost the short side a pixel
        image = image.resize((int(size * image.width / short), int(size * image.height / short)), resample)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    normalised = (pixels - np.array(how["mean"], np.float32)) / np.array(how["std"], np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def run(network: Path, images: Sequence[Path]) -> NDArray[np.float32]:
    """Embeddings (n, D) of an image encoder, probabilities (n, classes) of a classifier."""
    how = json.loads((network.parent / "preprocess.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(None, {"image": np.stack([load_image(p, how) for p in images])})
    return outputs[0]


def labels(encoder: Path) -> list[str]:
    """The names of the classes."""
    names: list[str] = json.loads((encoder / "labels.json").read_text(encoding="utf-8"))["labels"]
    return names


def smallest_classifier(encoder: Path) -> Path:
    """The int8 one, if it is there."""
    int8 = encoder / "classifier.int8.onnx"
    return int8 if int8.exists() else encoder / "classifier.onnx"


if __name__ == "__main__":
    folder, *paths = map(Path, sys.argv[1:])
    names, probabilities = labels(folder), run(smallest_classifier(folder), paths)
    for path, row in zip(paths, probabilities, strict=True):
        print(f"{path.name}: {names[int(row.argmax())]} ({row.max():.1%})")
