"""Where add-on neurons may join a network, as an integer code (paper, sections 2.3 and 3).

A code has one gene for each (kernel size, layer): first those of 3x3, then those of 5x5. Gene -1 is no add-on; gene i
is an add-on that reads source i of the layer's segment: 0 the segment's input, i its layer i - 1. A layer may read
only what lies before it, so that layer p of its segment (from 0) has p + 1 sources.

Letters: L layers, G genes (2 L), n codes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from nhn_tf.values.genotype import Addon
from nhn_tf.values.space import Space

KERNEL_SIZES: tuple[int, ...] = (3, 5)
NONE = -1


@dataclasses.dataclass(frozen=True)
class LocationSpace:
    """Every combination of add-on locations in networks of a macro space.

    Attributes:
      space: the networks' space; only its layers and segments matter.
    """

    space: Space

    @property
    def gene_length(self) -> int:
        return len(KERNEL_SIZES) * self.space.num_layers

    @property
    def num_sources(self) -> np.ndarray:
        """How many sources each gene's layer may read, int32 [G]."""
        within_segment = np.arange(self.space.num_layers) % self.space.layers_per_segment
        return np.tile(within_segment + 1, len(KERNEL_SIZES)).astype(np.int32)

    def gene_index(self, target: int, kernel_size: int) -> int:
        """Where the gene of a layer and a kernel size stands."""
        return KERNEL_SIZES.index(kernel_size) * self.space.num_layers + target

    def size(self) -> int:
        """Number of codes without a -1, as the paper counts: (4!)^3 * (4!)^3 for 12 layers in 3 segments."""
        return math.prod(self.num_sources.tolist())

    def size_with_none(self) -> int:
        """Number of all codes."""
        return math.prod((self.num_sources + 1).tolist())

    def check_genes(self, genes: np.ndarray) -> np.ndarray:
        """Returns `genes` as int32 [G] after checking their length and range.

        Raises:
          ValueError: they are no code of this space.
        """
        genes = np.asarray(genes)
        if genes.shape != (self.gene_length,) or not np.issubdtype(genes.dtype, np.integer):
            raise ValueError(
                f"location genes must be {self.gene_length} integers. Received: {genes.dtype} of shape {genes.shape}."
            )
        if (genes < NONE).any() or (genes >= self.num_sources).any():
            raise ValueError(
                f"a location gene must be -1 or a source of its layer, below {self.num_sources.tolist()}. "
                f"Received: {genes.tolist()}."
            )
        return genes.astype(np.int32)

    def to_addons(self, genes: np.ndarray) -> tuple[Addon, ...]:
        """The add-ons of a code int [G], sorted.

        Raises:
          ValueError: it is no code of this space.
        """
        genes = self.check_genes(genes)
        layers = self.space.num_layers
        return tuple(
            sorted(
                Addon(target=index % layers, kernel_size=KERNEL_SIZES[index // layers], source=int(genes[index]))
                for index in np.flatnonzero(genes != NONE).tolist()
            )
        )

    def from_addons(self, addons: Iterable[Addon]) -> np.ndarray:
        """The code int32 [G] of add-ons, at most one for each (target, kernel size)."""
        genes = np.full(self.gene_length, NONE, np.int32)
        for addon in addons:
            genes[self.gene_index(addon.target, addon.kernel_size)] = addon.source
        return self.check_genes(genes)
