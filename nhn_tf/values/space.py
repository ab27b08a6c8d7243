"""The ENAS macro search space: which layers there are, what each may compute, and how a choice is written down.

Letters: L layers, G genes (length of an architecture's integer code), n architectures.
Source: ENAS (Pham et al. 2018, section 2.3 "macro search"), used by the NHN paper in section 2.1.

An architecture's genes are one int32 vector `[G]`: L op indices into `Space.ops`, then the skip bits row by row
(layer 1 has one bit, layer 2 has two, ...). Outputs are numbered 0 for the stem and i for layer i - 1; layer k reads
output k, and its bit i < k joins output i.

Ops of one's own (`register_op`) are known by name in the process that registers them; this file keeps what makes their
layers without looking at it, `layers/own_op.py` calls it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np

from nhn_tf.errors import UserError

OpKind = Literal["conv", "separable_conv", "avg_pool", "max_pool", "own"]
Factory = Callable[[int, str], Any]
"""(filters, name) -> a new Keras layer called `name`, from [B, H, W, filters] to the same shape."""

_NAME: Final = re.compile("[a-z][a-z0-9_]{0,23}")


class OpError(UserError):
    """An op is not registered in this process, or what makes its layer does not do what it must."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation of the space.

    Attributes:
      name: by which a space and a genotype know it.
      kind: what it computes; "own" is whatever the layer does that `factory` makes.
      kernel_size: side of its window; 0 of an op of one's own.
      has_batch_norm: whether batch norm and ReLU follow, as behind every convolution.
      factory: makes the layer of an op of one's own.
    """

    name: str
    kind: OpKind
    kernel_size: int
    has_batch_norm: bool = True
    factory: Factory | None = None


# In the order of ENAS's integer codes.
OPS: tuple[Op, ...] = (
    Op("conv3x3", "conv", 3),
    Op("sep_conv3x3", "separable_conv", 3),
    Op("conv5x5", "conv", 5),
    Op("sep_conv5x5", "separable_conv", 5),
    Op("avg_pool3x3", "avg_pool", 3, has_batch_norm=False),
    Op("max_pool3x3", "max_pool", 3, has_batch_norm=False),
)
OP_NAMES: tuple[str, ...] = tuple(op.name for op in OPS)
# A network of more would take hours to build; the paper's has 12 layers, ENAS's largest published one 24.
MAX_LAYERS = 64

_own: dict[str, Op] = {}
"""What this process has registered, by name."""


def register_op(name: str, factory: Factory, *, batch_norm: bool = True, replace: bool = False) -> None:
    """Lets spaces of this process choose an op of one's own.

        space.register_op("dilated3x3", lambda filters, name: keras.layers.Conv2D(
            filters, 3, dilation_rate=2, padding="same", use_bias=False, name=name))
        Space(num_layers=6, num_segments=3, ops=("conv3x3", "dilated3x3"))

    The layer keeps height, width and channels, and holds no state but trained weights: the supernet computes it within
    a switch, where neither batch norm nor dropout can stand. Of several layers it is made as one, such as a
    `keras.Sequential`, each part of which is given a name, so that weights are found again. It brings its own
    initializers; `smooth_init` does not touch them. The 1x1 convolutions around an op are ours.

    A `keras.layers.Conv2D` of 3x3 or 5x5 without groups is masked and pruned in the derived network as our own
    convolutions are; the stages leave the weights of any other layer whole.

    The name stands for the op in genotypes, their text form and a run's settings, and for one computation for ever:
    whoever changes what `factory` makes gives it another name. Every process that reads such a genotype registers the
    op first. Searches and stages note what Keras says of the layer, and nothing goes on with another of that name.

    `export.py` writes what Keras's own layers compute: it names a layer of a class of one's own and writes nothing.

    Args:
      name: up to 24 small letters, digits and underscores, a letter in front.
      factory: (filters, name) -> a new Keras layer of that name, [B, H, W, filters] to the same shape.
      batch_norm: whether batch norm and ReLU follow, as behind ENAS's convolutions; nothing follows its poolings.
      replace: put another in place of one that is registered; otherwise registering the very same twice is allowed.

    Raises:
      OpError: the name is taken or no name, or `factory` cannot be called.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OpError(f"an op's name must be up to 24 of a-z, 0-9 and _, a letter in front. Received: {name!r}.")
    if not callable(factory):
        raise OpError(f"what makes the layer of op {name!r} must be callable. Received: {factory!r}.")
    op = Op(name, "own", 0, has_batch_norm=batch_norm, factory=factory)
    if name in OP_NAMES:
        raise OpError(f"{name!r} is an op of ENAS's. Give yours another name.")
    if not replace and _own.get(name, op) != op:
        raise OpError(f"another op is registered as {name!r}. Give yours another name, or `replace=True`.")
    _own[name] = op


def op_named(name: str) -> Op:
    """The op of that name.

    Raises:
      ValueError: no op can have that name.
      OpError: no op has it in this process.
    """
    if name in OP_NAMES:
        return OPS[OP_NAMES.index(name)]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"`ops` must be among {', '.join((*OP_NAMES, *_own))}. Received: {name!r}.")
    if name not in _own:
        raise OpError(
            f"`ops` must be among {', '.join((*OP_NAMES, *_own))}. Received: {name!r}, which is not registered in this "
            "process.\nImport the module that calls `space.register_op` for it first; scripts do, with "
            "--own_ops=MODULE."
        )
    return _own[name]


@dataclasses.dataclass(frozen=True)
class Space:
    """A macro search space.

    Attributes:
      num_layers: L, a multiple of `num_segments`.
      num_segments: stretches of equal map size; between two of them height and width are halved.
      ops: names of the ops a layer may choose, without repetition. Genes index into this tuple.
    """

    num_layers: int = 12
    num_segments: int = 3
    ops: tuple[str, ...] = OP_NAMES

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        if type(self.num_segments) is not int or self.num_segments < 1:
            raise ValueError(f"`num_segments` must be a whole number of at least 1. Received: {self.num_segments!r}.")
        if type(self.num_layers) is not int or not 1 <= self.num_layers <= MAX_LAYERS:
            raise ValueError(
                f"`num_layers` must be a whole number between 1 and {MAX_LAYERS}. Received: {self.num_layers!r}."
            )
        if self.num_layers % self.num_segments:
            raise ValueError(
                f"`num_layers` must be a multiple of num_segments={self.num_segments}. Received: {self.num_layers}."
            )
        if not self.ops:
            raise ValueError("`ops` must name at least one op. Received: ().")
        for name in self.ops:
            op_named(name)
        if len(set(self.ops)) != len(self.ops):
            raise ValueError(f"`ops` must not repeat an op. Received: {self.ops}.")

    @property
    def layers_per_segment(self) -> int:
        return self.num_layers // self.num_segments

    @property
    def transitions(self) -> tuple[int, ...]:
        """Layers followed by a halving of height and width: (3, 7) for 12 layers in 3 segments."""
        per = self.layers_per_segment
        return tuple(segment * per - 1 for segment in range(1, self.num_segments))

    @property
    def num_skips(self) -> int:
        return self.num_layers * (self.num_layers - 1) // 2

    @property
    def gene_length(self) -> int:
        return self.num_layers + self.num_skips

    def segment_of(self, layer: int) -> int:
        return layer // self.layers_per_segment

    def skip_slice(self, layer: int) -> slice:
        """Where the `layer` skip bits of a layer stand among the genes."""
        start = self.num_layers + layer * (layer - 1) // 2
        return slice(start, start + layer)

    def op(self, index: int) -> Op:
        """The op that gene value `index` stands for."""
        return op_named(self.ops[index])

    def size(self) -> int:
        """Number of architectures: |ops|^L * 2^(L (L - 1) / 2)."""
        return len(self.ops) ** self.num_layers * 2**self.num_skips

    def sample(self, rng: np.random.Generator, count: int = 1, *, skip_probability: float = 0.5) -> np.ndarray:
        """Draws architectures: ops uniformly, each skip bit with `skip_probability`.

        Returns:
          int32 [count, G].
        """
        ops = rng.integers(len(self.ops), size=(count, self.num_layers))
        skips = rng.random((count, self.num_skips)) < skip_probability
        return np.concatenate([ops, skips], axis=1).astype(np.int32)

    def check_genes(self, genes: np.ndarray) -> np.ndarray:
        """Returns `genes` as int32 [G] after checking their length and range.

        Raises:
          ValueError: they do not describe an architecture of this space.
        """
        genes = np.asarray(genes)
        if genes.shape != (self.gene_length,) or not np.issubdtype(genes.dtype, np.integer):
            raise ValueError(
                f"`genes` must be {self.gene_length} integers. Received: {genes.dtype} of shape {genes.shape}."
            )
        ops, skips = genes[: self.num_layers], genes[self.num_layers :]
        if ops.min() < 0 or ops.max() >= len(self.ops):
            raise ValueError(f"op genes must lie in 0..{len(self.ops) - 1}. Received: {ops.tolist()}.")
        if not np.isin(skips, (0, 1)).all():
            raise ValueError(f"skip genes must be 0 or 1. Received: {skips.tolist()}.")
        return genes.astype(np.int32)

    def enumerate(self) -> np.ndarray:
        """Every architecture, int32 [size, G]; for tiny spaces only.

        Raises:
          ValueError: the space holds more than a million architectures.
        """
        if self.size() > 1_000_000:
            raise ValueError(f"a space of {self.size()} architectures is too large to enumerate.")
        choices = [range(len(self.ops))] * self.num_layers + [range(2)] * self.num_skips
        return np.array(list(itertools.product(*choices)), np.int32)

    def to_json(self) -> dict:
        return {"num_layers": self.num_layers, "num_segments": self.num_segments, "ops": list(self.ops)}

    @classmethod
    def from_json(cls, value: dict) -> Space:
        return cls(value["num_layers"], value["num_segments"], tuple(value["ops"]))
