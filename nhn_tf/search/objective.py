"""What the search of architectures maximises: accuracy alone, or accuracy weighed against what a network costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from nhn_tf.models import complexity
from nhn_tf.models.complexity import Cost
from nhn_tf.models.derived_cost import derived_cost
from nhn_tf.settings import EnasConfig
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.randomness import Stream, generator

COSTS: Final[dict[str, Callable[[Cost], int]]] = {
    "params": lambda cost: cost.live_params,
    "flops": lambda cost: cost.live_flops,
}
_TYPICAL: Final = 100
"""Random architectures whose mean cost is the target where none is given."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The settings' objective, as a function of an architecture and its accuracy.

    - accuracy: the accuracy.
    - score: 1 - score / 50, by the paper's figure of merit (section 3); the accuracy of a network without parameters.
    - params, flops: accuracy * (target / cost) ^ weight, cost being live parameters or multiply-adds. Source: Tan et
      al. 2019 (MnasNet), equation 2 with one weight on both sides of the target; theirs is 0.07.

    What counts is the network that later stages make: `config.cost_filters` channels in the first segment, and
    `config.cost_sparsity` of its full kernels pruned.

    Args:
      config: the search's settings.
      input_shape: (H, W, C) of the images.
      num_classes: of the logits.
      target: the cost aimed at; only `of` need find it.
    """

    config: EnasConfig
    input_shape: Sequence[int]
    num_classes: int
    target: float

    @classmethod
    def of(cls, config: EnasConfig, input_shape: Sequence[int], num_classes: int) -> Objective:
        """The objective of a search; where its settings give no target, that is what random architectures cost."""
        objective = cls(config, input_shape, num_classes, config.cost_target)
        if config.objective not in COSTS or config.cost_target:
            return objective
        genes = config.space.sample(generator(0, Stream.TYPICAL_COST), _TYPICAL)
        costs = [objective.cost(Genotype.from_genes(config.space, row)) for row in genes]
        return dataclasses.replace(objective, target=float(np.mean(costs)))

    @property
    def is_accuracy(self) -> bool:
        return self.config.objective == "accuracy"

    def network_cost(self, genotype: Genotype) -> Cost:
        """What the network of an architecture will cost, pruned as the settings say."""
        return derived_cost(
            genotype,
            form=Form(filters=self.config.cost_filters or self.config.supernet_filters),
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            sparsity=self.config.cost_sparsity,
        )

    def cost(self, genotype: Genotype) -> int:
        """What the objective weighs, live parameters where it names none."""
        return COSTS.get(self.config.objective, COSTS["params"])(self.network_cost(genotype))

    def __call__(self, genotype: Genotype, accuracy: float) -> float:
        if self.is_accuracy:
            return accuracy
        cost = self.cost(genotype)
        if self.config.objective == "score":
            return 1 - complexity.score(100 * (1 - accuracy), cost / 1e6) / 50
        return accuracy * (self.target / cost) ** self.config.cost_weight
