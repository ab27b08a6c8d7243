"""Which connections of a network are alive.

A connection is one spatial kernel K[:, :, i, j] of a full k x k convolution (paper, section 2.2): the k * k weights
between input channel i and output channel j. A layer's mask is bool `[Cin, Cout]`, True where the kernel is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np

from nhn_tf.storage import files


class Masks(Mapping[str, np.ndarray]):
    """An immutable, hashable mapping from layer name to a read-only bool array [Cin, Cout]."""

    def __init__(self, masks: Mapping[str, np.ndarray]):
        self._masks: dict[str, np.ndarray] = {}
        for name in sorted(masks):
            mask = np.array(masks[name])
            if mask.dtype != np.bool_ or mask.ndim != 2 or 0 in mask.shape:
                raise ValueError(
                    f"mask of {name!r} must be bool [Cin, Cout]. Received: {mask.dtype} of shape {mask.shape}."
                )
            mask.setflags(write=False)
            self._masks[name] = mask
        self._digest = files.digest_arrays(self._masks)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masks) and self._digest == other._digest

    def __repr__(self) -> str:
        return f"Masks({len(self)} layers, {self.kept} of {self.total} kernels kept)"

    @property
    def digest(self) -> str:
        """Hex digest of names, shapes and bits; equal masks have equal digests."""
        return self._digest

    @property
    def total(self) -> int:
        """Number of kernels, kept or not."""
        return sum(mask.size for mask in self._masks.values())

    @property
    def kept(self) -> int:
        return sum(int(mask.sum()) for mask in self._masks.values())

    @property
    def sparsity(self) -> float:
        """Share of the kernels that are pruned, in [0, 1]; 0 when there are none."""
        return 1.0 - self.kept / self.total if self.total else 0.0

    def merge(self, other: Mapping[str, np.ndarray]) -> Masks:
        """These masks with those of `other` added.

        Raises:
          ValueError: both hold a mask for one layer.
        """
        if both := sorted(set(self) & set(other)):
            raise ValueError(f"both masks name {', '.join(both)}; a layer has one mask.")
        return Masks({**self._masks, **other})

    def save(self, path: str | os.PathLike[str]) -> None:
        files.save_npz(path, self._masks)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Reads what `save` wrote.

        Raises:
          files.DamagedFileError: the file does not hold masks.
        """
        arrays = files.load_npz(path)
        try:
            return cls(arrays)
        except ValueError as error:
            raise files.DamagedFileError(f"{path} does not hold masks: {error}") from None
