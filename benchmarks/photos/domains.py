"""The domains, cut from Tiny ImageNet, and their photos as dataset directories.

Four domains are measured. Levers are tried on a fifth, of everything else, so that nothing is tuned on the four. A
student's base meets no photo of its domain: for the four it learns from photos of the fifth, and the other way round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from distillation.datasets import import_dataset, is_dataset
from starter.classes import DOMAINS, GENERATED
from starter.photos import class_names, files_of_classes

TUNING = "things"
_OF_DOMAINS = tuple(sorted(label for labels in DOMAINS.values() for label in labels))
LABELS = {**DOMAINS, TUNING: tuple(label for label in range(200) if label not in _OF_DOMAINS)}


@dataclass(frozen=True)
class PhotoDomain:
    """One domain: the classes that the generator can draw, and what is left out because it cannot.

    Args:
        classes: usual name and other names of each class, in label order; names shared by two are left out.
        missing: how many classes of the domain the generator cannot draw.
        others: labels of the classes whose photos the base student learns from.
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
        others = _OF_DOMAINS if name == TUNING else LABELS[TUNING]
        domains.append(PhotoDomain(name, labels, classes, len(LABELS[name]) - len(labels), others))
    return domains


def photos_of(data: Path, split: str, labels: Collection[int], out: Path) -> Path:
    """Photos of some classes, as a dataset directory, made once."""
    if not is_dataset(out):
        with files_of_classes(data, split, labels, out.with_suffix(".parquet")) as source:
            import_dataset(source, out)
    return out
