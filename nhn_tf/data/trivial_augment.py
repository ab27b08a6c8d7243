"""TrivialAugment: one change of colour or geometry to each training image (Müller & Hutter 2021). Imports no Keras.

The changes and their ranges are those of its wide space; factors of brightness and the like are mirrored about 1, 0.01
to 1.99 for its 0.01 to 2. What is moved in from beyond the border is black, as in the released code.

Letters: B batch, H W height and width, C channels (1 grey, 3 RGB).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

STRENGTHS: Final = 31
"""From 0, at which all but `auto_contrast` and `equalize` leave an image as it is, to 30 of 30."""
_MOST_PIXELS: Final = 32
"""That an image is moved by, and its own side at most."""


def _solarize(image: np.ndarray, strength: float) -> np.ndarray:
    return np.where(image < 256 - round(256 * abs(strength)), image, 255 - image)


def _auto_contrast(image: np.ndarray, strength: float) -> np.ndarray:
    low, high = image.min((0, 1)), image.max((0, 1))
    scale = np.where(low < high, 255.0 / np.maximum(high - low, 1, dtype=float), 1.0)
    return (image * scale - np.where(low < high, low * scale, 0.0)).clip(0, 255).astype(np.uint8)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def _pixels(side: int, strength: float) -> int:
    return round(strength * min(_MOST_PIXELS, side))


_OF_ARRAYS: Final[dict[str, Callable[[np.ndarray, float], np.ndarray]]] = {
    "identity": lambda image, _: image,
    "posterize": lambda image, s: image & np.uint8(256 - (1 << round(6 * abs(s)))),  # 8 to 2 bits
    "solarize": _solarize,
    "auto_contrast": _auto_contrast,
}
"""(uint8 [H, W, C], strength in [-1, 1]) -> the same; Pillow builds a table for each of these in Python."""
_OF_PICTURES: Final[dict[str, Callable[[Image.Image, float], Image.Image]]] = {
    "shear_x": lambda image, s: _affine(image, 1, 0.99 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s: _affine(image, 1, 0, 0, 0.99 * s, 1, 0),
    "translate_x": lambda image, s: _affine(image, 1, 0, _pixels(image.width, s), 0, 1, 0),
    "translate_y": lambda image, s: _affine(image, 1, 0, 0, 0, 1, _pixels(image.height, s)),
    "rotate": lambda image, s: image.rotate(135 * s),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.99 * s),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.99 * s),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.99 * s),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "colour": lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.99 * s),
}
COLOURED: Final = (*_OF_ARRAYS, *_OF_PICTURES)
GREY: Final = tuple(name for name in COLOURED if name != "colour")
"""A grey image has none."""


def trivial_augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes each image in one way; way, strength and direction are uniform.

    Args:
      images: uint8 [B, H, W, C].
      rng: the generator of all random choices.

    Returns:
      uint8 [B, H, W, C], an array of its own.
    """
    names = GREY if images.shape[-1] == 1 else COLOURED
    count = len(images)
    ways, strengths = rng.integers(len(names), size=count), rng.integers(STRENGTHS, size=count)
    signed = rng.choice((-1, 1), size=count) * strengths / (STRENGTHS - 1)
    return np.stack([change(image, names[way], s) for image, way, s in zip(images, ways, signed, strict=True)])


def change(image: np.ndarray, name: str, strength: float) -> np.ndarray:
    """One image, uint8 [H, W, C], changed in one of the ways `COLOURED` by a strength in [-1, 1]."""
    if name in _OF_ARRAYS:
        return _OF_ARRAYS[name](image, strength)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(_OF_PICTURES[name](picture, strength)).reshape(image.shape)
