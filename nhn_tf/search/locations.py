"""The first half of the location-direction search: which layers add-on neurons join.

Letters: K population, G genes, n codes.
Source: paper, section 2.3 (algorithm 1) and section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from nhn_tf.models import LocationSupernet
from nhn_tf.search.addon_search import AddonSearch
from nhn_tf.search.candidates import distinct_rows, draw_distinct
from nhn_tf.search.evolution import Evolution, Population
from nhn_tf.search.history import Table
from nhn_tf.search.trials import Conclusion, Trial, mean_score
from nhn_tf.settings import LocationConfig
from nhn_tf.values.comparison import NO_ADDONS, RANDOM_SEARCH, Comparison
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.locations import LocationSpace
from nhn_tf.values.randomness import Stream

EVOLUTION: Final = "evolution"  # sources of trials
RANDOM: Final = "random"


class LocationSearch(AddonSearch):
    """Searches which layers add-on neurons join, by a genetic algorithm over location codes.

    At the end the survivors of the last cycle, and as many random codes as a control, train for M iterations each, from
    the same shared weights on the same batches, and are compared on all evaluation images (`docs/decisions.md`, "Best
    location").

    Attributes:
      population: the codes that the next cycle measures.
      evolution: how they come about.

    Example:

        searcher = LocationSearch(genotype, arrays, LocationConfig(), input_shape=(32, 32, 3), num_classes=10)
        searcher.search(train_batches, validation_data=val_batches)
        genotype = searcher.get_best_genotypes(1)[0]
        arrays = searcher.network_arrays(genotype)
    """

    source = EVOLUTION
    sources = (EVOLUTION, RANDOM)
    better: ClassVar[Mapping[str, str]] = {**AddonSearch.better, "addons": "", "distinct": ""}

    def __init__(
        self, genotype: Genotype, arrays: Mapping[str, np.ndarray], config: LocationConfig, **kwargs: Any
    ) -> None:
        super().__init__(
            genotype, arrays, config, **{**kwargs, "project_name": kwargs.get("project_name") or "location"}
        )
        self.config: LocationConfig = config
        self.evolution = Evolution(LocationSpace(genotype.space), config)
        self.population = self.evolution.start(self.rng(Stream.FIRST_POPULATION))
        self.measured = Table("cycle", numbers=self.evolution.locations.gene_length)
        self.ranked = Table("source", numbers=self.evolution.locations.gene_length)
        self._open_project()

    @property
    def candidates(self) -> int:
        return self.evolution.survivors

    def build_supernet(self, **kwargs: Any) -> LocationSupernet:
        return LocationSupernet(self.genotype, **kwargs)

    def propose(self, cycle: int) -> np.ndarray:
        return self.evolution.ask(self.population)

    def select(self, genotype: Genotype) -> np.ndarray:
        return self.evolution.locations.from_addons(genotype.addons)

    def encode(self, genotype: Genotype) -> np.ndarray:
        return self.select(genotype)

    def decode(self, genes: np.ndarray) -> Genotype:
        return self._grown(genes)

    def learn(self, cycle: int, fitness: np.ndarray) -> dict[str, float]:
        distinct = len(np.unique(self.population.genes, axis=0))
        self.population = self.evolution.tell(self.population, fitness, self.rng(Stream.RENEWAL, cycle))
        return {
            "addons": float((self._survivors() >= 0).sum(axis=1).mean()),
            "distinct": distinct / self.config.population,
        }

    def _survivors(self) -> np.ndarray:
        """The better half of the last cycle, int32 [K // 2, G], best first."""
        return self.population.genes[: self.evolution.survivors]

    def search_space_summary(self) -> None:
        locations = self.evolution.locations
        print(f"Search space: {self.space.num_layers} layers in {self.space.num_segments} segments")
        print("  each layer, 3x3 and 5x5: an add-on from its segment's input or an earlier layer of it, or none")
        print(f"  locations: {locations.size():.3g} with an add-on everywhere, {locations.size_with_none():.3g} in all")

    def conclude(self) -> Conclusion:
        """Compares the survivors of the last cycle and the random control."""
        codes = distinct_rows(self._survivors())
        candidates = [(self._grown(code), EVOLUTION) for code in codes]
        if self.config.random_control:
            candidates += [(self._grown(code), RANDOM) for code in self._random_codes(len(codes))]
        trials = self.compare(candidates)
        found = [trial for trial in trials if trial.source == EVOLUTION]
        control = [trial for trial in trials if trial.source == RANDOM]
        best = found[0]
        best_of_control, mean_of_control = (control[0].score, mean_score(control)) if control else (None, None)
        comparisons = (
            Comparison("val_accuracy", best.score, RANDOM_SEARCH, best_of_control),
            Comparison("val_accuracy", best.score, NO_ADDONS, self.base_accuracy),
            Comparison("mean_val_accuracy", mean_score(found), RANDOM_SEARCH, mean_of_control),
        )
        figures = {
            "addons": len(best.genotype.addons),
            "evaluations": self.evaluations,
            "codes_ranked": len(found),
            "random_codes_ranked": len(control),
            "search_space_size": float(self.evolution.locations.size()),
            "eval_split": self.config.eval_split,
        }
        return Conclusion(trials, comparisons, figures)

    def _random_codes(self, count: int) -> np.ndarray:
        """`count` distinct codes int32 [count, G], drawn as those of the first population; fewer in tiny spaces."""
        rng = self.rng(Stream.RANDOM_LOCATIONS)
        return draw_distinct(lambda wanted: self.evolution.generate(wanted, rng), count)

    def _grown(self, code: np.ndarray) -> Genotype:
        """The network with the add-ons of a code int32 [G]."""
        return dataclasses.replace(self.genotype, addons=self.evolution.locations.to_addons(code))

    def state_arrays(self) -> dict[str, np.ndarray]:
        return {**super().state_arrays(), "population": self.population.genes}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        population = Population(arrays["population"])
        super().restore(arrays, values)
        self.population = population

    def read_trials(self, arrays: Mapping[str, np.ndarray], values: Sequence[Mapping[str, Any]]) -> list[Trial]:
        return [Trial.from_json(value, self.genotype.masks) for value in values]
