"""The four domains, cut from Tiny ImageNet, and their photos as dataset directories.

The student's base meets no photo of the domain: its photos are those of all other classes. Photos that measure are of
the validation split and are used for nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from distillation.datasets import import_dataset, is_dataset
from starter.classes import GENERATED
from starter.photos import class_names, files_of_classes

LABELS: dict[str, tuple[int, ...]] = {
    "animals": tuple(range(59)),
    "food": tuple(range(178, 194)),
    "vehicles": (70, 81, 94, 103, 107, 108, 111, 114, 115, 116, 121, 133, 145, 153, 164, 166),
    "places": (
        61, 65, 66, 71, 82, 91, 93, 96, 102, 124, 129, 154, 157, 162, 165, 170, 173, 194, 195, 196, 197, 198
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PhotoDomain:
    """One domain: the classes that the generator can draw, and what is left out because it cannot.

    Args:
        classes: usual name and other names of each class, in label order; names shared by two are left out.
        missing: how many classes of the domain the generator cannot draw.
        others: labels of all classes outside the domain.
    """

    name: str
    labels: tuple[int, ...]
    classes: tuple[tuple[str, ...], ...]
    missing: int
    others: tuple[int, ...]


def read_domains(data: Path, wanted: list[str]) -> list[PhotoDomain]:
    """The wanted domains with the classes that the starter generator draws; a domain needs two of them.

    Raises:
        ValueError: a domain that does not exist.
    """
    if unknown := [name for name in wanted if name not in LABELS]:
        raise ValueError(f"no domain {unknown[0]!r}; there are {', '.join(LABELS)}")
    names = class_names(data)
    domains = []
    for name in wanted:
        labels = tuple(label for label in LABELS[name] if label in GENERATED)
        uses = Counter(one for label in labels for one in dict.fromkeys(n.casefold() for n in names[label]))
        classes = tuple(
            (names[label][0], *(n for n in dict.fromkeys(names[label][1:]) if uses[n.casefold()] == 1))
            for label in labels
        )
        others = tuple(label for label in range(len(names)) if label not in LABELS[name])
        domains.append(PhotoDomain(name, labels, classes, len(LABELS[name]) - len(labels), others))
    return domains


def photos_of(data: Path, split: str, labels: Collection[int], out: Path) -> Path:
    """Photos of some classes, as a dataset directory, made once."""
    if not is_dataset(out):
        with files_of_classes(data, split, labels, out.with_suffix(".parquet")) as source:
            import_dataset(source, out)
    return out
