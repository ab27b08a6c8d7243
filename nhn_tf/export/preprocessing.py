"""From a file to what an exported network takes, and from what it answers to classes; no Keras.

Letters: B batch, H W height and width, C channels, K classes.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Final

import numpy as np

from nhn_tf.data import pictures
from nhn_tf.data.normalization import Normalization
from nhn_tf.storage import files

FILE: Final = "preprocessing.json"
_INPUT: Final = "float32 [batch, height, width, channels]: (pixel / 255 - mean) / std for each channel"
_OUTPUT: Final = "float32 [batch, classes]: logits; their softmax gives probabilities"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a user of an export must know about its inputs and outputs: the content of preprocessing.json.

        how = Preprocessing.load("runs/demo/export/preprocessing.json")
        images = np.stack([how.read("new.jpg")])
        probabilities = how.probabilities(network.predict(how.normalization(images)))

    Attributes:
      dataset: that the network was trained on.
      image_shape: (H, W, C) of its images.
      normalization: of them.
      class_names: K of them, in the order of the network's outputs.
    """

    dataset: str
    image_shape: tuple[int, int, int]
    normalization: Normalization
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3 or min(self.image_shape) < 1 or self.image_shape[2] not in (1, 3):
            raise ValueError(f"`image_shape` must be (H, W, 1) or (H, W, 3). Received: {self.image_shape}.")
        if len(self.normalization.mean) != self.image_shape[2]:
            raise ValueError(f"`mean` must have {self.image_shape[2]} values. Received: {self.normalization.mean}.")
        if len(self.class_names) < 2:
            raise ValueError(f"`class_names` must be at least two. Received: {self.class_names}.")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Preprocessing:
        """Reads what `to_json` gave.

        Raises:
          FileNotFoundError: there is no such file.
          DamagedFileError: it is not such a file.
        """
        value = files.read_json(path)
        try:
            height, width, channels = map(int, value["image_shape"])
            mean, std = (tuple(map(float, value[name])) for name in ("mean", "std"))
            class_names = tuple(map(str, value["class_names"]))
            return cls(str(value["dataset"]), (height, width, channels), Normalization(mean, std), class_names)
        except (KeyError, TypeError, ValueError) as error:
            raise files.DamagedFileError(
                f"{path} does not say how to make inputs ({type(error).__name__}: {error}). Export the network again."
            ) from None

    def to_json(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "image_shape": list(self.image_shape),
            "input": _INPUT,
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
            "output": _OUTPUT,
            "class_names": list(self.class_names),
        }

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """A picture as the network's training read it: upright, scaled and cropped, of the network's channels.

        Returns:
          uint8 [H, W, C].

        Raises:
          DataError: the file cannot be read as a picture.
        """
        height, width, channels = self.image_shape
        return pictures.decode(path, image_size=(height, width), channels=channels)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax of logits, float [B, K], as float32 [B, K]."""
        logits = np.asarray(logits, np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
