"""What came of a training: figures of the saved pipeline beside those of photos that were held out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillation.embedding import Embedder
from distillation.generator_training.kid import kernel_distance
from distillation.generator_training.nearest import nearest_distances
from distillation.generator_training.photos import Photos
from distillation.generator_training.variety import variety
from distillation.metrics import class_recalls
from distillation.recipe import Domain
from distillation.sampling_plan import image_seed
from models.generators import load_generator
from models.sampling import Sampler

MOST_IMAGES = 8192
MOST_OF_CLASS, FEWEST_OF_CLASS = 128, 4
"""Images generated of each class; the fewest also where this makes more than ``MOST_IMAGES``."""
COMPARED = 512
"""Images, and held-out photos, that are compared with all training photos."""
ENCODED_AT_ONCE = 512


def evaluate_pipeline(
    folder: Path, embedder: Embedder, domain: Domain, training: Photos, held_out: Photos, *, batch_size: int, seed: int
) -> dict[str, Any]:
    """Sample the saved pipeline through the product's own loader and sampler, and measure.

    The prompt is ``a photo of a {name}``. Features are the teacher's, from which the generator learnt: its top-1
    flatters generated images.

    Args:
        folder: the pipeline's directory.
        embedder: with the zero-shot head of ``domain``.
        seed: of the images; none was trained with.
    """
    device = embedder.head.device
    sampler = Sampler(load_generator(str(folder), device=device), steps=1, guidance=0.0, batch_size=batch_size)
    count = max(FEWEST_OF_CLASS, min(MOST_OF_CLASS, MOST_IMAGES // len(domain.classes)))
    labels = np.repeat(np.arange(len(domain.classes)), count)
    prompts = [f"a photo of a {domain.classes[label].name}" for label in labels]
    seeds = [image_seed(seed, index, 0) for index in range(len(labels))]
    began = time.monotonic()
    images = sampler.sample(prompts, seeds).cpu()
    seconds = time.monotonic() - began
    made, real = _features(embedder, images), _features(embedder, held_out.images)
    head = embedder.head.cpu().numpy()
    generated = class_recalls((made @ head).argmax(1), labels, len(domain.classes))
    photos = class_recalls((real @ head).argmax(1), held_out.labels.numpy(), len(domain.classes))
    first, second = np.array_split(real[np.random.default_rng(seed).permutation(len(real))], 2)
    return {
        "images": len(images),
        "images_per_s": round(len(images) / seconds, 1),
        "teacher_acc1": {"generated": _rounded(generated.mean()), "held_out": _rounded(photos.mean())},
        "per_class": {
            name: {"generated": _rounded(ours), "held_out": _rounded(theirs)}
            for name, ours, theirs in zip(domain.class_names, generated, photos, strict=True)
        },
        "variety": {"generated": variety(made, labels), "held_out": of_photos}
        if (of_photos := variety(real, held_out.labels.numpy())) is not None
        else None,
        "kid": {
            "generated": kernel_distance(made, real, seed),
            # What remains between photos and photos: no generator can be expected to come nearer.
            "held_out_halves": kernel_distance(first, second, seed),
        }
        if len(real) >= 4
        else None,
        "nearest_training_photo": {
            "generated": _distances(images, training.images, device, seed),
            "held_out": _distances(held_out.images, training.images, device, seed),
        },
    }


def _features(embedder: Embedder, images: Tensor) -> NDArray[np.float32]:
    """The teacher's normalised features ``(n, embed_dim)``."""
    device = embedder.head.device
    parts = [embedder.whole(part.to(device)).cpu().numpy() for part in images.split(ENCODED_AT_ONCE)]
    return np.concatenate(parts)


def _distances(images: Tensor, photos: Tensor, device: torch.device, seed: int) -> dict[str, Any]:
    some = np.random.default_rng(seed).permutation(len(images))[:COMPARED]
    distances = nearest_distances(images[torch.from_numpy(np.sort(some))].to(device), photos.to(device))
    smallest, median = float(distances.min()), float(distances.median())
    return {"images": len(distances), "smallest_rms": _rounded(smallest), "median_rms": _rounded(median)}


def _rounded(value: float) -> float:
    return round(float(value), 4)
