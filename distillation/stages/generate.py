"""Stage ``generate``: one shard of synthetic images with the teacher's features of their views.

The teacher sees each image while it is in memory: it filters by the class it recognises and embeds the views that
training will show the student, so no later stage runs it on these images again.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillation.embedding import Embedder
from distillation.jpeg import JpegWriter
from distillation.photo_notes import learnt_from
from distillation.plan import resolve_model
from distillation.prompts import zero_shot_prompts
from distillation.protocol import Interrupted, Reporter, Request, StageError, write_atomically
from distillation.quality import judge
from distillation.recipe import Recipe
from distillation.sampling_plan import Row, describe_rows, image_seed, shard_rows
from distillation.shard_files import GIVEN_UP, KEPT, Progress, ShardFiles
from distillation.shard_samples import write_samples
from distillation.teachers import stored_side
from models.generators import load_generator
from models.sampling import Sampler
from models.teachers import load_teacher

SAVE_SECONDS = 5.0
VIEWS = -1
"""Stands for the number of the try in the seed of an image's views."""
ENOUGH_SAMPLES = 256
FEWEST_ROWS = 4
"""A class with fewer rows in this shard is only warned about: one image more or less says nothing."""


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Make one shard; the files are listed in docs/architecture.md."""
    recipe, out = request.recipe, request.out
    prompts = json.loads((request.inputs["prompts"][0] / "prompts.json").read_text(encoding="utf-8"))["classes"]
    rows = shard_rows(recipe, prompts, request.shard)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = _generator(request)
    sampler = _sampler(recipe, generator, device, report)
    teacher = load_teacher(
        resolve_model(recipe.teacher.model, "teacher"), recipe.teacher.pretrained, recipe.teacher.revision, device
    )
    embedder = Embedder(
        teacher,
        zero_shot_prompts(recipe.domain),
        on_halved=lambda size: report.warning("batch_halved", f"memory ran out: the teacher sees {size} views at once"),
    )
    side = min(sampler.size, stored_side(teacher.image_size))
    views = recipe.training.views
    files = ShardFiles.open(
        out,
        len(rows),
        {
            "pixels": ((side, side, 3), "uint8"),
            "views": ((views, 5), "float32"),
            "features": ((views, teacher.embed_dim), "float16"),
        },
    )
    with JpegWriter(out / "images.tar", files.progress.jpeg_bytes) as writer:
        _fill(recipe, rows, files, sampler, embedder, writer, report)
    _check_classes(rows, files.progress, report)
    kept = files.finish(out)
    chosen = [rows[number] for number in kept]
    np.save(out / "labels.npy", np.array([row.label for row in chosen], np.int32))
    np.save(out / "holdout.npy", np.array([row.holdout for row in chosen], np.bool_))
    described = describe_rows(recipe, generator, chosen, files.progress.attempts[kept].tolist())
    write_atomically(out / "images.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in described))
    if rows[0].index < len(recipe.domain.classes):
        # Shards that hold the first image of a class show samples: as many as there are classes, however many images.
        write_samples(out, described)
    summary = _summary(files.progress)
    files.remove()
    return {**summary, "learnt_from": learnt_from(generator)}


def _generator(request: Request) -> str:
    """The pipeline's directory or hub id: that of a trained generator is an input."""
    if trained := request.inputs.get("generator"):
        return str(trained[0] / "generator")
    return resolve_model(request.recipe.data.generator.model, "generator")


def _sampler(recipe: Recipe, model: str, device: torch.device, report: Reporter) -> Sampler:
    wanted = recipe.data.generator
    pipeline = load_generator(model, device=device, revision=wanted.revision, lora=wanted.lora, decoder=wanted.decoder)
    return Sampler(
        pipeline,
        steps=wanted.steps,
        guidance=wanted.guidance,
        batch_size=wanted.batch_size,
        size=wanted.size,
        negative_prompt=wanted.negative_prompt,
        on_halved=lambda size: report.warning("batch_halved", f"memory ran out: sampling {size} images at once"),
    )


def _fill(
    recipe: Recipe,
    rows: list[Row],
    files: ShardFiles,
    sampler: Sampler,
    embedder: Embedder,
    writer: JpegWriter,
    report: Reporter,
) -> None:
    """Sample, judge and embed batches until no row is pending; saves now and then, and when asked to stop."""
    progress, keep_rule = files.progress, recipe.data.filter
    side = files.arrays["pixels"].shape[1]
    saved = began = time.monotonic()
    earlier = progress.seconds
    while len(batch := progress.next_rows(sampler.batch_size)):
        if report.stop_requested:
            _save(files, writer)
            raise Interrupted
        chosen = [rows[number] for number in batch]
        tries = progress.attempts[batch]
        seeds = [image_seed(recipe.data.seed, row.index, int(n)) for row, n in zip(chosen, tries, strict=True)]
        images = sampler.sample([row.prompt for row in chosen], seeds)
        pixels = embedder.resize(images, side)
        whole = embedder.whole(pixels)
        labels = torch.tensor([row.label for row in chosen], device=whole.device)
        verdict = judge(
            pixels,
            whole @ embedder.head,
            labels,
            drop_near_constant=keep_rule.near_constant,
            drop_disagreeing=keep_rule.teacher_agrees,
        )
        keep = verdict.keep.cpu().numpy()
        if keep.any():
            view_seeds = [image_seed(recipe.data.seed, chosen[i].index, VIEWS) for i in np.flatnonzero(keep)]
            views, features = embedder.views(pixels[verdict.keep], whole[verdict.keep], view_seeds, recipe.training)
            store: dict[str, NDArray[Any]] = {
                "pixels": pixels[verdict.keep].cpu().numpy(),
                "views": views.numpy(),
                "features": features.half().cpu().numpy(),
            }
            for name, values in store.items():
                files.arrays[name][batch[keep]] = values
            writer.put([chosen[i].index for i in np.flatnonzero(keep)], images[verdict.keep].cpu().numpy())
        progress.first_right += int(verdict.right.cpu().numpy()[tries == 0].sum())
        progress.near_constant += int(verdict.near_constant.sum())
        progress.disagrees += int(verdict.disagrees.sum())
        progress.attempts[batch] += 1
        progress.state[batch[keep]] = KEPT
        failed = batch[~keep]
        progress.state[failed[progress.attempts[failed] >= keep_rule.max_attempts]] = GIVEN_UP
        progress.seconds = earlier + time.monotonic() - began
        report.progress(progress.kept, len(rows), "images", dropped=progress.dropped)
        _check_dropped(progress, keep_rule.max_dropped, len(rows))
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(files, writer)
            saved = time.monotonic()
    _save(files, writer)


def _save(files: ShardFiles, writer: JpegWriter) -> None:
    files.progress.jpeg_bytes = writer.sync()
    files.save()


def _check_dropped(progress: Progress, most: float, rows: int) -> None:
    if progress.sampled < min(rows, ENOUGH_SAMPLES) or progress.dropped <= most * progress.sampled:
        return
    share = progress.dropped / progress.sampled
    raise StageError(
        "too_many_dropped",
        f"{share:.0%} of {progress.sampled} images were dropped: {progress.disagrees} that the teacher took for "
        f"another class, {progress.near_constant} near-constant",
        "use a better generator or more steps, prompts closer to the class, or relax data.filter",
        "data.filter.max_dropped",
    )


def _check_classes(rows: list[Row], progress: Progress, report: Reporter) -> None:
    """Warn of rows that no try filled; fail if a class lost more than half of its rows here."""
    wanted: dict[str, int] = {}
    found: dict[str, int] = {}
    for row, state in zip(rows, progress.state, strict=True):
        wanted[row.name] = wanted.get(row.name, 0) + 1
        found[row.name] = found.get(row.name, 0) + int(state == KEPT)
    short = {name: count for name, count in wanted.items() if found[name] < count}
    poor = [name for name, count in short.items() if count >= FEWEST_ROWS and found[name] < count / 2]
    if poor or not progress.kept:
        listed = ", ".join(f"'{name}' ({found[name]} of {wanted[name]})" for name in (poor or list(short))[:10])
        raise StageError(
            "too_many_dropped",
            f"too few usable images of {listed}",
            "the generator cannot draw these classes or the teacher does not know them: rename them, add synonyms, "
            "describe them in prompts ({description} in data.prompts.template), raise data.filter.max_attempts, or set "
            "data.filter.teacher_agrees to false",
            "domain.classes",
        )
    if short:
        listed = ", ".join(f"'{name}' {found[name]} of {wanted[name]}" for name in list(short)[:10])
        report.warning("images_missing", f"{sum(wanted[n] - found[n] for n in short)} images left out: {listed}")


def _summary(progress: Progress) -> dict[str, object]:
    return {
        "images": progress.kept,
        "dropped": {"disagrees": progress.disagrees, "near_constant": progress.near_constant},
        "images_per_s": round(progress.kept / max(progress.seconds, 1e-9), 2),
        "teacher_acc1": round(progress.first_right / len(progress.state), 4),
    }
