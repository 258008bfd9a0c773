"""The model card: what the encoder is, what it was made from, what it scores, how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distillation.export.card_snippets import ONNX_SNIPPET, OPEN_CLIP_SNIPPET
from distillation.plan import model_folder
from distillation.recipe import Recipe
from distillation.recipe_data import draws_in_one_step
from distillation.recipe_fields import slug

SAMPLE_PROMPTS = 8
STARTS = {
    "scratch": "random weights",
    "base": "a base student distilled from the same teacher",
    "agnostic": "a domain-agnostic phase on unlabelled natural images",
}
SEEN = {
    "scratch": "It has seen no photo.",
    "base": "It began as a base student, which had seen unlabelled photos of many things.",
    "agnostic": "Before that it saw unlabelled photos, in a domain-agnostic phase.",
}
UNSTATED = "not stated in the recipe; look it up before you share this encoder"


def sample_prompts(shards: Sequence[Path]) -> list[str]:
    """A prompt of each of the first classes, as used for an image."""
    prompts: dict[str, str] = {}
    for shard in shards:
        with (shard / "images.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                prompts.setdefault(row["class"], row["prompt"])
                if len(prompts) == SAMPLE_PROMPTS:
                    return list(prompts.values())
    return list(prompts.values())


def stated_licence(stated: str, model: str, kind: str) -> str:
    """The recipe's licence, else the one on the card beside a local model's weights, else a warning.

    Args:
        kind: ``teacher`` or ``generator``.
    """
    folder = model_folder(model, kind)
    if stated or folder is None or not (folder / "README.md").is_file():
        return stated or UNSTATED
    data = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    return str(data.get("license_name") or data.get("license") or UNSTATED)


def write_card(folder: Path, recipe: Recipe, report: dict[str, Any], prompts: list[str]) -> None:
    """Write ``README.md`` with hub metadata.

    Args:
        report: the evaluation report with latency and int8 filled in.
    """
    data = ModelCardData(
        language="en",
        license="other",
        license_name="see-teacher-and-generator",
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "distillation", "synthetic-data", slug(recipe.domain.name)],
        model_name=slug(recipe.domain.name),
        eval_results=_eval_results(recipe, report),
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n",
        _introduction(recipe, report),
        _scores(report),
        _size_and_speed(report),
        _origin(recipe, report, prompts),
        _usage(report),
    ]
    ModelCard("\n".join(sections)).save(folder / "README.md")


def _eval_results(recipe: Recipe, report: dict[str, Any]) -> list[EvalResult]:
    """Real photos where there are any; else the synthetic score, labelled as such."""
    real = report["real"]
    name = real["dataset"] if real else "held-out synthetic images"
    if real and real.get("notes"):
        name += " (see the notes under Scores)"
    scores = (real or report["synthetic"])["student"]
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=slug(recipe.domain.name) + ("" if real else "-synthetic"),
            dataset_name=name,
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for metric, value in scores.items()
    ]


def _introduction(recipe: Recipe, report: dict[str, Any]) -> str:
    student, teacher = report["student"], report["teacher"]
    names = ", ".join(recipe.domain.class_names[:20])
    more = report["classes"] - 20
    return (
        f"# {recipe.domain.name}: a small image encoder\n\n"
        f"`{student['architecture']}` at {student['image_size']} pixels, distilled from the CLIP model "
        f"`{teacher['model']}` on {report['generation']['images']:,} synthetic images. "
        f"{_photos_seen(recipe, student['init'])} It keeps the teacher's text tower unchanged, so any text can be "
        f"compared with an image; outside its {report['classes']} classes nothing was measured.\n\n"
        f"Classes: {names}{f', and {more} more' if more > 0 else ''} (all in `labels.json`).\n"
    )


def _photos_seen(recipe: Recipe, init: str) -> str:
    """What was learnt from photos."""
    generator = recipe.data.generator.model
    drawn = " Its generator has learnt from photos of the classes." if draws_in_one_step(generator) else ""
    return SEEN[init] + drawn


def stated_revision(stated: str | None, tag: str | None = None) -> str:
    """Which weights a model has: a hub's commit, open_clip's tag, or those of a folder."""
    return f"revision {stated}" if stated else f"weights `{tag}`" if tag else "local weights"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _scores(report: dict[str, Any]) -> str:
    rows = ["## Scores", "", "Zero-shot, over all classes of the domain.", ""]
    rows += ["| images | model | top-1 | top-5 | mean recall per class |", "|---|---|---|---|---|"]
    for key, title in (("real", "real photos"), ("synthetic", "held-out synthetic")):
        section = report[key]
        for who in ("teacher", "student") if section else ():
            values = [_percent(section[who][m]) for m in ("acc1", "acc5", "mean_per_class_recall")]
            rows.append(f"| {title} ({section['images']:,}) | {who} | {' | '.join(values)} |")
    section = report["real"] or report["synthetic"]
    on = f"real photos of `{report['real']['dataset']}`" if report["real"] else "held-out synthetic images"
    if report["real"]:
        rows += [line for note in report["real"].get("notes", []) for line in ("", f"**{note}**")]
    rows += [
        "",
        f"On {on} the student gives the teacher's answer for {_percent(section['agreement'])} of the images; the mean "
        f"cosine of their features is {section['feature_cosine']:.3f}.",
        "",
        "The synthetic score is optimistic: those images come from the same generator as the training images, and "
        "where the recipe's filter is on, they were kept because the teacher recognises them.",
    ]
    if report["gap"]:
        rows.append(
            f"Synthetic minus real top-1: teacher {100 * report['gap']['teacher']:.1f} points, "
            f"student {100 * report['gap']['student']:.1f} points."
        )
    else:
        rows.append("**It was not measured on real photos.** Do so before you rely on it.")
    return "\n".join(rows) + "\n"


def _size_and_speed(report: dict[str, Any]) -> str:
    student, teacher = report["student"], report["teacher"]
    rows = [
        "## Size and speed",
        "",
        f"{student['params']:,} parameters (backbone and projection), {student['macs']:,} multiply-accumulates per "
        f"image. That is {_percent(student['saving_vs_image_tower'])} fewer parameters than the teacher's image tower "
        f"({teacher['params_image_tower']:,}), and {_percent(student['saving_vs_whole'])} fewer than the whole teacher "
        f"with its text tower ({teacher['params_total']:,}).",
    ]
    if report["latency"]:
        rows += ["", f"On {report['machine']}:", "", "| file | batch | p50 ms | p95 ms |", "|---|---|---|---|"]
        rows += [f"| {r['file']} | {r['batch']} | {r['p50_ms']} | {r['p95_ms']} |" for r in report["latency"]]
    rows += ["", f"int8: {'kept' if report['int8']['kept'] else 'not kept'}; {report['int8']['reason']}."]
    return "\n".join(rows) + "\n"


def _origin(recipe: Recipe, report: dict[str, Any], prompts: list[str]) -> str:
    teacher, generator, training = recipe.teacher, recipe.data.generator, recipe.training
    language_model = recipe.data.prompts.language_model
    dropped = sum(report["generation"]["dropped"].values())
    losses = ", ".join(f"{weight:g} x {name}" for name, weight in training.losses.items())
    started = STARTS[report["student"]["init"]]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rows = [
        "## What it was made from",
        "",
        f"- Teacher: `{teacher.model}`, {stated_revision(teacher.revision, teacher.pretrained)}. "
        f"Licence: {stated_licence(teacher.licence, teacher.model, 'teacher')}.",
        f"- Generator: `{generator.model}`, {stated_revision(generator.revision)}, "
        f"{generator.steps} steps, guidance {generator.guidance:g}. "
        f"Licence: {stated_licence(generator.licence, generator.model, 'generator')}.",
        f"- Images: {report['generation']['images']:,} kept, {dropped:,} dropped by the quality filter. The teacher "
        f"recognised {_percent(report['generation']['teacher_acc1'])} of the first tries.",
        f"- Training: from {started}, {report['training']['steps']:,} steps, loss {losses}.",
        f"- Seeds: data {recipe.data.seed}, training {training.seed}.",
        f"- Versions: {versions}.",
        "",
        "Everything that decides the result is in `recipe.yaml`.",
        "",
        "Prompts, some of them" + (f" (options by `{language_model.model}`)" if language_model else "") + ":",
        "",
        *(f"- {prompt}" for prompt in prompts),
    ]
    return "\n".join(rows) + "\n"


def _usage(report: dict[str, Any]) -> str:
    text = f"## Use\n\nIn open_clip, from this folder:\n\n```python\n{OPEN_CLIP_SNIPPET}```\n"
    if report["parity"].get("classifier.onnx") is not None:
        text += f"\nIn onnxruntime, without PyTorch:\n\n```python\n{ONNX_SNIPPET}```\n"
    return text
