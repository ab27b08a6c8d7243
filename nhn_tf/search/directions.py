"""The second half of the location-direction search: which connections the add-on neurons have.

Letters: K population, C channels, M training iterations.
Source: paper, section 2.3 and section 3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from nhn_tf.models import DirectionSupernet
from nhn_tf.pruning.criteria import kernel_std
from nhn_tf.search.addon_search import AddonSearch
from nhn_tf.search.evolution import generate_direction, strongest_direction
from nhn_tf.search.history import Table
from nhn_tf.search.trials import Conclusion, Trial
from nhn_tf.settings import DirectionConfig
from nhn_tf.values import names
from nhn_tf.values.comparison import NO_ADDONS, Comparison
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.randomness import Stream

BEST_SEEN: Final = "best seen"  # sources of trials
STRONGEST: Final = "strongest"


class DirectionSearch(AddonSearch):
    """Searches which connections add-on neurons at given locations have.

    Every cycle measures K random directions that keep `config.density` of each add-on's connections; there is neither
    crossover nor mutation. At the end two candidates are trained for M iterations each, from the same shared weights
    on the same batches, and compared on all evaluation images: the best direction seen, and the connections whose
    shared kernels have the highest standard deviation (`docs/decisions.md`, "Final directions").

    Args:
      genotype: with the add-ons whose connections are searched.
      arrays: weights by path; where they hold the add-ons' too, these are taken over.
      config: the search's settings.
      **kwargs: of `AddonSearch`.

    Attributes:
      best_seen: the cycle and the individual of the best direction so far, and its fitness; `None` before any.
    """

    source = BEST_SEEN
    sources = (BEST_SEEN, STRONGEST)

    def __init__(
        self, genotype: Genotype, arrays: Mapping[str, np.ndarray], config: DirectionConfig, **kwargs: Any
    ) -> None:
        super().__init__(
            genotype, arrays, config, **{**kwargs, "project_name": kwargs.get("project_name") or "direction"}
        )
        self.config: DirectionConfig = config
        self.supernet: DirectionSupernet
        if any(path.startswith(names.addon(0, "conv")) for path in arrays):
            self.supernet.load_addons(arrays)
        self.best_seen: dict[str, Any] | None = None
        self._shapes = {name: kernel.shape[2:] for name, kernel in self.supernet.kernels.items()}
        self.measured = Table("cycle", numbers=1)
        self.ranked = Table("source", numbers=0, bits=sum(map(math.prod, self._shapes.values())))
        self._open_project()

    @property
    def candidates(self) -> int:
        return len(self.sources)

    def build_supernet(self, **kwargs: Any) -> DirectionSupernet:
        return DirectionSupernet(self.genotype, directions=self.config.population, **kwargs)

    def directions(self, cycle: int) -> dict[str, np.ndarray]:
        """The masks of a cycle, bool [K, Cin, Cout] by layer name; a pure function of the seed."""
        return {
            name: np.stack(
                [
                    generate_direction(
                        kernel.shape[2:],
                        self.rng(Stream.DIRECTIONS, cycle, individual * len(self.genotype.addons) + number),
                        density=self.config.density,
                    )
                    for individual in range(self.config.population)
                ]
            )
            for number, (name, kernel) in enumerate(self.supernet.kernels.items())
        }

    def propose(self, cycle: int) -> np.ndarray:
        self.supernet.set_directions(self.directions(cycle))
        return np.arange(self.config.population, dtype=np.int32)[:, None]

    def select(self, genotype: Genotype) -> np.ndarray:
        masks = genotype.masks or Masks({})
        wide = {name: np.tile(masks[name], (self.config.population, 1, 1)) for name in self.supernet.kernels}
        self.supernet.set_directions(wide)
        return np.zeros(1, np.int32)

    def encode(self, genotype: Genotype) -> np.ndarray:
        """A bit for each connection of each add-on, in their order."""
        masks = genotype.masks or Masks({})
        return np.concatenate([masks[name].ravel() for name in self._shapes])

    def decode(self, genes: np.ndarray) -> Genotype:
        ends = np.cumsum([math.prod(shape) for shape in self._shapes.values()])[:-1]
        parts = zip(self._shapes.items(), np.split(genes.astype(bool), ends), strict=True)
        return self._directed({name: part.reshape(shape) for (name, shape), part in parts})

    def learn(self, cycle: int, fitness: np.ndarray) -> dict[str, float]:
        individual = int(np.argmax(np.nan_to_num(fitness, nan=-np.inf)))
        if not np.isnan(fitness[individual]) and (
            self.best_seen is None or fitness[individual] > self.best_seen["fitness"]
        ):
            self.best_seen = {"cycle": cycle, "individual": individual, "fitness": float(fitness[individual])}
        return {}

    def search_space_summary(self) -> None:
        print(
            f"Search space: the connections of {len(self.genotype.addons)} add-ons at density {self.config.density:g}"
        )
        for row in self.describe(self.genotype):
            print(f"  {row}")

    def conclude(self) -> Conclusion:
        """Compares the best direction seen with the strongest connections."""
        density, kernels = self.config.density, self.supernet.kernels
        seen = self.best_seen or {"cycle": 0, "individual": 0, "fitness": math.nan}
        drawn = self.directions(seen["cycle"])
        candidates = {
            BEST_SEEN: {name: masks[seen["individual"]] for name, masks in drawn.items()},
            STRONGEST: {n: strongest_direction(kernel_std(kernel), density=density) for n, kernel in kernels.items()},
        }
        order = self.compare([(self._directed(masks), source) for source, masks in candidates.items()])
        scores = {trial.source: trial.score for trial in order}
        figures = {
            "winner": order[0].source,
            "best_seen_val_accuracy": scores[BEST_SEEN],
            "strongest_val_accuracy": scores[STRONGEST],
            "addon_kernels_kept": sum(int(mask.sum()) for mask in candidates[order[0].source].values()),
            "addon_kernels": sum(mask.size for mask in candidates[order[0].source].values()),
            "evaluations": self.evaluations,
            "eval_split": self.config.eval_split,
        }
        comparison = Comparison("val_accuracy", order[0].score, NO_ADDONS, self.base_accuracy)
        return Conclusion(order, [comparison], figures)

    def _directed(self, masks: Mapping[str, np.ndarray]) -> Genotype:
        """The network whose add-ons have these masks, bool [C, C] by layer name."""
        base = self.genotype.without_addons().masks or Masks({})
        return dataclasses.replace(self.genotype, masks=base.merge(masks))

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The two candidates, the better one first."""
        return self.trials[:num_trials]

    def state_values(self) -> dict[str, Any]:
        return {**super().state_values(), "best_seen": self.best_seen}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        super().restore(arrays, values)
        self.best_seen = values["best_seen"]

    def read_trials(self, arrays: Mapping[str, np.ndarray], values: Sequence[Mapping[str, Any]]) -> list[Trial]:
        base = self.genotype.without_addons().masks or Masks({})
        trials = []
        for number, value in enumerate(values):
            own = self.candidate_arrays(arrays, number)
            masks = {path.split("/")[0]: mask > 0 for path, mask in own.items() if path.endswith("/mask")}
            trials.append(Trial.from_json(value, base.merge(masks)))
        return trials
