"""What the search of architectures maximises: accuracy alone, or accuracy weighed against what a network costs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from nhn_tf.models import complexity
from nhn_tf.models.complexity import Cost
from nhn_tf.models.derived_cost import derived_cost
from nhn_tf.search import latency
from nhn_tf.search.latency import Latencies
from nhn_tf.settings import EnasConfig
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.randomness import Stream, generator

WEIGHED: Final = ("params", "flops", "latency")
"""The objectives whose cost has a target."""
_TYPICAL: Final = 100
"""Random architectures whose mean cost is the target where none is given."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The settings' objective, as a function of an architecture and its accuracy.

    - accuracy: the accuracy.
    - score: 1 - score / 50, score being the paper's figure of merit (section 3): without parameters, the accuracy.
    - params, flops, latency: accuracy * (target / cost) ^ weight, cost being live parameters, multiply-adds, or
      milliseconds in the sparse runtime. Source: Tan et al. 2019 (MnasNet), equation 2 with one weight on both sides
      of the target; theirs is 0.07.

    What counts is the network that later stages make: `config.cost_filters` channels in the first segment, and
    `config.cost_sparsity` of its full kernels pruned.

    Args:
      config: the search's settings.
      input_shape: (H, W, C) of the images.
      num_classes: of the logits.
      latencies: what layers take on this machine, once they have been measured; only for "latency".
    """

    config: EnasConfig
    input_shape: Sequence[int]
    num_classes: int
    latencies: Latencies | None = None

    @property
    def is_accuracy(self) -> bool:
        return self.config.objective == "accuracy"

    @functools.cached_property
    def target(self) -> float:
        """The cost aimed at: where the settings give none, what random architectures cost on average."""
        config = self.config
        if config.cost_target:
            return config.cost_target
        genes = config.space.sample(generator(0, Stream.TYPICAL_COST), _TYPICAL)
        return float(np.mean([self.cost(Genotype.from_genes(config.space, row)) for row in genes]))

    def check(self) -> None:
        """Refuses what cannot be measured, before anything is begun.

        Raises:
          UserError: as `latency.check`.
        """
        if self.config.objective == "latency":
            latency.check(self.config.space.ops, **self._shape)

    def measured(self) -> Objective:
        """The same with what layers take on this machine, if that counts and is not known; takes a minute or less.

        Raises:
          as `Latencies.measure`.
        """
        if self.config.objective != "latency" or self.latencies is not None:
            return self
        latencies = Latencies.measure(self.config.space, **self._shape, sparsity=self.config.cost_sparsity)
        return dataclasses.replace(self, latencies=latencies)

    @property
    def _shape(self) -> dict[str, Any]:
        """What the network whose cost counts looks like beyond its genotype, as `network.build` takes it."""
        form = Form(filters=self.config.cost_filters or self.config.supernet_filters)
        return {"form": form, "input_shape": self.input_shape, "num_classes": self.num_classes}

    def network_cost(self, genotype: Genotype) -> Cost:
        """What the network of an architecture will cost, pruned as the settings say."""
        return derived_cost(genotype, **self._shape, sparsity=self.config.cost_sparsity)

    def cost(self, genotype: Genotype) -> float:
        """What the objective weighs: multiply-adds, milliseconds, or else live parameters."""
        if self.latencies is not None:
            return self.latencies(genotype)
        cost = self.network_cost(genotype)
        return cost.live_flops if self.config.objective == "flops" else cost.live_params

    def __call__(self, genotype: Genotype, accuracy: float) -> float:
        if self.is_accuracy:
            return accuracy
        cost = self.cost(genotype)
        if self.config.objective == "score":
            return 1 - complexity.score(100 * (1 - accuracy), cost / 1e6) / 50
        return accuracy * (self.target / cost) ** self.config.cost_weight
