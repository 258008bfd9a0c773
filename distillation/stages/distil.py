"""Stage ``distil``: the student learns the teacher's cached features of the synthetic images.

The teacher's towers are loaded for its configuration and text features only; no teacher runs in the training loop.
Where the recipe says ``training.agnostic.mix``, photos of the domain-agnostic phase take their share of each batch.
"""

from __future__ import annotations

import torch

from distillation.corpus import Corpus
from distillation.distilling import distil_student, facts_of, load_recipe_teacher
from distillation.mixed_corpus import MixedCorpus
from distillation.prompts import zero_shot_prompts
from distillation.protocol import Reporter, Request, StageError
from distillation.recipe import NEED_CAPTIONS
from distillation.stages.embed import photo_folders


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write ``student.safetensors``, ``student.json`` and ``curve.jsonl``."""
    recipe = request.recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with_captions = not NEED_CAPTIONS.isdisjoint(recipe.training.losses)
    try:
        corpus = Corpus.open(
            request.inputs["generate"], device, mirror=recipe.training.flip, with_captions=with_captions
        )
    except ValueError as error:
        raise StageError("too_many_dropped", str(error), "raise data.images_per_class", "data") from error
    teacher = load_recipe_teacher(recipe, device)
    head = teacher.zero_shot_head(zero_shot_prompts(recipe.domain))
    facts = facts_of(teacher, corpus.captions)
    del teacher
    training_images: Corpus | MixedCorpus = corpus
    if recipe.training.mix:
        photos = Corpus.open(photo_folders(request.inputs["embed"][0]), device, mirror=recipe.training.flip)
        training_images = MixedCorpus(corpus, photos, recipe.training.mix)
    earlier = request.inputs.get("agnostic")
    return distil_student(
        request,
        report,
        corpus=training_images,
        training=recipe.training,
        teacher=facts,
        earlier=earlier[0] if earlier else None,
        head=head,
    )
