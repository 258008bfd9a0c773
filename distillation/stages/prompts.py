"""Stage ``prompts``: the prompts of every class."""

from __future__ import annotations

import json

from distillation.language import options_of_classes
from distillation.prompts import domain_prompts
from distillation.protocol import Reporter, Request, StageError, write_atomically
from distillation.taught_classes import taught_classes, untaught_classes


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write ``prompts.json``: ``{"classes": {name: [prompt, ...]}, "source": ...}``."""
    if untaught := untaught_classes(request.recipe, taught_classes(request.recipe.data.generator.model)):
        index, message = next(iter(untaught.items()))
        raise StageError("unknown_class", message, "", f"domain.classes.{index}")
    domain, prompts = request.recipe.domain, request.recipe.data.prompts
    source, options = "recipe", None
    total = len(domain.classes)
    if prompts.explicit is not None:
        source = "explicit"
    elif prompts.language_model is not None:
        source = prompts.language_model.kind
        options = options_of_classes(
            prompts.language_model,
            domain.classes,
            domain.superclass,
            list(prompts.dimensions),
            prompts.options,
            lambda done: report.progress(done, total, "classes"),
        )
    classes = domain_prompts(domain, prompts, options)
    content = json.dumps({"classes": classes, "source": source}, indent=1, ensure_ascii=False)
    write_atomically(request.out / "prompts.json", content + "\n")
    report.progress(total, total, "classes")
    return {"classes": total, "prompts": sum(len(item) for item in classes.values()), "source": source}
