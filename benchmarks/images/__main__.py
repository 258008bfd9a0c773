"""Readers of training images, ours against the peers', and the import of photos against the bare JPEG decoder.

    python -m benchmarks.images [--images 1024] [--batch-size 64] [--photos 192] [--rounds 7] [--threads 2]

The same images of 256 pixels as JPEG files (ImageFolder), tar files (webdataset) and in a raw memory map (ours, and a
reader written after FFCV's raw mode). Every reader gives each image once, in random order; all give the same pixels.
The peers come as they are by default and with worker processes. The last pair crops: in the product the crop belongs
to the step on the device, in FFCV to the reader.

Then the share of a training step that the images take, and photos a second of the import against the decoder.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import typer
from torch import Tensor

from benchmarks.harness import Ratio, copy_rate, interleaved, print_table, ratio, write_json
from benchmarks.images.importing import LIMITS, measure_import
from benchmarks.images.readers import (
    RawReader,
    Reader,
    crop_with_pillow,
    image_folder,
    ours,
    ours_cropped,
    web_dataset,
)
from benchmarks.images.stored import VIEWS, WIDTH, StoredImages, store_images
from distillation.corpus import Corpus
from distillation.recipe import Training
from distillation.trainer import TeacherFacts, Trainer
from distillation.views import apply_views
from models.memory import keep_freed_memory
from models.students import build_student, student_config

STORED_SIDE, SIZE = 256, 224
MEAN, STD = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
SAME_CROP = 3.0
"""Largest mean difference in grey levels between our crops and Pillow's, which filters when it makes smaller."""
PHOTO_SIZES = ((512, 384), (4000, 3000))
"""What hubs hold, and what cameras make."""
STEPS = {"cpu": 1, "cuda": 20}
"""In one timing: a step on a GPU is too short to be timed alone."""


def main(
    images: Annotated[int, typer.Option(min=8, help="Images of one round.")] = 1024,
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    photos: Annotated[int, typer.Option(min=8, help="Photos of one import; an eighth of it of the largest.")] = 192,
    student: Annotated[str, typer.Option(help="timm name of the student whose step is measured.")] = "resnet10t",
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> dict[str, Ratio]:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()  # as the product's trainer does
    with tempfile.TemporaryDirectory(prefix="bench-images-") as scratch:
        stored = store_images(Path(scratch), images, STORED_SIDE)
        corpus = Corpus.open([stored.shard], device)
        reading = _reading(stored, corpus, batch_size, threads, rounds)
        step = _share_of_step(corpus, batch_size, student, rounds)
        imports = []
        for width, height in PHOTO_SIZES:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                count = photos if width < 1000 else photos // 8
                imports.append(measure_import(Path(folder), count, (width, height), rounds))
    _print(reading, step, imports, f"{images} images, batch {batch_size}, {threads} threads")
    write_json(
        "images",
        {
            "settings": {"images": images, "batch_size": batch_size, "photos": photos, "rounds": rounds},
            "reading": reading,
            "share_of_step": {"student": student, **step},
            "imports": imports,
        },
    )
    return {name: Ratio(**one) for name, one in reading["ratios"].items()}


def _reading(stored: StoredImages, corpus: Corpus, batch_size: int, threads: int, rounds: int) -> dict[str, Any]:
    device = corpus.device
    mean, std = MEAN.to(device), STD.to(device)
    first_views = np.asarray(corpus.shards[0][1][:, 0])
    whole: dict[str, Reader] = {
        "ImageFolder": image_folder(stored, batch_size, 0),
        "ImageFolder, workers": image_folder(stored, batch_size, threads),
        "webdataset": web_dataset(stored, batch_size, 0),
        "webdataset, workers": web_dataset(stored, batch_size, threads),
        "FFCV-like raw": RawReader(stored.pixels, batch_size, threads),
        "ours": ours(corpus, batch_size),
    }
    cropped: dict[str, Reader] = {
        "FFCV-like raw, crops": RawReader(
            stored.pixels, batch_size, threads, (SIZE, MEAN.numpy(), STD.numpy(), first_views)
        ),
        "ours, crops": ours_cropped(corpus, batch_size, SIZE, mean, std),
    }
    for name, reader in whole.items():
        _check_whole(name, reader, stored)
    difference = _crop_difference(stored, first_views)
    copied = copy_rate(device.type)
    seconds = interleaved(
        {name: _epoch(reader, device) for name, reader in (whole | cropped).items()}, rounds, device.type
    )
    copied = max(copied, copy_rate(device.type))
    count = len(stored.pixels) // batch_size * batch_size
    rates = {name: count / statistics.median(times) for name, times in seconds.items()}
    against = {name: "ours, crops" if name in cropped else "ours" for name in seconds}
    limit = copied / stored.pixels[0].nbytes
    return {
        "images_per_s": rates,
        "ratios": {
            name: ratio(times, seconds[against[name]])._asdict()
            for name, times in seconds.items()
            if name not in against.values()
        },
        "ours_whole_over_raw_with_crops": ratio(seconds["FFCV-like raw, crops"], seconds["ours"])._asdict(),
        "copy_bytes_per_s": copied,
        "limit_images_per_s": limit,
        "share_of_limit": rates["ours"] / limit,
        "crop_difference": difference,
    }


def _epoch(reader: Reader, device: torch.device) -> Callable[[], object]:
    def run() -> None:
        for batch in reader():
            batch.to(device, non_blocking=True)

    return run


def _check_whole(name: str, reader: Reader, stored: StoredImages) -> None:
    """Every image that the reader gives is one of the stored ones, each at most once, none missing but a last part."""
    wanted = Counter(image.tobytes() for image in stored.pixels)
    given: Counter[bytes] = Counter()
    batch: Tensor
    for batch in reader():
        square = batch.permute(0, 2, 3, 1) if batch.shape[1] == 3 else batch
        given.update(image.contiguous().numpy().tobytes() for image in square.cpu())
    if given - wanted or given.total() < wanted.total() - len(batch) + 1:
        raise SystemExit(f"{name} does not give the stored images")


def _crop_difference(stored: StoredImages, views: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Mean grey levels between our crops and those of the FFCV-like reader."""
    few = np.array(stored.pixels[:8])
    made = apply_views(torch.from_numpy(few), torch.tensor(views[: len(few)]), SIZE, MEAN, STD).permute(0, 2, 3, 1)
    peers = np.empty((len(few), SIZE, SIZE, 3), np.float32)
    for image, view, out in zip(few, views[: len(few)], peers, strict=True):
        crop_with_pillow(image, view, SIZE, MEAN.numpy(), STD.numpy(), out)
    difference = float(((made - torch.from_numpy(peers)).abs() * 255 * STD).mean())
    if difference > SAME_CROP:
        raise SystemExit(f"the crops differ by {difference:.1f} grey levels")
    return difference


def _share_of_step(corpus: Corpus, batch_size: int, student: str, rounds: int) -> dict[str, float]:
    """Seconds of a training step, of the batch that it needs, and what share the batch is."""
    config = student_config(student, SIZE, open_clip.get_model_config("ViT-B-32"))
    facts = TeacherFacts(config, SIZE, WIDTH, 0, MEAN.tolist(), STD.tolist(), 100.0)
    wanted = Training.model_validate({"batch_size": batch_size, "views": VIEWS})
    trainer = Trainer(build_student(config), SIZE, wanted, facts, corpus.device)
    done, steps = 0, STEPS[corpus.device.type]

    def read() -> None:
        for number in range(done, done + steps):
            corpus.batch(number * batch_size, batch_size, 0)

    def step() -> None:
        nonlocal done
        for _ in range(steps):
            trainer.step(corpus.batch(done * batch_size, batch_size, 0), done, 1e-3)
            done += 1

    seconds = interleaved({"read": read, "step": step}, rounds, corpus.device.type)
    share = ratio(seconds["read"], seconds["step"])
    return {
        "step_s": statistics.median(seconds["step"]) / steps,
        "read_s": statistics.median(seconds["read"]) / steps,
        "share": share.median,
        "share_low": share.low,
        "share_high": share.high,
    }


def _print(reading: dict[str, Any], step: dict[str, float], imports: list[dict[str, Any]], title: str) -> None:
    def times(found: dict[str, float]) -> str:
        return f"{found['median']:.2f}x [{found['low']:.2f}, {found['high']:.2f}]"

    ratios = reading["ratios"]
    print_table(
        title,
        ["reader", "images/s", "ours is faster by"],
        [[name, rate, times(ratios[name]) if name in ratios else ""] for name, rate in reading["images_per_s"].items()],
    )
    print_table(
        "against the limit and the goals",
        ["figure", "measured", "goal"],
        [
            ["ours / ImageFolder", times(ratios["ImageFolder"]), ">= 20x"],
            ["ours / FFCV-like raw, both with crops", times(ratios["FFCV-like raw, crops"]), ">= 1.2x"],
            [
                "ours, crop left to the step / FFCV-like raw with it",
                times(reading["ours_whole_over_raw_with_crops"]),
                "",
            ],
            ["share of memcpy", f"{reading['share_of_limit']:.0%} of {reading['limit_images_per_s']:,.0f}/s", ""],
            ["share of a training step", f"{step['share']:.2%}", "< 3 % on a GPU"],
        ],
    )
    for found in imports:
        width, height = found["size"]
        print_table(
            f"import of JPEGs of {width} x {height}, {found['bytes'] / 1e3:.0f} kB each",
            ["what", "photos/s", *(f"share of {limit}" for limit in LIMITS)],
            [
                [name, rate, *(f"{share['median']:.0%}" for share in found["shares"].get(name, {}).values())]
                for name, rate in found["photos_per_s"].items()
            ],
        )


if __name__ == "__main__":
    typer.run(main)
