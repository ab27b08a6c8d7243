"""How long the networks of a space take in the sparse runtime on this machine: a table, measured once.

Source: Wu et al. 2019 (FBNet), section 3.3: the latency of a network as a sum over its layers.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from nhn_tf import sparse
from nhn_tf.errors import UserError
from nhn_tf.layers import MaskedConv2D
from nhn_tf.models import network
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space

_ROUNDS: Final = 5
_TURN_S: Final = 0.02
"""For so long each network is called again and again, so that caches are warm, before it is the next one's turn."""


@dataclasses.dataclass(frozen=True)
class Latencies:
    """Milliseconds of one image on one thread.

    Attributes:
      plain: of the network of the space's first op alone, without skips.
      ops: for each segment, how much longer a layer takes with another op, by the op's name.
      skips: for each segment, what each output takes that a layer joins.
    """

    plain: float
    ops: Sequence[Mapping[str, float]]
    skips: Sequence[float]

    def __call__(self, genotype: Genotype) -> float:
        """Milliseconds of a network; at least a tenth of the plain one's, whatever the sum."""
        space, total = genotype.space, self.plain
        for layer, (op, joined) in enumerate(zip(genotype.ops, genotype.skips, strict=True)):
            segment = space.segment_of(layer)
            total += self.ops[segment].get(op, 0.0) + self.skips[segment] * len(joined)
        return max(total, self.plain / 10)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Latencies:
        """Those that `to_json` described."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def measure(
        cls, space: Space, *, form: Form, input_shape: Sequence[int], num_classes: int, sparsity: float
    ) -> Latencies:
        """Times the plain network and, for each segment, one with each other op in it and one with all of its skips.

        Args:
          space: the architectures.
          form: of their networks.
          input_shape: (H, W, C) of the images.
          num_classes: of the logits.
          sparsity: share of the full 3x3 and 5x5 kernels that are pruned, at random.

        Raises:
          UserError: as `check`.
        """
        first, *others = space.ops
        no_skips = ((),) * space.num_layers
        all_skips = tuple(tuple(range(layer)) for layer in range(space.num_layers))
        segments = range(space.num_segments)

        def within(segment: int, inside: Sequence[Any], outside: Sequence[Any]) -> tuple[Any, ...]:
            places = map(space.segment_of, range(space.num_layers))
            return tuple(a if place == segment else b for place, a, b in zip(places, inside, outside, strict=True))

        plain = (first,) * space.num_layers
        asked = {"plain": Genotype(space, plain, no_skips)}
        for segment in segments:
            for op in others:
                ops = within(segment, (op,) * space.num_layers, plain)
                asked[f"{segment} {op}"] = Genotype(space, ops, no_skips)
            if segment or space.layers_per_segment > 1:
                asked[f"{segment} skips"] = Genotype(space, plain, within(segment, all_skips, no_skips))
        rng = np.random.default_rng(0)
        shape: dict[str, Any] = {"input_shape": input_shape, "num_classes": num_classes, "form": form}
        took = timed({name: _compiled(genotype, shape, sparsity, rng) for name, genotype in asked.items()}, input_shape)
        more = {name: ms - took["plain"] for name, ms in took.items()}
        counts = [sum(map(len, within(segment, all_skips, no_skips))) for segment in segments]
        return cls(
            took["plain"],
            [{op: more[f"{segment} {op}"] / space.layers_per_segment for op in others} for segment in segments],
            [
                more.get(f"{segment} skips", 0.0) / max(count, 1)
                for segment, count in zip(segments, counts, strict=True)
            ],
        )


def check(ops: Sequence[str], **shape: Any) -> None:
    """Refuses ops whose networks cannot be timed here, without timing any.

    Args:
      ops: of the space.
      **shape: form, input_shape and num_classes, as for `Latencies.measure`.

    Raises:
      UserError: llvmlite is not installed, or the sparse runtime cannot compute an op of one's own.
    """
    chain = Genotype(Space(len(ops), 1, tuple(ops)), tuple(ops), ((),) * len(ops))
    _compiled(chain, shape, 0.0, np.random.default_rng(0))


def _compiled(genotype: Genotype, shape: Mapping[str, Any], sparsity: float, rng: np.random.Generator) -> Any:
    """The network of an architecture in the sparse runtime, a random share of its full kernels pruned."""
    model = network.build(genotype, **shape)
    for layer in model.layers:
        if isinstance(layer, MaskedConv2D):
            layer.set_mask(rng.random(layer.kernel.shape[2:]) >= sparsity)
    try:
        return sparse.compile(model, threads=1, check=False)
    except (sparse.UnsupportedLayerError, sparse.CapacityError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"`objective`=latency times networks that the sparse runtime computes: {reason}") from None


def timed(runtimes: Mapping[str, Any], input_shape: Sequence[int]) -> dict[str, float]:
    """Milliseconds of an image in each runtime, by turns, the median of their rounds."""
    image = np.random.default_rng(0).standard_normal((1, *input_shape)).astype(np.float32)
    rounds: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(_ROUNDS):
        for name, runtime in runtimes.items():
            runtime(image)
            calls, begun = 0, time.thread_time()
            while (spent := time.thread_time() - begun) < _TURN_S:
                runtime(image)
                calls += 1
            rounds[name].append(1e3 * spent / calls)
    return {name: statistics.median(times) for name, times in rounds.items()}
