"""A plain diffusers loop that saves PNGs against our sampler and JPEG writer: same pipeline, prompts and seeds.

    python -m benchmarks.generate [--images 256] [--batch-size 32] [--rounds 7]
        [--model DIR --steps N --guidance G]

Arms: `plain` is the loop of diffusers' documentation, one prompt at a time; `plain, batched` is the same with our
batch size; `plain, tuned` adds bf16, channels-last and JPEG; `ours in fp32` shows what is won without bf16; `ours` is
the product's path, `ours, not written` the same without the writer. The JPEG writer is measured against the bare
encoder on one core, on images of 512 pixels.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.harness import Ratio, interleaved, print_table, ratio, write_json
from distillation.jpeg import QUALITY, JpegWriter, encoder
from distillation.plan import STARTER
from distillation.sampling_plan import image_seed
from models.generators import load_generator
from models.sampling import Sampler
from models.teachers import bf16_is_native

PLACES = ("outdoors", "indoors", "on a table", "at night")
THINGS = ("goldfish", "trolleybus", "lemon", "school bus", "espresso", "pizza", "teapot", "umbrella")
JPEG_SIDE, JPEG_IMAGES = 512, 256


def main(
    model: Annotated[Path, typer.Option(help="A diffusers pipeline's directory.")] = STARTER / "generator",
    images: Annotated[int, typer.Option(min=4, help="Images of one round.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps; the starter generator draws in one.")] = 1,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance; 1 or less is off.")] = 0.0,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
) -> dict[str, Ratio]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prompts = [
        f"a photo of a {THINGS[i % len(THINGS)]}, {PLACES[i // len(THINGS) % len(PLACES)]}" for i in range(images)
    ]
    seeds = [image_seed(0, i, 0) for i in range(images)]
    pipeline = load_generator(str(model), device=device)
    # A peer of its own: ours alters nothing of it, but nothing of ours should help it either.
    peer = load_generator(str(model), device=device)
    bf16 = device.type == "cuda" or bf16_is_native(device)
    sampler = Sampler(pipeline, steps=steps, guidance=guidance, batch_size=batch_size)
    exact = Sampler(pipeline, steps=steps, guidance=guidance, batch_size=batch_size)
    exact.autocast = None

    with tempfile.TemporaryDirectory(prefix="bench-generate-") as folder:
        out = Path(folder)

        def plain(at_once: int, kind: str = "png", tuned: bool = False) -> None:
            for start in range(0, images, at_once):
                with torch.autocast(device.type, torch.bfloat16, enabled=tuned and bf16):
                    made = peer(
                        prompt=prompts[start : start + at_once],
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        generator=[torch.Generator(device).manual_seed(s) for s in seeds[start : start + at_once]],
                    ).images
                for i, image in enumerate(made):
                    image.save(out / f"{start + i:08d}.{kind}", quality=QUALITY)

        def ours(with_sampler: Sampler) -> None:
            with JpegWriter(out / "images.tar") as writer:
                for start, made in batches(with_sampler):
                    writer.put(range(start, start + len(made)), made)

        def batches(with_sampler: Sampler) -> Iterator[tuple[int, NDArray[np.uint8]]]:
            for start in range(0, images, batch_size):
                stop = min(images, start + batch_size)
                yield start, with_sampler.sample(prompts[start:stop], seeds[start:stop]).cpu().numpy()

        arms: dict[str, Callable[[], object]] = {
            "plain": lambda: plain(1),
            "plain, batched": lambda: plain(batch_size),
            "plain, tuned": lambda: plain(batch_size, "jpg", tuned=True),
            "ours in fp32": lambda: ours(exact),
            "ours": lambda: ours(sampler),
            "ours, not written": lambda: list(batches(sampler)),
        }
        difference = _difference(peer, exact, sampler, prompts[:batch_size], seeds[:batch_size], steps, guidance)
        seconds = interleaved(arms, rounds, device.type)
        jpeg = _jpeg(out, sampler.sample(prompts[:4], seeds[:4]), rounds)

    rates = {name: images / statistics.median(times) for name, times in seconds.items()}
    ratios = {name: ratio(times, seconds["ours"]) for name, times in seconds.items() if name != "ours"}
    print_table(
        f"{images} images of {sampler.size} pixels, {steps} steps, guidance {guidance:g}, batch {batch_size}",
        ["arm", "images/s", "ours is faster by"],
        [[name, rates[name], ratios.get(name, "")] for name in arms],
    )
    print_table(
        f"JPEG of {JPEG_SIDE} pixels, one core",
        ["what", "images/s"],
        [["encoder alone", jpeg["encoder_per_s"]], ["writer", jpeg["writer_per_s"]], ["share", f"{jpeg['share']:.1%}"]],
    )
    write_json(
        "generate",
        {
            "model": str(model),
            "settings": {
                "images": images,
                "batch_size": batch_size,
                "steps": steps,
                "guidance": guidance,
                "rounds": rounds,
            },
            "images_per_s": rates,
            "ours_over": {name: value._asdict() for name, value in ratios.items()},
            "mean_grey_level_difference": difference,
            "jpeg": jpeg,
        },
    )
    share = Ratio(jpeg["share"], jpeg["share_low"], jpeg["share_high"])
    return {**ratios, "JPEG writer / encoder alone": share}


def _difference(
    peer: Any, exact: Sampler, sampler: Sampler, prompts: list[str], seeds: list[int], steps: int, guidance: float
) -> dict[str, float]:
    """Mean difference in grey levels between the peer's images and ours, in its precision and in ours."""
    made = peer(
        prompt=prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator(sampler.device).manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    expected = torch.from_numpy(made).mul(255).round()
    found = {
        name: float((one.sample(prompts, seeds).cpu().float() - expected).abs().mean())
        for name, one in (("same_precision", exact), ("ours", sampler))
    }
    if found["same_precision"] > 1:
        raise SystemExit(f"the arms do not make the same images: {found}")
    return found


def _jpeg(out: Path, sampled: Tensor, rounds: int) -> dict[str, float]:
    """The writer against the bare encoder on the same images, one thread each."""
    big = torch.nn.functional.interpolate(
        sampled.cpu().permute(0, 3, 1, 2).float(), size=(JPEG_SIDE, JPEG_SIDE), mode="bicubic"
    )
    grain = torch.randn(big.shape, generator=torch.Generator().manual_seed(0)) * 4
    pixels: NDArray[np.uint8] = (big + grain).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    batch = np.concatenate([pixels] * (JPEG_IMAGES // len(pixels)))
    encode = encoder()

    def alone() -> None:
        for image in batch:
            encode(image)

    def written() -> None:
        with JpegWriter(out / "jpeg.tar") as writer:
            for start in range(0, len(batch), 32):
                writer.put(range(start, start + 32), batch[start : start + 32])

    seconds = interleaved({"alone": alone, "written": written}, rounds)
    share = ratio(seconds["alone"], seconds["written"])
    return {
        "encoder_per_s": len(batch) / statistics.median(seconds["alone"]),
        "writer_per_s": len(batch) / statistics.median(seconds["written"]),
        "share": share.median,
        "share_low": share.low,
        "share_high": share.high,
    }


if __name__ == "__main__":
    typer.run(main)
