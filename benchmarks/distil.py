"""A training step of other programs against ours with cached features, and our training loop against its bare step.

    python -m benchmarks.distil [--student resnet10t] [--batch-size 32] [--rounds 7] [--threads 2]

One run, arms in turns, the same images, student architecture and batch. The teacher is ViT-B/32 at 224 pixels with
random weights. Arms:

- `open_clip`: its `DistillClipLoss` step; student with a text tower of its own, teacher's both towers in every step.
- `online L2`: the paper's loss, the teacher's image tower in every step.
- `cached`: a DataLoader over JPEG files with stored features, bf16 autocast where that is faster, as NVIDIA's
  clip-distillation.
- `timm`, on CUDA only: the step of its `train.py` on labels.
- `ours`: the product's step, whole: gather from the memory map, crop, flip, normalise, student, L2 against cached
  features, AdamW, averaged weights. On CUDA one graph, see `distillation.whole_step`.
- `ours, training loop`: `distillation.training.train` with its progress, curve and held-out measurements (as many for
  the images seen as in `recipes/demo.yaml`, on CUDA in `recipes/default.yaml`), against as many bare steps.

Peers come as they are by default and tuned (`benchmarks.peers`). open_clip's tuned precision is `pure_bf16` for all
towers and the teacher, where bf16 is faster at all: its bf16 autocast is slower than fp32 on a CPU. The tuned `cached`
peer finds its images decoded in memory. On CUDA the tuned students are compiled, but for that of `cached`, which waits
for its loader. All but `cached` are handed normalised pixels and
tokens for nothing, which favours them.

The share of the matmul limit depends on the student and on the CPU: plain wide convolutions come near it, while half
of a step of `hgnetv2_b0` or `shvit_s1` is normalisation and activations that wait for memory. It is small on CPUs
with matrix units (AMX): they raise the limit several times and memory stays as it is. On CUDA the limit is the lower
of the matmul's and the memory's, 12 bytes for each activation. Compiling the step on a CPU (torch.compile, 20 to 55 s
once) made it slower here: 0.93 times with cs3darknet_s, 0.84 with resnet10t.
"""

from __future__ import annotations

import copy
import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import open_clip
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from benchmarks.distil_data import VIEWS, loaded, normalised, write_corpus
from benchmarks.harness import Ratio, copy_rate, fastest_type, interleaved, matmul_flops, print_table, ratio, write_json
from benchmarks.peers import Peer, cached_peer, in_bf16, online_l2_peer, open_clip_peer, timm_peer
from distillation.corpus import Corpus
from distillation.distilling import holdout_measurement
from distillation.protocol import Reporter
from distillation.recipe import Training
from distillation.trainer import TeacherFacts, Trainer
from distillation.training import Length, train
from models.losses import l2
from models.students import build_student, count_macs, count_params, student_config
from models.teachers import bf16_is_native

TEACHER = "ViT-B-32"
STEPS = {"cpu": 1, "cuda": 20}
"""Of each arm in a round: a step on a GPU is too short to be timed alone."""
LOOP_STEPS = {"cpu": 20, "cuda": 400}
HELD_OUT = {"cpu": 512 / (300 * 128), "cuda": 512 / (100 * 10_800)}
"""Held-out images, measured four times, for each image seen."""
BYTES_PER_ACTIVATION = 12
AGREEMENT = 0.02
"""Largest relative difference of our first loss from the same loss in fp32, without any of our changes."""
GOALS = {
    "open_clip": ">= 10x",
    "online L2": ">= 4.5x",
    "cached": ">= 1.2x",
    "timm, tuned": ">= 1.3x",
}


def main(
    student: Annotated[str, typer.Option(help="timm name of the student.")] = "resnet10t",
    teacher: Annotated[str, typer.Option(help="open_clip name of the teacher.")] = TEACHER,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> dict[str, Ratio]:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    clip = open_clip.create_model(teacher, output_dict=True, device=device).eval().requires_grad_(False)
    size = clip.visual.preprocess_cfg["size"]
    size = size if isinstance(size, int) else size[0]
    config = student_config(student, size, open_clip.get_model_config(teacher))
    facts = TeacherFacts(
        model_cfg=config,
        image_size=size,
        embed_dim=config["embed_dim"],
        params_image_tower=count_params(clip.visual),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        scale=100.0,
    )
    steps, loop_steps = STEPS[device.type], LOOP_STEPS[device.type]
    with tempfile.TemporaryDirectory(prefix="bench-distil-") as folder:
        held_out = max(1, round(loop_steps * batch_size * HELD_OUT[device.type]))
        corpus = Corpus.open([write_corpus(Path(folder), size * 8 // 7, config["embed_dim"], held_out)], device)
        tower = build_student(config)
        params, macs, activations = count_params(tower), count_macs(tower, size), count_activations(tower, size)
        trainer, wanted = _trainer(tower, corpus, batch_size, facts)
        arms = _peers(tower, clip, corpus, batch_size, steps, facts)
        arms["ours"] = _bare(trainer, corpus, batch_size, steps)
        flops, copied = matmul_flops(fastest_type(device.type), device.type), 2 * copy_rate(device.type)
        seconds = interleaved(arms, rounds, device.type)
        loop = interleaved(
            {
                "bare steps": _bare(trainer, corpus, batch_size, loop_steps),
                "training loop": _loop(trainer, wanted, corpus, batch_size, Path(folder)),
            },
            rounds,
            device.type,
        )
        flops = max(flops, matmul_flops(fastest_type(device.type), device.type))
        copied = max(copied, 2 * copy_rate(device.type))
    limits = {"matmul": flops / (6 * macs), "memory": copied / (BYTES_PER_ACTIVATION * activations)}
    limit = min(limits.values()) if device.type == "cuda" else limits["matmul"]
    rates = {name: steps * batch_size / statistics.median(values) for name, values in seconds.items()}
    ratios = {name: ratio(values, seconds["ours"]) for name, values in seconds.items() if name != "ours"}
    share, kept = rates["ours"] / limit, ratio(loop["bare steps"], loop["training loop"])
    rates["ours, training loop"] = loop_steps * batch_size / statistics.median(loop["training loop"])
    print_table(
        f"{student}: {params / 1e6:.2f} M params, {macs / 1e9:.2f} GMAC, batch {batch_size}, {threads} threads",
        ["arm", "images/s", "ours is faster by"],
        [[name, rate, ratios.get(name, "")] for name, rate in rates.items()],
    )
    print_table(
        "against the limit and the goals",
        ["figure", "measured", "goal"],
        [
            *([f"ours / {name}", ratios[name], goal] for name, goal in GOALS.items() if name in ratios),
            ["training loop / bare step", kept, ">= 0.95x"],
            [f"share of the limit ({device.type})", f"{share:.0%} of {limit:.0f}/s", ">= 50 %, CUDA 40 %"],
        ],
    )
    ratios["training loop / bare step"] = kept
    write_json(
        "distil",
        {
            "student": {"architecture": student, "params": params, "macs": macs, "activations": activations},
            "batch_size": batch_size,
            "rounds": rounds,
            "images_per_s": rates,
            "ratios": {name: value._asdict() for name, value in ratios.items()},
            "matmul_flops": flops,
            "memory_bytes_per_s": copied,
            "limits_images_per_s": limits,
            "limit_images_per_s": limit,
            "share_of_limit": share,
        },
    )
    return ratios


def count_activations(student: nn.Module, image_size: int) -> int:
    """Numbers that convolutions and linear layers put out for one image."""
    found = [0]

    def count(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[0] += output.numel()

    layers = [layer for layer in student.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            student.eval()(torch.zeros(1, 3, image_size, image_size))
    finally:
        for hook in hooks:
            hook.remove()
    return found[0]


def _trainer(tower: nn.Module, corpus: Corpus, batch_size: int, facts: TeacherFacts) -> tuple[Trainer, Training]:
    """The product's trainer, checked first: its loss is the plain fp32 one on the peers' pixels."""
    wanted = Training.model_validate({"batch_size": batch_size, "views": VIEWS})
    plain = copy.deepcopy(tower).to(corpus.device).train()
    trainer = Trainer(copy.deepcopy(tower), facts.image_size, wanted, facts, corpus.device)
    first = corpus.batch(0, batch_size, 0)
    with torch.no_grad():
        expected = l2(F.normalize(plain(normalised(corpus, batch_size, facts)), dim=-1), first.features).item()
    found = trainer.step(first, 0, 0.0).item()
    if abs(found - expected) > AGREEMENT * expected:
        raise SystemExit(f"the arms do not compute the same loss: {found} and {expected}")
    return trainer, wanted


def _bare(trainer: Trainer, corpus: Corpus, batch_size: int, steps: int) -> Callable[[], None]:
    done = 0

    def run() -> None:
        nonlocal done
        for _ in range(steps):
            trainer.step(corpus.batch(done * batch_size, batch_size, 0), done, 1e-3)
            done += 1

    return run


def _loop(
    trainer: Trainer, wanted: Training, corpus: Corpus, batch_size: int, folder: Path
) -> Callable[[], dict[str, Any]]:
    measure = holdout_measurement(trainer, corpus, None)
    length = Length(LOOP_STEPS[corpus.device.type] * batch_size)

    def run() -> dict[str, Any]:
        out = Path(tempfile.mkdtemp(dir=folder))  # of its own: a checkpoint would be gone on with
        return train(trainer, corpus, wanted, length, out, Reporter(io.StringIO()), measure)

    return run


def _peers(
    tower: nn.Module, clip: nn.Module, corpus: Corpus, batch_size: int, steps: int, facts: TeacherFacts
) -> dict[str, Callable[[], object]]:
    """``steps`` steps of each peer, by its name."""
    device, config = corpus.device, facts.model_cfg
    pixels = normalised(corpus, batch_size, facts)
    tokens = torch.randint(1, 1000, (batch_size, config["text_cfg"]["context_length"]), device=device)
    fast = bf16_is_native(device)
    tuned_teacher = in_bf16(clip) if fast else copy.deepcopy(clip).to(memory_format=torch.channels_last)
    tuned_type = torch.bfloat16 if fast else torch.float32

    def online(teacher: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return lambda seen: teacher.encode_image(seen.to(dtype), normalize=True)  # type: ignore[operator]

    def repeated(peer: Peer, *batch: Tensor) -> Callable[[], object]:
        return lambda: [peer.step(*batch) for _ in range(steps)]

    def through_loader(peer: Peer, *, as_jpeg: bool) -> Callable[[], object]:
        batches = loaded(corpus, facts, batch_size, steps, as_jpeg=as_jpeg)
        return lambda: [peer.step(*next(batches)) for _ in range(steps)]

    arms = {
        "open_clip": repeated(
            open_clip_peer(config, clip, tuned=False, precision="fp32", device=device), pixels, tokens
        ),
        "open_clip, tuned": repeated(
            open_clip_peer(config, tuned_teacher, tuned=True, precision="pure" if fast else "fp32", device=device),
            pixels.to(tuned_type, memory_format=torch.channels_last),
            tokens,
        ),
        "online L2": repeated(online_l2_peer(tower, online(clip, torch.float32), tuned=False, device=device), pixels),
        "online L2, tuned": repeated(
            online_l2_peer(tower, online(tuned_teacher, tuned_type), tuned=True, device=device),
            pixels.contiguous(memory_format=torch.channels_last),
        ),
        "cached": through_loader(cached_peer(tower, tuned=False, autocast=fast, device=device), as_jpeg=True),
        "cached, tuned": through_loader(cached_peer(tower, tuned=True, autocast=fast, device=device), as_jpeg=False),
    }
    if device.type == "cuda":
        name = config["vision_cfg"]["timm_model_name"]
        labels = torch.randint(1000, (batch_size,), device=device)
        arms["timm"] = repeated(timm_peer(name, tuned=False, compiled=False, device=device), pixels, labels)
        arms["timm, tuned"] = repeated(timm_peer(name, tuned=True, compiled=True, device=device), pixels, labels)
    return arms


if __name__ == "__main__":
    typer.run(main)
