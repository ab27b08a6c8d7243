"""CutMix: training images with a rectangle of another image in them, and as much of its label. Imports no Keras.

Letters: B batch, H W height and width, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CutMix:
    """Puts a rectangle of the next image of the batch into an image (Yun et al. 2019, section 3.2).

    The rectangle's share of the image is uniform in [0, 1] and its centre anywhere, clipped at the border; the label is
    shared by what is seen of either image.

    Attributes:
      share: of the images, how many are mixed, in [0, 1].
      classes: K.
    """

    share: float
    classes: int

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mixes a batch.

        Args:
          images: float32 [B, H, W, C].
          labels: int [B].
          rng: the generator of all random choices.

        Returns:
          images float32 [B, H, W, C], an array of its own, and targets float32 [B, K] whose rows sum to 1.
        """
        batch, height, width, _ = images.shape
        size = np.array([height, width])
        sides = np.sqrt(rng.random((batch, 1))) * size
        centres = rng.random((batch, 2)) * size
        chosen = rng.random(batch) < self.share
        low = np.clip(np.rint(centres - sides / 2), 0, size).astype(int)
        high = np.clip(np.rint(centres + sides / 2), 0, size).astype(int)
        others = np.roll(np.arange(batch), -1)
        mixed = images.copy()
        for b in np.flatnonzero(chosen):
            (top, left), (bottom, right) = low[b], high[b]
            mixed[b, top:bottom, left:right] = images[others[b], top:bottom, left:right]
        seen = np.where(chosen, np.prod(high - low, axis=1) / (height * width), 0.0)[:, None]
        one_hot = np.eye(self.classes)[labels]
        return mixed, ((1 - seen) * one_hot + seen * one_hot[others]).astype(np.float32)
