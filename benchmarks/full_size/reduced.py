"""A shipped recipe with models of its sizes and random weights, and little to do; all else stays as it says."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.full_size import pipelines
from benchmarks.made_images import made_photos
from distillation.jpeg import encode_with_pillow
from distillation.recipe import Recipe

WRITERS: dict[str, Callable[[Path], Path]] = {
    "stabilityai/stable-diffusion-xl-base-1.0": pipelines.save_sdxl,
    "Lykon/dreamshaper-7": pipelines.save_sd,
}
"""What writes a pipeline of the same sizes, by the generator that a recipe names."""
PHOTO_SIZE = (512, 384)
DISTINCT = 16
"""Photos made; the rest are copies of them."""


class Amounts(NamedTuple):
    """How much there is to do.

    Args:
        images: synthetic images, at least; the same number of each class.
        steps: of each phase of training.
        photos: of the domain-agnostic phase, if the recipe has one.
    """

    images: int
    steps: int
    photos: int


def reduced(shipped: Recipe, folder: Path, amounts: Amounts) -> Recipe:
    """Write the models and photos into ``folder`` and the recipe that uses them.

    Raises:
        KeyError: no writer is known for the recipe's generator.
    """
    content: dict[str, Any] = shipped.model_dump(mode="json", exclude_unset=True)
    teacher = pipelines.save_teacher(shipped.teacher.model, folder / "teacher")
    content["teacher"] = {"model": f"local-dir:{teacher}"}

    generator, given = WRITERS[shipped.data.generator.model](folder / "generator"), content["data"]["generator"]
    given |= {"model": str(generator), "revision": None}
    if lora := shipped.data.generator.lora:
        # Under its own name, which is what chooses the scheduler.
        given["lora"] = str(pipelines.save_lcm_lora(generator, folder / Path(lora.partition("@")[0]).name))
    content["data"]["images_per_class"] = max(2, -(-amounts.images // len(shipped.domain.classes)))
    content["data"]["filter"] = {"teacher_agrees": False, "near_constant": False}

    length = {"epochs": None, "minutes": None, "steps": amounts.steps}
    content["training"] |= length
    if shipped.training.agnostic:
        source = write_photos(folder / "photos", amounts.photos)
        content["training"]["agnostic"] |= {
            "source": str(source),
            "max_images": amounts.photos,
            "steps": amounts.steps,
        }
    return Recipe.model_validate(content)


def differences(amounts: Amounts) -> list[str]:
    """All that is not as the recipe says."""
    return [
        "generator, LoRA and teacher have random weights, in the sizes of those that the recipe names",
        f"{amounts.images} images (or the next multiple of the number of classes), {amounts.steps} steps in each phase"
        f" of training, in phase 1 {amounts.photos} photos that are made up, of {' x '.join(map(str, PHOTO_SIZE))}",
        "no filter: a random image is of no class, so all would be dropped",
        "all stages in one process, which uses one GPU",
    ]


def write_photos(folder: Path, count: int) -> Path:
    """JPEG files in one webdataset tar file."""
    width, height = PHOTO_SIZE
    few = [encode_with_pillow(image) for image in made_photos(DISTINCT, height, width).numpy()]
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0000.tar", "w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(few[number % DISTINCT])
            archive.addfile(member, io.BytesIO(few[number % DISTINCT]))
    return folder
