"""How a job grows with its images: shards, rows, messages, files, bytes. Torch-free.

``docs/scale.md`` states these formulas and has their table; ``benchmarks.simulated_job`` counts what really comes of a
job and compares.
"""

from __future__ import annotations

from typing import NamedTuple

OTHER_TASKS = 4
"""prompts, distil, evaluate, export."""
STATUS_EVENTS = 7
"""queued, preparing, generating, training, evaluating, exporting, succeeded."""
TASK_EVENTS = 3
"""Started, done, and the last progress; more progress with the time that a task takes."""
SHARD_FILES = 8
"""Five arrays, images.tar, images.jsonl, manifest.json."""
OTHER_FILES = 10
"""prompts 2, distil 4, evaluate 2, export 2 and its encoder."""
LABEL_BYTES, VIEW_BYTES, HALF = 5, 20, 2
"""Label and holdout flag; a view's five numbers; one number of a feature."""
MAPPED = 3
"""Files of each shard that training keeps open: pixels, views, features."""


class Image(NamedTuple):
    """What is kept of one image.

    Args:
        side: of its pixels as stored, at most 8/7 of the teacher's input.
        views: cached views, the whole image among them.
        width: of the teacher's features.
    """

    side: int = 256
    views: int = 4
    width: int = 512

    @property
    def array_bytes(self) -> int:
        """Pixels, views and their features, labels."""
        return 3 * self.side**2 + (HALF * self.width + VIEW_BYTES) * self.views + LABEL_BYTES


class Growth(NamedTuple):
    """Counts of one job whose every task is done at the first try."""

    shards: int
    tasks: int
    results: int
    messages: int
    events: int
    files: int
    open_files: int


def growth(images: int, shard_size: int, classes: int, encoder_files: int) -> Growth:
    """The formulas of docs/scale.md.

    Args:
        encoder_files: that the export makes.
    """
    shards = -(-images // shard_size)
    tasks = shards + OTHER_TASKS
    sample_shards = min(shards, -(-classes // shard_size))
    # Two images of each class, as far as these shards have them, and a list in each.
    samples = min(2 * classes, sample_shards * shard_size, images) + sample_shards
    return Growth(
        shards=shards,
        tasks=tasks,
        results=tasks,
        messages=tasks,
        events=STATUS_EVENTS + TASK_EVENTS * tasks,
        files=SHARD_FILES * shards + samples + OTHER_FILES + encoder_files,
        open_files=MAPPED * shards,
    )
