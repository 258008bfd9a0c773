"""The model card of a generator: what it draws, what it learnt from, its figures, how to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from distillation.export.card import stated_licence, stated_revision
from distillation.generator_recipe import GeneratorRecipe
from distillation.recipe import Domain
from distillation.recipe_fields import slug

NAMED_CLASSES = 60
UNSTATED = "not stated; look it up before you share this generator"
SNIPPET = """import torch
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(".", dtype=torch.float32)
image = pipeline("a photo of a {name}", num_inference_steps=1, guidance_scale=0.0).images[0]
"""


def write_card(folder: Path, recipe: GeneratorRecipe, domain: Domain, report: dict[str, Any]) -> None:
    """Write ``README.md`` with hub metadata; the licence in it is of the photos and of the teacher, who bind alike."""
    licence = report["licence"] or UNSTATED
    teachers = stated_licence(recipe.teacher.licence, recipe.teacher.model, "teacher")
    data = ModelCardData(
        language="en",
        license="other",
        license_name=f"photos: {licence}; teacher: {teachers}",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["one-step", "projected-gan", slug(recipe.name)],
        model_name=slug(recipe.name),
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n",
        _introduction(recipe, domain, report),
        _figures(report),
        _origin(recipe, report, licence),
        f"## Use\n\n```python\n{SNIPPET.format(name=domain.classes[0].name)}```\n\n"
        "In a recipe: `data.generator: {model: PATH, steps: 1, guidance: 0}`. One step is what it was trained for.\n",
    ]
    ModelCard("\n".join(sections)).save(folder / "README.md")


def _introduction(recipe: GeneratorRecipe, domain: Domain, report: dict[str, Any]) -> str:
    names = ", ".join(domain.class_names[:NAMED_CLASSES])
    more = len(domain.classes) - NAMED_CLASSES
    return (
        f"# {recipe.name}: a one-step generator\n\n"
        f"Text to image at {recipe.size} x {recipe.size} pixels, trained on {report['photos']['training']:,} labelled "
        f"photos of {len(domain.classes)} classes. It makes training images for small encoders; it is no artist, and "
        "knows nothing but its classes.\n\n"
        f"Classes: {names}{f', and {more} more' if more > 0 else ''}.\n"
    )


def _figures(report: dict[str, Any]) -> str:
    acc1, near = report["teacher_acc1"], report["nearest_training_photo"]
    rows = [
        "## Figures",
        "",
        f"Of {report['images']:,} generated images (one step, prompt `a photo of a ...`) and of "
        f"{report['photos']['held_out']:,} photos that were held out of training:",
        "",
        "| | generated | held-out photos |",
        "|---|---|---|",
        f"| teacher's top-1 among the classes, mean over classes | {acc1['generated']:.1%} | {acc1['held_out']:.1%} |",
    ]
    if apart := report["variety"]:
        cells = " | ".join(f"{value:.4f}" for value in apart.values())
        rows.append(f"| cosine distance of two images of a class, teacher's features, mean | {cells} |")
    if kid := report["kid"]:
        cells = " | ".join(f"{kid[key]['mean']:.4f} ± {kid[key]['deviation']:.4f}" for key in kid)
        rows.append(f"| KID, teacher's features: with held-out photos; between their halves | {cells} |")
    for key, title in (("smallest_rms", "smallest"), ("median_rms", "median")):
        rows.append(
            f"| rms to the nearest training photo, {title} | {near['generated'][key]:.4f} | "
            f"{near['held_out'][key]:.4f} |"
        )
    rows += [
        "",
        f"{report['images_per_s']:,} images/s on {report['device']}. KID: unbiased squared MMD, kernel (cosine + 1)^3, "
        "mean and deviation over 100 subsets (arXiv 1801.01401). Distances: pixels of [0, 1] at 64 pixels or fewer, "
        "mirrored photos too; a memorised photo would lie far below what held-out photos show. The teacher's features "
        "were trained on, so its top-1 flatters generated images; where their distance within a class is far below "
        "that of photos, the generator repeats itself, and students learn less from it than its top-1 promises.",
    ]
    return "\n".join(rows) + "\n"


def _origin(recipe: GeneratorRecipe, report: dict[str, Any], licence: str) -> str:
    training = report["training"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rows = [
        "## What it was made from",
        "",
        f"- Photos: their licence: {licence}. What they forbid, these weights may not be used for either.",
        f"- Teacher, whose text encoder it has: `{recipe.teacher.model}`, "
        f"{stated_revision(recipe.teacher.revision, recipe.teacher.pretrained)}. "
        f"Licence: {stated_licence(recipe.teacher.licence, recipe.teacher.model, 'teacher')}.",
        f"- Gone on from: {recipe.base or 'nothing'}.",
        f"- Training: {training['steps']:,} steps of {recipe.batch_size} images, {training['seconds']:,} seconds, seed "
        f"{recipe.seed}; {training['method']}, "
        "discriminators on feature maps (arXiv 2111.01007).",
        f"- Versions: {versions}.",
    ]
    return "\n".join(rows) + "\n"
