"""One picture at a time, through Pillow: decoding to uint8 arrays, and resizing them."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nhn_tf.data.splits import DataError

# Below the size at which Pillow itself warns, so that its limit is never the one that speaks.
MAX_PIXELS = 2**26
# A larger picture takes up to 12 bytes a pixel while it is decoded: one of them at a time.
_LARGE_PIXELS = 2**22
_large = threading.Lock()
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def decode(path: Path, *, image_size: int = 0) -> np.ndarray:
    """Decodes a PNG or JPEG file.

    Turned upright as its EXIF orientation says; transparency is laid over white; 16 bits keep their
    upper 8; CMYK becomes RGB. A grey file (or one whose palette is grey) stays grey.

    Args:
      path: the file.
      image_size: side of the square to scale and crop to; 0 keeps the size.

    Returns:
      uint8 [H, W, 1] or [H, W, 3].

    Raises:
      DataError: the file is no readable PNG or JPEG, or larger than `MAX_PIXELS`.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError("it is a directory" if path.is_dir() else "there is no such file")
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise _too_large(path, pixels)
            with _large if pixels > _LARGE_PIXELS else contextlib.nullcontext():
                image.load()
                with contextlib.suppress(Exception):  # an orientation that cannot be read is none
                    ImageOps.exif_transpose(image, in_place=True)
                return _to_array(_square(_to_eight_bits(image), image_size))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, int(re.findall(r"\d+", str(error))[0])) from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        reason = "it is empty" if path.is_file() and not path.stat().st_size else str(error) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a PNG or JPEG image: {reason}.\nReplace or remove the file."
        ) from None


def resize(images: np.ndarray, image_size: int) -> np.ndarray:
    """Scales and crops images to squares, as `decode` does.

    Args:
      images: uint8 [N, H, W, C], C of 1 or 3.
      image_size: side of the square; 0 returns `images` as they are.

    Returns:
      uint8 [N, image_size, image_size, C].
    """
    if image_size == 0 or images.shape[1:3] == (image_size, image_size):
        return images
    resized = np.empty((len(images), image_size, image_size, images.shape[3]), np.uint8)
    for row, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        resized[row] = _to_array(_square(picture, image_size))
    return resized


def _too_large(path: Path, pixels: int) -> DataError:
    return DataError(
        f"{path} has {pixels:,} pixels; at most {MAX_PIXELS:,} are decoded.\nScale the image down or remove it."
    )


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """The picture in Pillow's mode L or RGB."""
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    paletted = image.mode == "P"
    image = image.convert("L" if grey else "RGB")
    if paletted:
        array = np.asarray(image)
        if np.array_equal(array[..., 0], array[..., 1]) and np.array_equal(array[..., 1], array[..., 2]):
            return image.getchannel(0)
    return image


def _square(image: Image.Image, side: int) -> Image.Image:
    """Scales the shorter side to `side` and crops the centre; 0 leaves the picture alone."""
    if side == 0 or image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)


def _to_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
