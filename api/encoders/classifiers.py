"""Exported classifiers in onnxruntime, called in a process of its own; see ``api/processes.py``."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from api.encoders.images import decode, preprocess
from state.blobs import BlobStore

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL, LABELS, PREPROCESS = "classifier.onnx", "labels.json", "preprocess.json"
MAX_CLASSIFIERS = 8
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Classifier:
    """One encoder with its domain's text head.

    Args:
        labels: class names, in the order of the probabilities.
        preprocess: ``preprocess.json``.
        size: bytes of the ONNX file.
    """

    session: InferenceSession
    labels: list[str]
    preprocess: dict[str, Any]
    size: int

    def probabilities(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape ``(1, 3, S, S)`` to ``(classes,)``."""
        (found,) = self.session.run(["probabilities"], {"image": pixels})
        return np.asarray(found[0], np.float32)


class ClassifierCache:
    """The most recently used classifiers, bounded in number and in bytes of their files."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Classifier] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], Classifier]) -> Classifier:
        """The classifier ``key``; loaded under the lock, so that a burst of requests loads it once."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            found = load()
            self._kept[key] = found
            while len(self._kept) > 1 and (
                len(self._kept) > MAX_CLASSIFIERS or sum(item.size for item in self._kept.values()) > MAX_BYTES
            ):
                self._kept.popitem(last=False)
            return found


CACHE = ClassifierCache()


def classify(image: Path, blobs_url: str, files: dict[str, str]) -> list[tuple[str, float]]:
    """Labels with their probabilities, the likeliest first.

    Args:
        image: the uploaded file.
        files: sha256 of ``MODEL``, ``LABELS`` and ``PREPROCESS`` in the blob store.

    Raises:
        BadImage: the file is not an image that can be used.
    """
    decoded = decode(image)
    # All three in the key: classes of two domains may have other names and yet the same network.
    key = " ".join(files[name] for name in (MODEL, LABELS, PREPROCESS))
    classifier = CACHE.get(key, lambda: load_classifier(_blobs(blobs_url), files))
    found = classifier.probabilities(preprocess(decoded, classifier.preprocess))
    return sorted(zip(classifier.labels, found.tolist(), strict=True), key=lambda pair: -pair[1])


def load_classifier(blobs: BlobStore, files: dict[str, str]) -> Classifier:
    local = blobs.local_path(files[MODEL])
    return Classifier(
        session=load_session(str(local) if local else _content(blobs, files[MODEL])),
        labels=list(json.loads(_content(blobs, files[LABELS]))["labels"]),
        preprocess=json.loads(_content(blobs, files[PREPROCESS])),
        size=blobs.size(files[MODEL]),
    )


def load_session(model: str | bytes) -> InferenceSession:
    """Open an ONNX file or its bytes on the CPU; without an arena, which would keep the largest request's memory."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=1)
def _blobs(url: str) -> BlobStore:
    return BlobStore(url)


def _content(blobs: BlobStore, sha256: str) -> bytes:
    with blobs.open(sha256) as file:
        return file.read()
