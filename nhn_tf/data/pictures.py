"""One picture at a time, through Pillow: from a file to the uint8 array that a network was trained on, or is to be.

Training and prediction both read by `decode`; this file imports no Keras.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nhn_tf.data.splits import DataError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""How the names of pictures end, in any case. Pillow looks at the content: a JPEG called .png is read."""
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")

# Below the size at which Pillow itself warns, so that its limit is never the one that speaks.
MAX_PIXELS = 2**26
# A larger picture takes up to 12 bytes a pixel while it is decoded: one of them at a time.
_LARGE_PIXELS = 2**22
_large = threading.Lock()
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange height and width


def decode(path: str | os.PathLike[str], *, image_size: int | tuple[int, int] = 0, channels: int = 0) -> np.ndarray:
    """Decodes a picture: of several frames the first.

    Turned upright as its EXIF orientation says; transparency is laid over white; 16 bits keep their
    upper 8; CMYK becomes RGB. A grey file (or one whose palette is grey) stays grey.

    Args:
      path: the file.
      image_size: side of the square to scale and crop to, or (H, W); 0 keeps the size.
      channels: 1 makes a grey picture of a coloured one, 3 a coloured one of a grey one; 0 leaves it as it is.

    Returns:
      uint8 [H, W, C], C of `channels`, or else 1 or 3.

    Raises:
      DataError: the file cannot be read as a picture, or is larger than `MAX_PIXELS`.

    Example:

        height, width, channels = model.input_shape[1:]
        image = decode("new.jpg", image_size=(height, width), channels=channels)
    """
    with _opened(path) as image, _one_at_a_time(image):
        image.load()
        with contextlib.suppress(Exception):  # an orientation that cannot be read is none
            ImageOps.exif_transpose(image, in_place=True)
        picture = _fitted(_to_eight_bits(image), image_size)
        if channels:
            picture = picture.convert("L" if channels == 1 else "RGB")
        return _to_array(picture)


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a picture as `decode` returns it, from the head of its file.

    Raises:
      DataError: as `decode`, as far as the head shows it.
    """
    with _opened(path) as image:
        turned = False
        if image.format != "TIFF":  # Pillow turns a TIFF itself
            with contextlib.suppress(Exception):
                turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


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
        resized[row] = _to_array(_fitted(picture, image_size))
    return resized


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]):
    """An open picture of at most `MAX_PIXELS`; whatever goes wrong with it is a DataError that names the file."""
    path = Path(path)
    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError("it is a directory" if path.is_dir() else "there is no such file")
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise _too_large(path, pixels)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, int(re.findall(r"\d+", str(error))[0])) from None
    except UnidentifiedImageError:
        empty = not path.stat().st_size
        raise _unreadable(path, "it is empty" if empty else f"it is none of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        raise _unreadable(path, str(error) or type(error).__name__) from None


def _one_at_a_time(image: Image.Image) -> contextlib.AbstractContextManager:
    return _large if image.width * image.height > _LARGE_PIXELS else contextlib.nullcontext()


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read as a picture: {reason}.\nReplace or remove the file.")


def _too_large(path: Path, pixels: int) -> DataError:
    return DataError(
        f"{path} has {pixels:,} pixels; at most {MAX_PIXELS:,} are decoded.\nScale the image down or remove it."
    )


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """The picture in Pillow's mode L or RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
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


def _fitted(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Scales a picture until it covers (H, W), or a square of that side, and crops the centre; 0 leaves it alone."""
    height, width = (size, size) if isinstance(size, int) else size
    if not height or image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def _to_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
