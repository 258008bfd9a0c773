"""The domains, cut from Tiny ImageNet, and their photos as dataset directories.

Four domains are measured, on validation photos. Levers are tried on animals, on training photos, so that nothing is
tuned on what is measured. The base of all students learns from photos of everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from distillation.datasets import import_dataset, is_dataset
from starter.classes import DOMAINS, GENERATED
from starter.photos import class_names, files_of_classes

TUNING = "tuning"
LABELS = {**DOMAINS, TUNING: DOMAINS["animals"]}
OTHERS = tuple(sorted(set(range(200)).difference(*DOMAINS.values())))
"""Labels of the classes of no domain, which the base student learns from."""


@dataclass(frozen=True)
class PhotoDomain:
    """One domain: the classes that the generator can draw, and what is left out because it cannot.

    Args:
        classes: usual name and other names of each class, in label order; names shared by two are left out.
        missing: how many classes of the domain the generator cannot draw.
    """

    name: str
    labels: tuple[int, ...]
    classes: tuple[tuple[str, ...], ...]
    missing: int

    @property
    def own_generator(self) -> bool:
        """Whether the starter generator does not draw these classes, so that one must be trained for them."""
        return not set(self.labels) <= set(GENERATED)

    @property
    def split(self) -> str:
        """The photos that students of it are measured on."""
        return "train" if self.name == TUNING else "validation"


def read_domains(data: Path, wanted: list[str]) -> list[PhotoDomain]:
    """The wanted domains with the classes that the starter generator draws; with all, where it draws fewer than two.

    Raises:
        ValueError: a domain that does not exist.
    """
    if unknown := [name for name in wanted if name not in LABELS]:
        raise ValueError(f"no domain {unknown[0]!r}; there are {', '.join(LABELS)}")
    names = class_names(data)
    domains = []
    for name in wanted:
        drawn = tuple(label for label in LABELS[name] if label in GENERATED)
        labels = drawn if len(drawn) > 1 else LABELS[name]
        uses = Counter(one for label in labels for one in dict.fromkeys(n.casefold() for n in names[label]))
        classes = tuple(
            (names[label][0], *(n for n in dict.fromkeys(names[label][1:]) if uses[n.casefold()] == 1))
            for label in labels
        )
        domains.append(PhotoDomain(name, labels, classes, len(LABELS[name]) - len(labels)))
    return domains


def photos_of(data: Path, split: str, labels: Collection[int], out: Path) -> Path:
    """Photos of some classes, as a dataset directory, made once."""
    if not is_dataset(out):
        with files_of_classes(data, split, labels, out.with_suffix(".parquet")) as source:
            import_dataset(source, out)
    return out
