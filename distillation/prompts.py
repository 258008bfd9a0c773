"""Prompts of each class: options of contextual dimensions combined by pairwise covering design. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from allpairspy import AllPairs

from distillation.recipe import ClassSpec, Domain
from distillation.recipe_data import Prompts

Dimensions = Mapping[str, Sequence[str]]


def covering(dimensions: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Combinations in which every pair of options of two dimensions occurs (5 options in 4 dimensions: about 30)."""
    if not dimensions:
        return [()]
    if len(dimensions) == 1:
        return [(option,) for option in dimensions[0]]
    return [tuple(row) for row in AllPairs([list(options) for options in dimensions])]


def class_prompts(item: ClassSpec, superclass: str, template: str, dimensions: Dimensions) -> list[str]:
    """The prompts of one class, each once, in covering order."""
    rows = covering(list(dimensions.values()))
    return list(dict.fromkeys(fill(template, item, superclass, row) for row in rows))


def fill(template: str, item: ClassSpec, superclass: str, options: Sequence[str]) -> str:
    """Fill a template; what an empty field leaves behind (``, ,``, ``()``, doubled spaces) is tidied away."""
    text = template.format(
        name=item.name, superclass=superclass, description=item.description, context=", ".join(options)
    )
    text = re.sub(r"\(\s*\)", "", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*,(\s*,)+", ",", text)
    return re.sub(r"\s+,", ",", text).strip(" ,")


def domain_prompts(
    domain: Domain, prompts: Prompts, options: Mapping[str, Dimensions] | None = None
) -> dict[str, list[str]]:
    """Prompts of every class, by class name.

    Args:
        options: dimensions of each class by name, from a language model; None: the recipe's own for all classes.
    """
    if prompts.explicit is not None:
        return {name: list(dict.fromkeys(prompts.explicit[name])) for name in domain.class_names}
    return {
        item.name: class_prompts(
            item, domain.superclass, prompts.template, prompts.dimensions if options is None else options[item.name]
        )
        for item in domain.classes
    }


def zero_shot_prompts(domain: Domain) -> list[list[str]]:
    """Prompts of every class for the teacher's zero-shot head: each template with the name and every synonym."""
    return [[template.format(name) for name in item.names for template in domain.templates] for item in domain.classes]
