"""Image features of an open_clip teacher: open_clip's own ``encode_image`` against the product's path.

    python -m benchmarks.teacher [--model DIR] [--images 32] [--views 4] [--rounds 7] [--threads 2]

One run, arms in turns, the same views of the same images. The teacher is ViT-B/32 at 224 pixels with random weights
unless a directory is given. Arms:

- `open_clip`: `encode_image` in fp32, as it comes.
- `open_clip, channels-last`: the same in that memory format, in the batch that suits it best.
- `open_clip, autocast`, where bf16 is faster: that under bf16 autocast.
- `open_clip, bf16`, where bf16 is faster: that with bf16 weights (open_clip's `pure_bf16`).
- `open_clip, compiled` (on a GPU only): the bf16 one through torch.compile (max-autotune), in its best batch.
- `ours`: the product's path, whole: uint8 images, crop, flip, resize, normalise, features.

The peers get normalised pixels for nothing. Every arm's features are compared with the fp32 ones: the smallest cosine
over all views must be at least 0.999. Random weights give different images similar features, so the comparison is
made a second time with the mean feature taken off.

Then the cost of caching 1, 4, 8 and 16 views of an image: time, and bytes in the store.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import open_clip
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from benchmarks.harness import (
    Ratio,
    fastest_type,
    interleaved,
    matmul_flops,
    print_table,
    ratio,
    synchronize,
    write_json,
)
from benchmarks.made_images import made_photos
from distillation.embedding import Embedder
from distillation.recipe import Training
from distillation.views import apply_views
from models.clip_directory import save_clip_directory
from models.students import count_macs
from models.teachers import SAME_FEATURES, TeacherModel, bf16_is_native, load_teacher

TEACHER = "ViT-B-32"
COMPILED, UNCOMPILED = "open_clip, compiled", "open_clip, bf16"
BATCHES = (16, 32, 64, 128, 256, 512, 1024)
VIEWS = (1, 4, 8, 16)
Encode = Callable[[Tensor], Tensor]


def main(
    model: Annotated[Path | None, typer.Option(help="An open_clip directory; none: ViT-B-32, random weights.")] = None,
    images: Annotated[int, typer.Option(min=2, help="Images of one round.")] = 32,
    views: Annotated[int, typer.Option(min=1, help="Views of each image in the comparison.")] = 4,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> dict[str, Ratio]:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="bench-teacher-") as scratch:
        folder = model or _random_teacher(Path(scratch))
        peer = open_clip.create_model(f"local-dir:{folder}", device=device).eval().requires_grad_(False)
        teacher = load_teacher(str(folder), device=device)
        embedder = Embedder(teacher, [["a photo"]], on_halved=lambda _size: None)
    side = round(teacher.image_size * 8 / 7)
    stored = made_photos(images, side, side).to(device)

    def ours(count: int = views) -> tuple[Tensor, Tensor]:
        return embedder.views(stored, embedder.whole(stored), range(images), Training.model_validate({"views": count}))

    drawn, features = ours()
    pixels = _pixels(stored, drawn, teacher)
    encoders = _encoders(peer, device)
    # A compiled one is for a single batch; trying others would compile it for each.
    batches = {name: _best_batch(encode, pixels) for name, encode in encoders.items() if name != COMPILED}
    batches["open_clip"] = len(pixels)
    if COMPILED in encoders:
        batches[COMPILED] = batches[UNCOMPILED]
    agreement = _agreement(
        {name: _in_batches(encode, pixels, batches[name]) for name, encode in encoders.items()}
        | {"ours": features.flatten(0, 1)}
    )
    arms: dict[str, Callable[[], object]] = {
        name: partial(_in_batches, encode, pixels, batches[name]) for name, encode in encoders.items()
    }
    arms["ours"] = ours
    flops = matmul_flops(fastest_type(device.type), device.type)
    seconds = interleaved(arms, rounds, device.type)
    flops = max(flops, matmul_flops(fastest_type(device.type), device.type))
    cost = _cost_of_views(ours, rounds, device)

    macs = count_macs(peer.visual, teacher.image_size)
    limit = flops / (2 * macs)
    rates = {name: len(pixels) / statistics.median(times) for name, times in seconds.items()}
    ratios = {name: ratio(times, seconds["ours"]) for name, times in seconds.items() if name != "ours"}
    print_table(
        f"{model or TEACHER}: {macs / 1e9:.2f} GMAC, {len(pixels)} views of {images} images, {threads} threads",
        ["arm", "batch", "views/s", "ours is faster by", "smallest cosine with fp32", "the same, centred"],
        [
            [name, batches.get(name, len(pixels)), rates[name], ratios.get(name, ""), f"{plain:.5f}", f"{centred:.5f}"]
            for name, (plain, centred) in agreement.items()
        ],
    )
    print_table(
        "against the limit and the goals",
        ["figure", "measured", "goal"],
        [
            ["ours / open_clip in fp32", ratios["open_clip"], ">= 2x"],
            ["share of the matmul limit", f"{rates['ours'] / limit:.0%} of {limit:.0f}/s", ">= 55 % on a GPU"],
        ],
    )
    print_table(
        "views of an image in the store",
        ["views", "ms for each image", "bytes for each image (views and features)"],
        [[count, *row.values()] for count, row in cost.items()],
    )
    write_json(
        "teacher",
        {
            "teacher": {"model": str(model or TEACHER), "macs": macs, "image_size": teacher.image_size},
            "settings": {"images": images, "views": views, "rounds": rounds, "batches": batches},
            "views_per_s": rates,
            "ratios": {name: value._asdict() for name, value in ratios.items()},
            "smallest_cosine": {name: plain for name, (plain, _) in agreement.items()},
            "smallest_centred_cosine": {name: centred for name, (_, centred) in agreement.items()},
            "matmul_flops": flops,
            "limit_views_per_s": limit,
            "share_of_limit": rates["ours"] / limit,
            "cost_of_views": cost,
        },
    )
    return ratios


def _random_teacher(folder: Path) -> Path:
    """``TEACHER`` with random weights, as a directory that both sides load."""
    torch.manual_seed(0)
    model = open_clip.create_model(TEACHER)
    config = open_clip.get_model_config(TEACHER)
    save_clip_directory(model, folder, model_cfg=config, preprocess_cfg=dict(model.visual.preprocess_cfg))
    return folder


def _pixels(images: Tensor, views: Tensor, teacher: TeacherModel) -> Tensor:
    """The views as the peers get them: cropped and normalised, in plain NCHW memory."""
    mean, std = (torch.tensor(values, device=teacher.device) for values in (teacher.mean, teacher.std))
    repeated = images.repeat_interleave(views.shape[1], 0)
    return apply_views(repeated, views.flatten(0, 1), teacher.image_size, mean, std).contiguous()


def _encoders(peer: nn.Module, device: torch.device) -> dict[str, Encode]:
    """open_clip's arms: normalised pixels -> normalised features."""
    tuned = copy.deepcopy(peer).to(memory_format=torch.channels_last)
    rounded = copy.deepcopy(tuned).to(torch.bfloat16)

    @torch.inference_mode()
    def plain(pixels: Tensor) -> Tensor:
        features: Tensor = peer.encode_image(pixels, normalize=True)  # type: ignore[operator]
        return features

    @torch.inference_mode()
    def autocast(pixels: Tensor, *, enabled: bool = True) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            features: Tensor = tuned.encode_image(  # type: ignore[operator]
                pixels.contiguous(memory_format=torch.channels_last), normalize=True
            )
        return features.float()

    def in_bf16(model: Callable[..., Tensor]) -> Encode:
        @torch.inference_mode()
        def encode(pixels: Tensor) -> Tensor:
            half = pixels.to(torch.bfloat16, memory_format=torch.channels_last)
            return F.normalize(model(half).float(), dim=-1)

        return encode

    arms: dict[str, Encode] = {"open_clip": plain, "open_clip, channels-last": partial(autocast, enabled=False)}
    if bf16_is_native(device):
        arms |= {"open_clip, autocast": autocast, UNCOMPILED: in_bf16(rounded.get_submodule("visual"))}
    if device.type == "cuda":
        visual = torch.compile(rounded.get_submodule("visual"), mode="max-autotune", dynamic=False)
        arms[COMPILED] = in_bf16(visual)
    return arms


def _in_batches(encode: Encode, pixels: Tensor, size: int) -> Tensor:
    return torch.cat([encode(part) for part in pixels.split(size)])


def _best_batch(encode: Encode, pixels: Tensor) -> int:
    """The batch of ``BATCHES`` (or all views) in which the arm is fastest; one run of each."""
    found: dict[float, int] = {}
    for size in [size for size in BATCHES if size < len(pixels)] + [len(pixels)]:
        encode(pixels[:size])
        synchronize(pixels.device.type)
        start = time.perf_counter()
        _in_batches(encode, pixels, size)
        synchronize(pixels.device.type)
        found[time.perf_counter() - start] = size
    return found[min(found)]


def _agreement(features: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Smallest cosine of each arm's features with open_clip's fp32 ones: as they are, and less the fp32 mean."""
    expected = features["open_clip"]
    mean = expected.mean(0)
    found = {
        name: (
            float(F.cosine_similarity(values, expected, dim=-1).min()),
            float(F.cosine_similarity(values - mean, expected - mean, dim=-1).min()),
        )
        for name, values in features.items()
    }
    if found["ours"][0] < SAME_FEATURES:
        raise SystemExit(f"ours are not open_clip's features: smallest cosine {found['ours'][0]:.5f}")
    return found


def _cost_of_views(
    ours: Callable[[int], tuple[Tensor, Tensor]], rounds: int, device: torch.device
) -> dict[int, dict[str, float]]:
    """Milliseconds and stored bytes of an image by its number of views."""
    seconds = interleaved({str(count): partial(ours, count) for count in VIEWS}, rounds, device.type)
    cost = {}
    for count in VIEWS:
        drawn, features = ours(count)
        cost[count] = {
            "ms": 1e3 * statistics.median(seconds[str(count)]) / len(drawn),
            "bytes": (drawn.nbytes + features.half().nbytes) // len(drawn),
        }
    return cost


if __name__ == "__main__":
    typer.run(main)
