"""What both supernets share: models that are called with images and genes.

A supernet holds the weights of every architecture of a space; the genes fed beside the images say which of them is
computed. `compile` and `fit` work as for any Keras model, on both backends.

Letters: B batch, H W C image, G genes, n architectures.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


class Superset(keras.Model, abc.ABC):
    """Base class of the supernets.

    Input: {"images": float [B, H, W, C], "genes": int32 [B or 1, G]}. One architecture is computed per batch, that of
    the genes' row 0; they are repeated over the batch so that Keras can count, split and distribute it.
    Output: logits, float32 [B, classes].

    Subclasses create their weights in `build` and end `__init__` with `self.build()`.

    Args:
      input_shape: (H, W, C) of the images.
      num_classes: of the logits.
      gene_length: G.
    """

    def __init__(self, *, input_shape: Sequence[int], num_classes: int, gene_length: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.image_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.gene_length = gene_length

    @abc.abstractmethod
    def forward(self, images: Any, genes: Any, *, training: bool) -> Any:
        """Logits [B, classes] of images [B, H, W, C] under the architecture of genes int32 [G]."""

    @abc.abstractmethod
    def check_genes(self, genes: Any) -> np.ndarray:
        """Returns `genes` as int32 [G].

        Raises:
          ValueError: they do not describe an architecture of this supernet.
        """

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        return self.forward(inputs["images"], inputs["genes"][0], training=bool(training))

    def compute_output_shape(self, input_shape: dict[str, Sequence[int | None]]) -> tuple[int | None, int]:
        return (input_shape["images"][0], self.num_classes)

    def accuracy(self, genes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of a batch that one architecture classifies right; one compiled call.

        Args:
          genes: int [G].
          images: float [B, H, W, C].
          labels: int [B].

        Returns:
          The accuracy, in [0, 1]. An image whose logits are not finite counts as wrong.
        """
        return float(self.accuracies([genes], [(images, labels)])[0])

    def accuracies(
        self, genes: np.ndarray | Sequence[np.ndarray], batches: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Accuracy of several architectures on the same batches.

        Args:
          genes: int [n, G].
          batches: indexed (images, labels), a `keras.utils.PyDataset` for one; each is made once.

        Returns:
          float64 [n], in [0, 1], over all images.
        """
        return self._means(_right, genes, batches)

    def cross_entropy(self, genes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
        """Mean cross-entropy of a batch under one architecture, in nats; arguments as for `accuracy`.

        Returns:
          The loss, at least 0; infinite or NaN where logits are not finite.
        """
        return float(self.cross_entropies([genes], [(images, labels)])[0])

    def cross_entropies(
        self, genes: np.ndarray | Sequence[np.ndarray], batches: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Mean cross-entropy of several architectures on the same batches, float64 [n]; see `accuracies`."""
        return self._means(_surprisals, genes, batches)

    def _means(
        self,
        measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
        genes: np.ndarray | Sequence[np.ndarray],
        batches: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> np.ndarray:
        """The mean over all images of what is measured of logits [B, classes] and labels int [B]; float64 [n]."""
        architectures = [self.check_genes(row) for row in np.asarray(genes)]
        sums, total = np.zeros(len(architectures)), 0
        for index in range(len(batches)):
            images, labels = batches[index]
            for number, row in enumerate(architectures):
                logits = self.predict_on_batch({"images": images, "genes": tile_genes(row, len(labels))})
                sums[number] += measure(logits, np.asarray(labels)).sum()
            total += len(labels)
        if total == 0:
            raise ValueError("`batches` must hold at least one image. Received: none.")
        return sums / total


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images are classified right, bool [B]."""
    return (logits.argmax(axis=-1) == labels) & np.isfinite(logits).all(axis=-1)


def _surprisals(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log of the probability of each image's class, float64 [B]."""
    with np.errstate(invalid="ignore"):
        above = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(above).sum(axis=-1)) - above[np.arange(len(labels)), labels]


def tile_genes(genes: np.ndarray, count: int) -> np.ndarray:
    """Genes int32 [G] as a supernet wants them beside a batch of `count` images: int32 [count, G]."""
    return np.tile(np.asarray(genes, np.int32), (count, 1))


class GenedBatches(keras.utils.PyDataset):
    """Batches of images with the genes of the architecture each of them trains or measures.

    Yields ({"images": [B, H, W, C], "genes": int32 [B, G]}, labels).

    To give each epoch other genes, set `genes` before `fit` or in a callback's `on_epoch_begin`.

    Args:
      batches: indexed (images, labels); its `on_epoch_end`, if it has one, is called at the end of an epoch.
      genes: int [G], one architecture for all batches, or [len(batches), G], one for each.
    """

    def __init__(self, batches: Any, genes: np.ndarray, **kwargs: Any):
        super().__init__(**kwargs)
        self.batches = batches
        self.genes = genes

    @property
    def genes(self) -> np.ndarray:
        return self._genes

    @genes.setter
    def genes(self, genes: np.ndarray) -> None:
        genes = np.asarray(genes, np.int32)
        if genes.ndim not in (1, 2) or (genes.ndim == 2 and len(genes) != len(self.batches)):
            raise ValueError(f"`genes` must be [G] or [{len(self.batches)}, G]. Received: shape {genes.shape}.")
        self._genes = genes

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        images, labels = self.batches[index]
        genes = self._genes if self._genes.ndim == 1 else self._genes[index]
        return {"images": images, "genes": tile_genes(genes, len(labels))}, labels

    def on_epoch_end(self) -> None:
        if hasattr(self.batches, "on_epoch_end"):
            self.batches.on_epoch_end()
