"""A training step of open_clip's own distillation and an online L2 step against ours with cached features.

    python -m benchmarks.distil [--student resnet10t] [--batch-size 32] [--rounds 7] [--threads 2]

One run, arms in turns, the same images, student architecture and batch. The teacher is ViT-B/32 at 224 pixels with
random weights. Arms:

- `open_clip`: its `DistillClipLoss` step; student with a text tower of its own, teacher's both towers in every step.
- `online L2`: the paper's loss, the teacher's image tower in every step.
- `ours`: the product's step, whole: gather from the memory map, crop, flip, normalise, student, L2 against cached
  features, AdamW, averaged weights.

Peers come as they are by default (fp32) and tuned: open_clip's `pure_bf16` precision for its towers and the teacher
(its bf16 autocast is slower than fp32 on a CPU), bf16 autocast for the online student, channels-last, fused AdamW.
They are handed normalised pixels and tokens for nothing, which favours them.

The share of the matmul limit depends on the student and on the CPU: plain wide convolutions come near it, while half
of a step of `hgnetv2_b0` or `shvit_s1` is normalisation and activations that wait for memory. It is small on CPUs
with matrix units (AMX): they raise the limit several times and memory stays as it is. Compiling the step
(torch.compile, 20 to 55 s once) made it slower here: 0.93 times with cs3darknet_s, 0.84 with resnet10t.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import typer
from open_clip.loss import DistillClipLoss
from torch import Tensor, nn

from benchmarks.harness import interleaved, matmul_flops, print_table, ratio, write_json
from benchmarks.made_images import write_shard
from distillation.corpus import Corpus
from distillation.recipe import Training
from distillation.trainer import TeacherFacts, Trainer
from distillation.views import apply_views
from models.losses import l2
from models.students import build_student, count_macs, count_params, student_config

TEACHER = "ViT-B-32"
STORED, SIDE, VIEWS = 256, 256, 4
AGREEMENT = 0.02
"""Largest relative difference of our first loss from the same loss in fp32, without any of our changes."""


def main(
    student: Annotated[str, typer.Option(help="timm name of the student.")] = "resnet10t",
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    teacher = open_clip.create_model(TEACHER, output_dict=True, device=device).eval().requires_grad_(False)
    config = student_config(student, 224, open_clip.get_model_config(TEACHER))
    facts = TeacherFacts(
        model_cfg=config,
        image_size=224,
        embed_dim=config["embed_dim"],
        params_image_tower=count_params(teacher.visual),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        scale=100.0,
    )
    with tempfile.TemporaryDirectory(prefix="bench-distil-") as folder:
        noise = np.random.default_rng(0).integers(0, 256, (STORED, SIDE, SIDE, 3), dtype=np.uint8)
        corpus = Corpus.open([write_shard(Path(folder), noise, VIEWS, config["embed_dim"])], device)
        pixels = _pixels(corpus, batch_size, facts)
        tokens = torch.randint(1, 49000, (batch_size, 77), device=device)
        tower = build_student(config)
        params, macs = count_params(tower), count_macs(tower, 224)
        ours = _ours(tower, corpus, batch_size, facts)
        arms = {
            "open_clip": _open_clip_step(config, teacher, pixels, tokens, tuned=False),
            "open_clip, tuned": _open_clip_step(config, teacher, pixels, tokens, tuned=True),
            "online L2": _online_step(tower, teacher, pixels, tuned=False),
            "online L2, tuned": _online_step(tower, teacher, pixels, tuned=True),
            "ours": ours,
        }
        flops = matmul_flops(torch.bfloat16, device.type)
        seconds = interleaved(arms, rounds, device.type)
        flops = max(flops, matmul_flops(torch.bfloat16, device.type))
    limit = flops / (6 * macs)
    rates = {name: batch_size / statistics.median(values) for name, values in seconds.items()}
    ratios = {name: ratio(values, seconds["ours"]) for name, values in seconds.items() if name != "ours"}
    share = rates["ours"] / limit
    print_table(
        f"{student}: {params / 1e6:.2f} M params, {macs / 1e9:.2f} GMAC, batch {batch_size}, {threads} threads",
        ["arm", "images/s", "ours is faster by"],
        [*([name, rates[name], ratios[name]] for name in ratios), ["ours", rates["ours"], ""]],
    )
    print_table(
        "against the limit and the goals",
        ["figure", "measured", "goal"],
        [
            ["ours / open_clip", ratios["open_clip"], ">= 10x"],
            ["ours / online L2", ratios["online L2"], ">= 4.5x"],
            ["share of the student-only bf16 matmul limit", f"{share:.0%} of {limit:.0f}/s", ">= 50 %"],
        ],
    )
    write_json(
        "distil",
        {
            "student": {"architecture": student, "params": params, "macs": macs},
            "batch_size": batch_size,
            "rounds": rounds,
            "images_per_s": rates,
            "ratios": {name: value._asdict() for name, value in ratios.items()},
            "matmul_flops": flops,
            "limit_images_per_s": limit,
            "share_of_limit": share,
        },
    )


def _pixels(corpus: Corpus, batch_size: int, facts: TeacherFacts) -> Tensor:
    """The first batch as the peers get it: cropped and normalised, in plain NCHW memory."""
    batch = corpus.batch(0, batch_size, 0)
    mean, std = (torch.tensor(values, device=corpus.device) for values in (facts.mean, facts.std))
    return apply_views(batch.images, batch.views, 224, mean, std).contiguous()


def _ours(tower: nn.Module, corpus: Corpus, batch_size: int, facts: TeacherFacts) -> Callable[[], object]:
    """The product's step, checked first: its loss is the plain fp32 one on the peers' pixels."""
    wanted = Training.model_validate({"batch_size": batch_size, "views": VIEWS})
    plain = copy.deepcopy(tower).to(corpus.device).train()
    trainer = Trainer(copy.deepcopy(tower), 224, wanted, facts, corpus.device)
    first = corpus.batch(0, batch_size, 0)
    with torch.no_grad():
        expected = l2(F.normalize(plain(_pixels(corpus, batch_size, facts)), dim=-1), first.features).item()
    found = trainer.step(first, 0, 0.0).item()
    if abs(found - expected) > AGREEMENT * expected:
        raise SystemExit(f"the arms do not compute the same loss: {found} and {expected}")
    done = 0

    def step() -> None:
        nonlocal done
        trainer.step(corpus.batch(done * batch_size, batch_size, 0), done, 1e-3)
        done += 1

    return step


def _optimizer(model: nn.Module, tuned: bool) -> torch.optim.Optimizer:
    """As open_clip's trainer sets it up."""
    return torch.optim.AdamW(
        model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=tuned or None
    )


def _open_clip_step(
    config: dict[str, Any], teacher: nn.Module, pixels: Tensor, tokens: Tensor, *, tuned: bool
) -> Callable[[], object]:
    """The body of ``open_clip_train``'s loop with ``--distill-model``."""
    settings = {name: value for name, value in config.items() if name != "custom_text"}
    model = open_clip.CustomTextCLIP(**settings, output_dict=True).to(pixels.device).train()
    if tuned:
        model = model.to(torch.bfloat16).to(memory_format=torch.channels_last)
        teacher, pixels = _in_bf16(teacher), _in_bf16(pixels)
    optimizer, loss = _optimizer(model, tuned), DistillClipLoss()

    def step() -> None:
        optimizer.zero_grad()
        out = model(pixels, tokens)
        with torch.no_grad():
            target = teacher(pixels, tokens)
        losses = loss(**out, **{f"dist_{name}": value for name, value in target.items()}, output_dict=True)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def _online_step(tower: nn.Module, teacher: nn.Module, pixels: Tensor, *, tuned: bool) -> Callable[[], object]:
    """The paper's loss with the teacher in the step."""
    model = copy.deepcopy(tower).to(pixels.device).train()
    teacher_pixels = pixels
    if tuned:
        model = model.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        teacher, teacher_pixels = _in_bf16(teacher), _in_bf16(pixels)
    optimizer = _optimizer(model, tuned)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=tuned):
            student = model(pixels)
        with torch.no_grad():
            target = teacher.encode_image(teacher_pixels, normalize=True)  # type: ignore[operator]
        l2(F.normalize(student.float(), dim=-1), target.float()).backward()
        optimizer.step()

    return step


T = TypeVar("T", nn.Module, Tensor)


def _in_bf16(thing: T) -> T:
    return copy.deepcopy(thing).to(torch.bfloat16).to(memory_format=torch.channels_last)


if __name__ == "__main__":
    typer.run(main)
