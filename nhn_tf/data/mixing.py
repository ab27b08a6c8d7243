"""CutMix and mixup: training images with some of another image in them, and as much of its label. Imports no Keras.

Letters: B batch, H W height and width, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixing:
    """Mixes an image with the next one of its batch, in one of two ways or not at all.

    CutMix (Yun et al. 2019, section 3.2) puts a rectangle of the other into an image. Its share of the image is uniform
    in [0, 1] and its centre anywhere, clipped at the border; the label is shared by what is seen of either image.
    Mixup (Zhang et al. 2018, section 2) takes the weighted mean of both images and of their labels; the other's weight
    is uniform in [0, 1], which is their alpha = 1, as on CIFAR-10.

    Attributes:
      classes: K.
      cutmix: of the images, how many get a rectangle, in [0, 1].
      mixup: of the images, how many are blended, in [0, 1]; with `cutmix` 1 at most.
    """

    classes: int
    cutmix: float = 0.0
    mixup: float = 0.0

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
        way, weights = rng.random((2, batch))
        low = np.clip(np.rint(centres - sides / 2), 0, size).astype(int)
        high = np.clip(np.rint(centres + sides / 2), 0, size).astype(int)
        others = np.roll(np.arange(batch), -1)
        cut, blended = way < self.cutmix, (self.cutmix <= way) & (way < self.cutmix + self.mixup)
        mixed = images.copy()
        for b in np.flatnonzero(cut):
            (top, left), (bottom, right) = low[b], high[b]
            mixed[b, top:bottom, left:right] = images[others[b], top:bottom, left:right]
        for b in np.flatnonzero(blended):
            mixed[b] += np.float32(weights[b]) * (images[others[b]] - images[b])
        seen = np.where(cut, np.prod(high - low, axis=1) / (height * width), blended * weights)[:, None]
        one_hot = np.eye(self.classes)[labels]
        return mixed, ((1 - seen) * one_hot + seen * one_hot[others]).astype(np.float32)
