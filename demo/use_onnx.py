"""Use a downloaded encoder with nothing but onnxruntime, NumPy and Pillow: python demo/use_onnx.py ENCODER IMAGE..."""

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


def run(encoder: Path, images: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """Embeddings (n, D), probabilities (n, classes) and the names of the classes."""
    how = json.loads((encoder / "preprocess.json").read_text(encoding="utf-8"))
    labels = json.loads((encoder / "labels.json").read_text(encoding="utf-8"))["labels"]
    batch = {"image": np.stack([load_image(path, how) for path in images])}
    embed = onnxruntime.InferenceSession(str(encoder / "image_encoder.onnx"), providers=["CPUExecutionProvider"])
    classify = onnxruntime.InferenceSession(str(encoder / "classifier.onnx"), providers=["CPUExecutionProvider"])
    return embed.run(["embedding"], batch)[0], classify.run(["probabilities"], batch)[0], labels


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[2:]]
    _, probabilities, names = run(Path(sys.argv[1]), paths)
    for path, row in zip(paths, probabilities, strict=True):
        print(f"{path.name}: {names[int(row.argmax())]} ({row.max():.1%})")
