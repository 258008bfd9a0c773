"""A plain diffusers loop that saves PNGs against our sampler and JPEG writer: same pipeline, prompts and seeds.

    python -m benchmarks.generate [--images 256] [--batch-size 32] [--rounds 7]
        [--model DIR --decoder DIR --steps N --guidance G]

Arms: `plain` is the loop of diffusers' documentation, one prompt at a time; `plain, batched` is the same with our
batch size; `plain, tuned` adds JPEG, and bf16 on a CPU, on CUDA compiled blocks and decoder (all arms have half weights
in channels-last memory there); `ours in fp32` shows on a CPU what is won without bf16; `ours` is the
product's path, `ours, not written` the same without the writer. The limit is that of the matrix products alone:
operations of the pipeline for one image at the rate of a large product. The JPEG writer is measured against the bare
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Ratio, fastest_type, interleaved, matmul_flops, print_table, ratio, write_json
from distillation.jpeg import QUALITY, JpegWriter, encoder
from distillation.plan import STARTER
from distillation.sampling_plan import image_seed
from models.generators import load_generator
from models.sampling import Sampler
from models.teachers import bf16_is_native

PLACES = ("outdoors", "indoors", "on a table", "at night")
THINGS = ("goldfish", "trolleybus", "lemon", "school bus", "espresso", "pizza", "teapot", "umbrella")
JPEG_SIDE, JPEG_IMAGES = 512, 256
PEERS = ("plain", "plain, batched", "plain, tuned")


def main(
    model: Annotated[Path, typer.Option(help="A diffusers pipeline's directory.")] = STARTER / "generator",
    decoder: Annotated[Path | None, typer.Option(help="An AutoencoderTiny's directory, in place of its own.")] = None,
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

    def loaded() -> Any:
        return load_generator(str(model), device=device, decoder=str(decoder.absolute()) if decoder else None)

    # Peers of their own: ours alters nothing of them, but nothing of ours should help them either.
    pipeline, peer = loaded(), loaded()
    tuned_peer = _compiled(loaded()) if device.type == "cuda" else peer
    exact = Sampler(pipeline, steps=steps, guidance=guidance, batch_size=batch_size, compiled=False)
    exact.autocast = None
    few = slice(batch_size)
    expected = _images(peer, prompts[few], seeds[few], steps, guidance)
    difference = {"same_precision": _difference(exact.sample(prompts[few], seeds[few]), expected)}
    if difference["same_precision"] > 1:
        raise SystemExit(f"the arms do not make the same images: {difference}")
    sampler = Sampler(pipeline, steps=steps, guidance=guidance, batch_size=batch_size)
    difference["ours"] = _difference(sampler.sample(prompts[few], seeds[few]), expected)
    with FlopCounterMode(display=False) as counter:
        _images(peer, prompts[:1], seeds[:1], steps, guidance)
    operations = counter.get_total_flops()
    flops = matmul_flops(fastest_type(device.type), device.type)

    with tempfile.TemporaryDirectory(prefix="bench-generate-") as folder:
        out = Path(folder)

        autocast = device.type == "cpu" and bf16_is_native(device)

        def new_folder() -> Path:
            """A folder for one round: to write over a file costs milliseconds, which no job pays."""
            return Path(tempfile.mkdtemp(dir=out))

        def plain(at_once: int, kind: str = "png", tuned: bool = False) -> None:
            written = new_folder()
            for start in range(0, images, at_once):
                with torch.autocast(device.type, torch.bfloat16, enabled=tuned and autocast):
                    made = (tuned_peer if tuned else peer)(
                        prompt=prompts[start : start + at_once],
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        generator=[torch.Generator(device).manual_seed(s) for s in seeds[start : start + at_once]],
                    ).images
                for i, image in enumerate(made):
                    image.save(written / f"{start + i:08d}.{kind}", quality=QUALITY)

        def ours(with_sampler: Sampler) -> None:
            with JpegWriter(new_folder() / "images.tar") as writer:
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
            **({"ours in fp32": lambda: ours(exact)} if device.type == "cpu" else {}),
            "ours": lambda: ours(sampler),
            "ours, not written": lambda: list(batches(sampler)),
        }
        seconds = interleaved(arms, rounds, device.type)
        flops = max(flops, matmul_flops(fastest_type(device.type), device.type))
        jpeg = _jpeg(out, sampler.sample(prompts[:4], seeds[:4]), rounds)
        decoding = _decoding(peer, sampler, batch_size, rounds)

    rates = {name: images / statistics.median(times) for name, times in seconds.items()}
    ratios = {name: ratio(times, seconds["ours"]) for name, times in seconds.items() if name != "ours"}
    print_table(
        f"{images} images of {sampler.size} pixels, {steps} steps, guidance {guidance:g}, batch {batch_size}",
        ["arm", "images/s", "ours is faster by"],
        [[name, rates[name], ratios.get(name, "")] for name in arms],
    )
    limit, written = flops / operations, ratio(seconds["ours, not written"], seconds["ours"])
    share = rates["ours, not written"] / limit
    decoder_share = decoding["ours_per_s"] * decoding["operations"] / flops
    print_table(
        "against the limit and the goals",
        ["figure", "measured", "goal"],
        [
            ["ours / best peer", min(ratios[name] for name in PEERS), ">= 1.2x"],
            ["ours / ours, not written", written, ">= 0.97x"],
            ["share of the matmul limit", f"{share:.0%} of {limit:,.1f}/s, {operations / 1e12:.2f} TFLOP each", ""],
            ["decoder alone, ours / peer", f"{decoding['ours_per_s']:,.1f}/s, {decoding['peer_per_s']:,.1f}/s", ""],
            ["its share of the limit", f"{decoder_share:.0%}", ">= 50 % on a GPU"],
        ],
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
            "decoder": decoder and str(decoder),
            "settings": {
                "images": images,
                "batch_size": batch_size,
                "steps": steps,
                "guidance": guidance,
                "rounds": rounds,
            },
            "images_per_s": rates,
            "ours_over": {name: value._asdict() for name, value in ratios.items()},
            "written_over_not_written": written._asdict(),
            "operations": operations,
            "matmul_flops": flops,
            "limit_images_per_s": limit,
            "share_of_limit": share,
            "decoding": decoding,
            "mean_grey_level_difference": difference,
            "jpeg": jpeg,
        },
    )
    written_share = Ratio(jpeg["share"], jpeg["share_low"], jpeg["share_high"])
    return {**ratios, "JPEG writer / encoder alone": written_share}


def _compiled(pipeline: Any) -> Any:
    """As diffusers' documentation advises: the denoiser's repeated blocks, and the decoder whole."""
    pipeline.unet.compile_repeated_blocks(fullgraph=True)
    pipeline.vae.decoder = torch.compile(pipeline.vae.decoder)
    return pipeline


def _images(peer: Any, prompts: list[str], seeds: list[int], steps: int, guidance: float) -> Tensor:
    """The peer's images, in grey levels ``(n, side, side, 3)``."""
    made = peer(
        prompt=prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator(peer.device).manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    return torch.from_numpy(made).mul(255).round()


def _difference(made: Tensor, expected: Tensor) -> float:
    """Mean difference in grey levels."""
    return float((made.cpu().float() - expected).abs().mean())


@torch.inference_mode()
def _decoding(peer: Any, sampler: Sampler, batch_size: int, rounds: int) -> dict[str, float]:
    """Latents to pixels alone, by the peer's decoder and by ours: images a second, and operations for an image."""
    device, own = sampler.device, sampler.pipeline.vae
    side = sampler.size // sampler.pipeline.vae_scale_factor
    latents = torch.randn(batch_size, own.config.latent_channels, side, side, device=device, dtype=own.dtype)

    def decode(vae: nn.Module, dtype: torch.dtype | None) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            vae.decode(latents)  # type: ignore[operator]

    with FlopCounterMode(display=False) as counter:
        decode(peer.vae, None)
    arms = {"peer": lambda: decode(peer.vae, None), "ours": lambda: decode(own, sampler.autocast)}
    seconds = interleaved(arms, rounds, device.type)
    rates = {f"{name}_per_s": batch_size / statistics.median(times) for name, times in seconds.items()}
    return {"operations": counter.get_total_flops() / batch_size, **rates}


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
