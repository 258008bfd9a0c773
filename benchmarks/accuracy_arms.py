"""The arms of ``benchmarks.time_to_accuracy``: one student, started alike, taught in different ways on a clock."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.harness import synchronize
from benchmarks.peers import online_l2_peer, open_clip_peer
from distillation.corpus import Corpus
from distillation.distilling import WEIGHTS, facts_of, load_recipe_teacher, resolve
from distillation.embedding import Embedder
from distillation.image_sets import ImageSet
from distillation.optimizers import SETTINGS
from distillation.plan import base_student
from distillation.preprocess import preprocess, student_preprocess
from distillation.prompts import zero_shot_prompts
from distillation.recipe import NEED_CAPTIONS, Recipe, Training
from distillation.sampling_plan import image_seed
from distillation.trainer import Trainer
from distillation.views import apply_views, sample_views
from models.students import build_student, student_config
from models.teachers import TeacherModel

AT_ONCE = 64


@dataclass
class Arm:
    """One student in training.

    Args:
        step: number of the step and learning rate -> one optimiser step.
        tower: the student's image tower.
        head: its zero-shot head ``(embed_dim, classes)`` as it is now.
        seconds: on the clock so far.
        curve: seconds and held-out accuracy at every measurement.
    """

    step: Callable[[int, float], object]
    tower: nn.Module
    head: Callable[[], Tensor]
    seconds: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """Normalised pixels and labels of images to measure on."""

    pixels: Tensor
    labels: Tensor


@dataclass
class Job:
    """What all arms share.

    Args:
        recipe: its training's seed is the run's.
        shards: folders of the generate stage.
        corpus: the shards' images, with captions.
        exact_teacher: the teacher as open_clip loads it, in fp32.
        config: the student's open_clip configuration.
        tower: the student as every arm starts with it.
    """

    recipe: Recipe
    shards: list[Path]
    corpus: Corpus
    teacher: TeacherModel
    exact_teacher: nn.Module
    config: dict[str, Any]
    tower: nn.Module

    @property
    def size(self) -> int:
        """Side of the pixels that student and teacher see."""
        return int(self.config["vision_cfg"]["image_size"])

    @cached_property
    def head(self) -> Tensor:
        return self.teacher.zero_shot_head(zero_shot_prompts(self.recipe.domain))

    def measured(self, images: ImageSet) -> Measured:
        """Images that no arm trains on, as the evaluate stage shows them to the student."""
        cfg = student_preprocess(self.teacher.preprocess_cfg, self.size)
        pixels = torch.cat([preprocess(batch, cfg) for batch in images.batches(AT_ONCE)])
        device = self.teacher.device
        return Measured(pixels.to(device), torch.from_numpy(images.labels).to(device))

    def normalised(self, images: Tensor, views: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=images.device) for v in (self.teacher.mean, self.teacher.std))
        return apply_views(images, views, self.size, mean, std)

    @torch.inference_mode()
    def accuracy(self, arm: Arm, on: Measured) -> float:
        """Share of the images that the student gives their class; in fp32."""
        arm.tower.eval()
        features = torch.cat([F.normalize(arm.tower(part).float(), dim=-1) for part in on.pixels.split(AT_ONCE)])
        arm.tower.train()
        return float(((features @ arm.head()).argmax(1) == on.labels).float().mean())

    def fresh(self, number: int) -> tuple[Tensor, Tensor]:
        """Pixels of step ``number`` in new random views, and each image's caption."""
        training = self.recipe.training
        batch = self.corpus.batch(number * training.batch_size, training.batch_size, training.seed)
        generator = torch.Generator().manual_seed(image_seed(training.seed, number, 0))
        views = sample_views(training.batch_size, scale=training.crop_scale, generator=generator)
        assert batch.caption is not None
        return self.normalised(batch.images, views), batch.caption


def new_job(recipe: Recipe, shards: list[Path], device: torch.device) -> Job:
    """Load the recipe's teacher, twice, and its student with the weights that a job of it would start from."""
    teacher = load_recipe_teacher(recipe, device)
    chosen = resolve(recipe, facts_of(teacher, []))
    if chosen.image_size != teacher.image_size:
        raise SystemExit("student and teacher must see images of one size: the peers show both the same pixels")
    config = student_config(chosen.architecture, chosen.image_size, teacher.model_cfg)
    torch.manual_seed(0)
    tower = build_student(config)
    if start := base_student(recipe):
        tower.load_state_dict(load_file(start / WEIGHTS))
    exact = open_clip.create_model(
        f"local-dir:{teacher.folder}" if teacher.folder else recipe.teacher.model,
        pretrained=recipe.teacher.pretrained,
        require_pretrained=True,
        force_custom_text=True,
        output_dict=True,
        device=device,
    )
    corpus = Corpus.open(shards, device, with_captions=True)
    return Job(recipe, shards, corpus, teacher, exact.eval().requires_grad_(False), config, tower)


def ours(job: Job, folder: Path, **changes: Any) -> Arm:
    """The product's cache and trainer; building the cache is on the clock.

    Args:
        folder: for the cache.
        changes: of the recipe's training.
    """
    training, device = job.recipe.training.model_copy(update=changes), job.teacher.device
    with_captions = not NEED_CAPTIONS.isdisjoint(training.losses)
    began = time.perf_counter()
    embedder = Embedder(job.teacher, zero_shot_prompts(job.recipe.domain), on_halved=lambda size: None)
    shards = [
        _cached(shard, folder / str(number), embedder, training, device) for number, shard in enumerate(job.shards)
    ]
    corpus = Corpus.open(shards, device, mirror=training.flip, with_captions=with_captions)
    facts = facts_of(job.teacher, corpus.captions)
    trainer = Trainer(copy.deepcopy(job.tower), job.size, training, facts, device)
    synchronize(device.type)
    seconds = time.perf_counter() - began
    size, seed = training.batch_size, training.seed
    return Arm(
        lambda number, lr: trainer.step(corpus.batch(number * size, size, seed), number, lr),
        trainer.student,
        lambda: job.head,
        seconds,
    )


def _settings(job: Job) -> dict[str, Any]:
    """Of a peer's optimiser: those of the product's."""
    training = job.recipe.training
    same = {name: SETTINGS["adamw"][name] for name in ("betas", "eps")}
    return {"lr": training.lr, "weight_decay": training.weight_decay, **same}


def _set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _cached(shard: Path, out: Path, embedder: Embedder, training: Training, device: torch.device) -> Path:
    """A shard with new views and their features, beside links to its other arrays."""
    out.mkdir(parents=True)
    for name in ("pixels.npy", "holdout.npy", "labels.npy", "images.jsonl"):
        (out / name).symlink_to(shard / name)
    pixels = np.load(shard / "pixels.npy", mmap_mode="r")
    parts = []
    for start in range(0, len(pixels), AT_ONCE):
        images = torch.from_numpy(pixels[start : start + AT_ONCE].copy()).to(device)
        seeds = [image_seed(training.seed, start + i, -1) for i in range(len(images))]
        parts.append(embedder.views(images, embedder.whole(images), seeds, training))
    views, features = (torch.cat(column) for column in zip(*parts, strict=True))
    np.save(out / "views.npy", views.numpy())
    np.save(out / "features.npy", features.half().cpu().numpy())
    return out


def online_l2(job: Job, *, tuned: bool) -> Arm:
    """The paper's loop: the teacher sees the same new views as the student, in every step."""

    def plain(pixels: Tensor) -> Tensor:
        features: Tensor = job.exact_teacher.encode_image(pixels, normalize=True)  # type: ignore[operator]
        return features

    teach = job.teacher.encode_image if tuned else plain
    peer = online_l2_peer(job.tower, teach, tuned=tuned, device=job.teacher.device, **_settings(job))

    def step(number: int, lr: float) -> None:
        _set_rate(peer.optimizer, lr)
        peer.step(job.fresh(number)[0])

    return Arm(step, peer.model, lambda: job.head)


def open_clip_distillation(job: Job, *, tuned: bool) -> Arm:
    """open_clip's loop on images and their prompts; the text tower starts as the teacher's and is trained along."""
    device = job.teacher.device

    def in_our_precision(pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        text = F.normalize(job.teacher.text_tower(tokens), dim=-1)
        scale = job.teacher.model.get_parameter("logit_scale").exp()
        return {"image_features": job.teacher.encode_image(pixels), "text_features": text, "logit_scale": scale}

    peer = open_clip_peer(
        job.config,
        in_our_precision if tuned else job.exact_teacher,
        tuned=tuned,
        # On a CPU its bf16 autocast is slower than fp32, and weights in bf16 would learn less.
        precision="autocast" if tuned and device.type == "cuda" else "fp32",
        device=device,
        **_settings(job),
    )
    start = {name: tensor for name, tensor in job.exact_teacher.state_dict().items() if not name.startswith("visual.")}
    start |= {f"visual.{name}": tensor for name, tensor in job.tower.state_dict().items()}
    peer.model.load_state_dict(start)
    tokens = job.teacher.tokenizer(job.corpus.captions).to(device)
    own = replace(job.teacher, model=peer.model)

    def step(number: int, lr: float) -> None:
        pixels, caption = job.fresh(number)
        _set_rate(peer.optimizer, lr)
        peer.step(pixels, tokens[caption])

    tower: nn.Module = peer.model.get_submodule("visual")
    return Arm(step, tower, lambda: own.zero_shot_head(zero_shot_prompts(job.recipe.domain)))
