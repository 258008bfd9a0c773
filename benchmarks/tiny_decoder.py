"""What a smaller decoder costs students: the demo's job with the starter generator's own decoder and with a tiny one.

    python -m benchmarks.tiny_decoder [--data DIR] [--teaching-steps 800] [--images-per-class 150] [--steps 400]
        [--seeds 1]

The tiny decoder is the own one without three of its five residual blocks. It is taught to decode the generator's
latents as the own decoder does, by pixels alone, and is then given to the job as a user would, as
`data.generator.decoder`. Both arms have the same prompts and seeds. Both students are measured on the held-out images
of their own arm, and with ``--data`` (Tiny ImageNet's files) on real photos; nothing is chosen by them. What is done in
``--work`` is kept.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from benchmarks.harness import Ratio, console, interleaved, print_table, ratio, write_json
from benchmarks.photos.domains import LABELS, photos_of
from benchmarks.stages_here import L2, demo_recipe, generated_images, measured_student
from distillation.plan import STARTER
from models.generators import load_generator
from models.memory import keep_freed_memory

BLOCKS = (1, 1, 0, 0)
"""At each resolution; the starter generator's own decoder has (2, 2, 1, 0)."""
BATCH, LEARNING_RATE = 32, 1e-3
TIMED_IMAGES, ROUNDS = 64, 7


def main(
    data: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Folder of Tiny ImageNet.")] = None,
    teaching_steps: Annotated[int, typer.Option(min=1, help="Steps of 32 in which the decoder is taught.")] = 800,
    images_per_class: Annotated[int, typer.Option(min=10)] = 150,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each student.")] = 400,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings with each decoder, on the same images.")] = 1,
    work: Annotated[Path, typer.Option(help="Images and students; what is there is used.")] = Path("build/decoder"),
) -> dict[str, Any]:
    """Returns the figures of both decoders."""
    keep_freed_memory()
    photos = photos_of(data, "validation", LABELS["food"], work / "photos") if data else None
    tiny = work / f"decoder-{teaching_steps}"
    pipeline = load_generator(str(STARTER / "generator"), device=torch.device("cpu"))
    names = [item.name for item in demo_recipe().domain.classes]
    if not tiny.is_dir():
        taught_decoder(pipeline, names, teaching_steps).save_pretrained(tiny)
    likeness, faster = _compared(pipeline, AutoencoderTiny.from_pretrained(tiny), names)
    found: dict[str, list[dict[str, Any]]] = {}
    recognised: dict[str, float] = {}
    for name, decoder in (("own", None), ("tiny", str(tiny.absolute()))):
        generator = {"generator": {"decoder": decoder}} if decoder else {}
        found[name] = []
        for seed in range(seeds):
            recipe = demo_recipe(
                {"images_per_class": images_per_class, **generator}, {**L2, "steps": steps, "seed": seed}
            )
            images = generated_images(recipe, work, partial(console.print, f"{name} decoder: images"))
            recognised[name] = _recognised(images)
            label = f"{name}-{teaching_steps}-{images_per_class}-{steps}-{seed}"
            found[name].append(measured_student(recipe, images, photos, work, label))
    columns = [
        "decoder",
        "recognised at the first try, %",
        "held-out synthetic images, %",
        *["real photos, %"] * bool(photos),
    ]
    figures = ["synthetic", *["real"] * bool(photos)]
    rows = [
        [n, 100 * recognised[n], *(100 * fmean(one[f] for one in group) for f in figures)] for n, group in found.items()
    ]
    print_table(f"{steps} steps, {seeds} seed(s), mean", columns, rows)
    console.print(f"decoding is {faster} faster; the images differ by {likeness:.1f} dB (PSNR)", highlight=False)
    first = found["own"][0]
    if photos:
        console.print(f"the teacher has {first['teacher_real']:.1%} on {first['photos']} real photos", highlight=False)
    write_json(
        "tiny_decoder", {"students": found, "recognised": recognised, "psnr": likeness, "decoding": faster._asdict()}
    )
    return {"students": found, "recognised": recognised, "psnr": likeness, "decoding": faster}


def taught_decoder(pipeline: StableDiffusionPipeline, names: list[str], steps: int) -> AutoencoderTiny:
    """A tiny decoder that was shown what the pipeline's own one makes of the latents of its classes."""
    torch.manual_seed(0)
    own = pipeline.vae
    tiny = _without_blocks(own)
    optimizer = torch.optim.Adam(tiny.decoder.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(2, steps))
    for number in range(steps):
        latents = _latents(pipeline, names, BATCH, number)
        with torch.no_grad():
            wanted = own.decoder(latents)
        made = tiny.decoder(latents)
        loss = F.l1_loss(made, wanted) + F.l1_loss(_edges(made), _edges(wanted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if number % 100 == 0:
            console.print(f"tiny decoder: step {number}, loss {float(loss.detach()):.4f}", highlight=False)
    return tiny


def _without_blocks(own: AutoencoderTiny) -> AutoencoderTiny:
    """A decoder with ``BLOCKS`` residual blocks at each resolution, and ``own``'s weights in all that it has."""
    tiny = AutoencoderTiny.from_config({**own.config, "num_decoder_blocks": BLOCKS})
    for fewer, more in zip(_by_resolution(tiny.decoder), _by_resolution(own.decoder), strict=True):
        for kind in (AutoencoderTinyBlock, nn.Conv2d):
            kept, given = ([layer for layer in layers if isinstance(layer, kind)] for layers in (fewer, more))
            for layer, source in zip(kept, given, strict=False):
                layer.load_state_dict(source.state_dict())
    return tiny


def _by_resolution(decoder: nn.Module) -> list[list[nn.Module]]:
    found: list[list[nn.Module]] = [[]]
    for layer in decoder.get_submodule("layers").children():
        found[-1].append(layer)
        if isinstance(layer, nn.Upsample):
            found.append([])
    return found


def _latents(pipeline: StableDiffusionPipeline, names: list[str], count: int, seed: int) -> Tensor:
    """Of random classes in the recipe's words, from seeds that no job draws from."""
    draw = torch.Generator().manual_seed(2**40 + seed)
    prompts = [f"a photo of a {names[i]}" for i in torch.randint(len(names), (count,), generator=draw)]
    latents: Tensor = pipeline(
        prompts, num_inference_steps=1, guidance_scale=0.0, generator=draw, output_type="latent"
    ).images
    return latents


def _edges(images: Tensor) -> Tensor:
    across, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    return torch.cat([across.flatten(1), down.flatten(1)], 1)


@torch.inference_mode()
def _compared(pipeline: StableDiffusionPipeline, tiny: AutoencoderTiny, names: list[str]) -> tuple[float, Ratio]:
    """How alike the images of both decoders are, in decibels, and how many times faster the tiny one is."""
    latents = _latents(pipeline, names, TIMED_IMAGES, -1)
    own, other = pipeline.vae.decoder, tiny.decoder
    apart = F.mse_loss(own(latents).clamp(-1, 1) / 2, other(latents).clamp(-1, 1) / 2)
    seconds = interleaved({"own": lambda: own(latents), "tiny": lambda: other(latents)}, ROUNDS)
    return -10 * math.log10(float(apart)), ratio(seconds["own"], seconds["tiny"])


def _recognised(images: list[Path]) -> float:
    """Of the images first drawn for each row, those that the teacher took for their class."""
    manifests = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in images]
    return fmean(manifest["summary"]["teacher_acc1"] for manifest in manifests)


if __name__ == "__main__":
    typer.run(main)
