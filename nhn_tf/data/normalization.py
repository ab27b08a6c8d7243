"""Images as a network takes them: each channel of mean 0 and standard deviation 1. Imports no Keras.

Letters: B batch, H W height and width, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nhn_tf.data.splits import Split


@dataclass(frozen=True)
class Normalization:
    """Shifts and scales each channel to mean 0 and standard deviation 1.

    Attributes:
      mean: mean of each channel, of images scaled to [0, 1].
      std: standard deviation of each channel, of images scaled to [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"`mean` and `std` must be of one length, `std` above 0. Received: mean={self.mean}, std={self.std}."
            )

    @classmethod
    def of(cls, split: Split) -> Normalization:
        """The statistics of a split's images; a channel that never varies is only shifted."""
        if not len(split):
            raise ValueError("Statistics need at least one image. Received: an empty split.")
        counts = _count_levels(split.images)
        levels = np.arange(256) / 255
        share = counts / counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
        std = np.where(np.count_nonzero(counts, axis=1) == 1, 1.0, std)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Normalises images.

        Args:
          images: uint8 [B, H, W, C].

        Returns:
          float32 [B, H, W, C].
        """
        batch, height, width, channels = images.shape
        if channels != len(self.mean):
            raise ValueError(f"Images must have {len(self.mean)} channels. Received: {channels}.")
        mean, std = np.array(self.mean), np.array(self.std)
        # Whole rows at a time: six times as fast as broadcasting over an axis of length 3.
        scale = np.tile(1 / (255 * std), width).astype(np.float32)
        offset = np.tile(-mean / std, width).astype(np.float32)
        rows = images.reshape(batch, height, width * channels).astype(np.float32)
        rows *= scale
        rows += offset
        return rows.reshape(images.shape)


def _count_levels(images: np.ndarray) -> np.ndarray:
    """How often each channel takes each of the 256 levels, int64 [C, 256]: statistics of them are exact."""
    channels = images.shape[-1]
    counts = np.zeros(channels * 256, np.int64)
    # A few hundred images at a time stay in the processor's cache.
    for start in range(0, len(images), 256):
        levels = images[start : start + 256] + 256 * np.arange(channels)
        counts += np.bincount(levels.ravel(), minlength=len(counts))
    return counts.reshape(channels, 256)
