"""Which class of a dataset is which class of the domain. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from distillation.errors import DatasetError
from distillation.recipe import Domain


def normalised(name: str) -> str:
    """Case, underscores, hyphens and repeated spaces do not tell classes apart."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def names_of(dataset_class: str) -> list[str]:
    """A dataset class and its synonyms: ``"goldfish, Carassius auratus"`` has two names beside itself."""
    return list(dict.fromkeys(normalised(name) for name in [dataset_class, *dataset_class.split(",")] if name.strip()))


def match_classes(dataset_classes: Sequence[str], domain: Domain) -> tuple[dict[int, int], list[str]]:
    """Match by name or synonym, on either side.

    Returns:
        dataset class index -> domain class index (classes outside the domain are left out), and warnings:
        domain classes without a match, dataset classes that match more than one class of the domain.

    Raises:
        DatasetError: no class matches.
    """
    domain_names: dict[str, int] = {}
    for index, item in enumerate(domain.classes):
        for name in item.names:
            domain_names.setdefault(normalised(name), index)
    mapping: dict[int, int] = {}
    warnings = []
    for index, dataset_class in enumerate(dataset_classes):
        found = list(dict.fromkeys(domain_names[n] for n in names_of(dataset_class) if n in domain_names))
        if found:
            mapping[index] = found[0]
        if len(found) > 1:
            candidates = ", ".join(f"'{domain.classes[i].name}'" for i in found)
            warnings.append(
                f"the dataset's class '{dataset_class}' matches {candidates}; "
                f"it is counted as '{domain.classes[found[0]].name}'"
            )
    if not mapping:
        raise DatasetError(
            "none of the dataset's classes is a class of the domain (the dataset has: "
            + ", ".join(f"'{name}'" for name in dataset_classes[:10])
            + (", ...)" if len(dataset_classes) > 10 else ")"),
            "name the folders, or the domain's classes and synonyms, alike",
        )
    missing = [item.name for i, item in enumerate(domain.classes) if i not in set(mapping.values())]
    if missing:
        warnings.append(f"{len(missing)} classes of the domain are not in the dataset: " + ", ".join(missing[:20]))
    return mapping, warnings
