"""An uploaded image, decoded within limits and made into the network's input, as ``preprocess.json`` says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 16_000_000
"""64 MB decoded (Pillow keeps RGB in four bytes); a camera's usual picture."""
RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


class BadImage(ValueError):
    """A file that is not an image, or not one that may be decoded."""


def decode(path: Path) -> Image.Image:
    """An RGB image, turned as its EXIF orientation says.

    Raises:
        BadImage: not an image, of another format, broken, or with too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                # The header alone has been read: nothing large is allocated before this check.
                pixels = image.width * image.height
                if MAX_PIXELS < pixels <= 4 * MAX_PIXELS and image.format == "JPEG" and "progression" not in image.info:
                    # A phone's large picture: the decoder halves it on the way, which no network of ours can tell.
                    image.draft("RGB", (image.width // 2, image.height // 2))
                    pixels = image.width * image.height
                if pixels > MAX_PIXELS:
                    raise BadImage(f"it has {image.width} x {image.height} pixels; the most is {MAX_PIXELS:,}")
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as error:
        raise BadImage(f"it is none of {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage(f"it has too many pixels; the most is {MAX_PIXELS:,}") from error
    except BadImage:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImage(f"it is broken: {error}") from error


def preprocess(image: Image.Image, how: dict[str, Any]) -> NDArray[np.float32]:
    """Resize, crop and normalise like open_clip's evaluation transform (torchvision on PIL).

    Args:
        how: ``preprocess.json``: size (int or [height, width]), mean, std, interpolation, resize_mode.

    Returns:
        float32 of shape ``(1, 3, height, width)``.
    """
    size = how["size"]
    height, width = (size, size) if isinstance(size, int) else size
    resample = RESAMPLING[how.get("interpolation", "bicubic")]
    mode = how.get("resize_mode", "shortest")
    if mode == "squash":
        image = image.resize((width, height), resample)
    else:
        image = _crop_or_pad(_resize(image, height, width, resample, longest=mode == "longest"), height, width)
    pixels: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(255)
    mean, std = np.asarray(how["mean"], np.float32), np.asarray(how["std"], np.float32)
    return np.ascontiguousarray(((pixels - mean) / std).astype(np.float32).transpose(2, 0, 1)[None])


def _resize(image: Image.Image, height: int, width: int, resample: Image.Resampling, *, longest: bool) -> Image.Image:
    """Keep the proportions; the shortest (longest) side then fits the target."""
    if not longest and height == width:
        # torchvision's Resize(int) truncates the long side; the general rule below rounds.
        short, long = sorted(image.size)
        scaled = int(height * long / short)
        target = (height, scaled) if image.width <= image.height else (scaled, height)
    else:
        ratios = (image.height / height, image.width / width)
        ratio = max(ratios) if longest else min(ratios)
        target = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    return image if target == image.size else image.resize(target, resample)


def _crop_or_pad(image: Image.Image, height: int, width: int) -> Image.Image:
    """The centre; what lies outside the image is black."""
    if image.width < width or image.height < height:
        canvas = Image.new("RGB", (max(width, image.width), max(height, image.height)))
        canvas.paste(image, (max(0, (width - image.width) // 2), max(0, (height - image.height) // 2)))
        image = canvas
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
