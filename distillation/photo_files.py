"""One photo file: what may be opened, and how it becomes a square of pixels. Torch-free.

Files come from strangers: only three formats are ever handed to a decoder, and an image's declared size is
checked before a pixel is decoded.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 32 * 2**20
MIN_SIDE = 16
LARGE_PIXELS, LARGE_DECODED_PIXELS = 16_000_000, 4_000_000
"""Photos of more pixels, declared or left after decoding at a fraction of the size, are decoded one at a time."""

# Said in our own words, for a lower limit. Filters are the process's: a filter for each photo is not for threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_large_photo = threading.Lock()
BICUBIC = ResizeAlg.convolution(FilterType.catmull_rom)
"""Pillow's, and open_clip's when it evaluates; antialiased: its support grows with the pixels that become one."""


class PhotoRejected(ValueError):
    """One photo that is left out, with the reason."""


@dataclass(frozen=True)
class Photo:
    """A candidate: where it is from, its class (index, -1 unlabelled), its bytes or why there are none."""

    name: str
    label: int
    content: bytes
    reason: str = ""


@dataclass(frozen=True)
class PhotoSource:
    """Class names, and the photos in a fixed order; ``photos()`` may be called again for another pass."""

    classes: list[str]
    photos: Callable[[], Iterator[Photo]]


def _open(content: bytes) -> Image.Image:
    """Read the header only.

    Raises:
        PhotoRejected: not JPEG, PNG or WEBP, too large, too small, or a broken header.
    """
    if len(content) > MAX_FILE_BYTES:
        raise PhotoRejected(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not (is_webp or content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))):
        raise PhotoRejected("not a JPEG, PNG or WEBP image")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise PhotoRejected(f"more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:  # decoders raise many types on broken input (OSError, SyntaxError, struct.error, ...)
        raise PhotoRejected(f"broken image: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise PhotoRejected(f"{image.width}x{image.height}: more than {MAX_PIXELS // 10**6} million pixels")
    if min(image.size) < MIN_SIDE:
        raise PhotoRejected(f"{image.width}x{image.height}: smaller than {MIN_SIDE} pixels")
    return image


def short_side(content: bytes) -> int:
    """Shorter side in pixels, from the header alone. Raises PhotoRejected."""
    with _open(content) as image:
        return min(image.size)


def decode_square(content: bytes, side: int) -> NDArray[np.uint8]:
    """Decode, honour the EXIF orientation, cut the centre square, resize it (bicubic, antialiased).

    Returns:
        uint8 of shape ``(side, side, 3)``, RGB.

    Raises:
        PhotoRejected: see :func:`_open`, or the pixels cannot be decoded.
    """
    with _open(content) as opened:
        declared = opened.width * opened.height
        try:
            # JPEG only: decode at a fraction of the size, never below twice the target. Saves memory and time.
            opened.draft("RGB", (2 * side, 2 * side))
            large = declared > LARGE_PIXELS or opened.width * opened.height > LARGE_DECODED_PIXELS
            with _large_photo if large else nullcontext():
                return _square(opened, side)
        except MemoryError:
            raise
        except Exception as error:  # see _open
            raise PhotoRejected(f"broken image: {error}") from error


def _square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    if image.mode != "RGB":  # cut first, so that one band of a panorama is converted and not all of it
        image = image.crop((left, top, left + short, top + short)).convert("RGB")
        left = top = 0
    square = Image.new("RGB", (side, side))
    # Pillow's own resize gives the same pixels within one grey level, in five times the time.
    Resizer().resize_pil(image, square, ResizeOptions(BICUBIC, crop_box=CropBox(left, top, short, short)))
    return np.asarray(square)
