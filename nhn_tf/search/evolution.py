"""The genetic search over add-on locations, as ask and tell over an immutable state.

Operators are pure: they take codes and a random generator and return new codes. Nothing here knows a network.

Letters: K population, G genes, n codes, Cin Cout channels.
Source: paper, section 2.3 (algorithm 1) and section 3.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from nhn_tf.settings import LocationConfig
from nhn_tf.values.locations import NONE, LocationSpace

# Ranks (from 1) whose codes are crossed, best first (paper, section 2.3).
CROSSOVER_PAIRS: tuple[tuple[int, int], ...] = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4))


@dataclasses.dataclass(frozen=True)
class Population:
    """The state of an evolution.

    Attributes:
      genes: int32 [K, G], read-only. After a `tell`, the first `Evolution.survivors` rows are the survivors, best
        first; then come the crossovers, then the renewed.
    """

    genes: np.ndarray

    def __post_init__(self) -> None:
        genes = np.array(self.genes, np.int32)
        genes.setflags(write=False)
        object.__setattr__(self, "genes", genes)


@dataclasses.dataclass(frozen=True)
class Evolution:
    """How a population is made and renewed.

    Of K individuals the better K // 2 survive, K // 4 are crossovers of the pairs in `CROSSOVER_PAIRS` (taken over and
    over where there are more than five), and the rest is renewed: 10, 5 and 5 of the paper's 20.

    A code without any add-on is the bare network; it has nothing to train and its accuracy is known, so that none is
    ever made (`docs/decisions.md`, "Codes without add-ons").

    Attributes:
      locations: the codes to search.
      config: the search's settings. Its mutation "regenerate" draws renewed individuals from nothing (the paper's
        choice); "per_gene" makes the i-th of them from the i-th best by drawing some of its genes anew.
    """

    locations: LocationSpace
    config: LocationConfig

    @property
    def size(self) -> int:
        """K."""
        return self.config.population

    @property
    def survivors(self) -> int:
        return self.size // 2

    @property
    def crossovers(self) -> int:
        return self.size // 4

    def start(self, rng: np.random.Generator) -> Population:
        """A population of drawn codes."""
        return Population(self.generate(self.size, rng))

    def generate(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws codes int32 [count, G]."""
        return generate(self.locations, count, rng, none_probability=self.config.none_probability)

    def ask(self, population: Population) -> np.ndarray:
        """The codes to measure, int32 [K, G]."""
        return population.genes

    def tell(self, population: Population, fitness: np.ndarray, rng: np.random.Generator) -> Population:
        """The next population.

        Args:
          population: the one that was measured.
          fitness: float [K], larger is better; NaN ranks last.
          rng: draws the crossovers first, then the renewed.

        Raises:
          ValueError: not one fitness for each individual.
        """
        fitness = np.asarray(fitness, np.float64)
        if fitness.shape != (self.size,):
            raise ValueError(f"`fitness` must be {self.size} numbers. Received: shape {fitness.shape}.")
        best = population.genes[ranking(fitness)[: self.survivors]]
        pairs = [CROSSOVER_PAIRS[i % len(CROSSOVER_PAIRS)] for i in range(self.crossovers)]
        crossed = [crossover(best[first - 1], best[second - 1], rng) for first, second in pairs]
        renewed = self._renew(best, self.size - self.survivors - self.crossovers, rng)
        return Population(np.concatenate([best, *(genes[None] for genes in crossed), renewed]))

    def _renew(self, best: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        drawn = self.generate(count, rng)
        if self.config.mutation == "regenerate":
            return drawn
        parents = best[np.arange(count) % len(best)]
        return mutate(parents, drawn, rng, rate=self.config.mutation_rate)


def generate(locations: LocationSpace, count: int, rng: np.random.Generator, *, none_probability: float) -> np.ndarray:
    """Draws codes: each gene is -1 with `none_probability`, else one of its sources uniformly.

    Where all genes come out as -1, one of them, uniformly chosen, gets a source.

    Returns:
      int32 [count, G], each with an add-on at least.
    """
    shape = (count, locations.gene_length)
    sources = rng.integers(locations.num_sources, size=shape, dtype=np.int32)
    chosen = rng.random(shape) >= none_probability
    fallback = rng.integers(locations.gene_length, size=count)
    empty = ~chosen.any(axis=1)
    chosen[empty, fallback[empty]] = True
    return np.where(chosen, sources, np.int32(NONE))


def crossover(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform crossover: each gene from either parent with probability 1/2.

    Args:
      first: int [G], the better parent.
      second: int [G].

    Returns:
      int32 [G]; the better parent where no add-on would be left.
    """
    child = np.where(rng.random(first.shape) < 0.5, first, second)
    return (child if (child != NONE).any() else first).astype(np.int32)


def mutate(parents: np.ndarray, drawn: np.ndarray, rng: np.random.Generator, *, rate: float) -> np.ndarray:
    """Replaces a share of the parents' genes by drawn ones.

    Args:
      parents: int [n, G].
      drawn: int [n, G], where the new values come from.
      rate: probability of each gene to be replaced.

    Returns:
      int32 [n, G]; the parent where no add-on would be left.
    """
    mutants = np.where(rng.random(parents.shape) < rate, drawn, parents)
    alive = (mutants != NONE).any(axis=1, keepdims=True)
    return np.where(alive, mutants, parents).astype(np.int32)


def ranking(fitness: np.ndarray) -> np.ndarray:
    """Indices int [K] from the best fitness to the worst; equals keep their order, NaN comes last."""
    return np.argsort(-np.asarray(fitness, np.float64), kind="stable")  # NumPy sorts NaN behind all numbers


def generate_direction(shape: tuple[int, int], rng: np.random.Generator, *, density: float) -> np.ndarray:
    """Draws which connections of an add-on exist.

    Args:
      shape: (Cin, Cout).
      density: share of the connections to keep.

    Returns:
      bool [Cin, Cout], exactly `kept_connections` of them True.
    """
    order = rng.permutation(shape[0] * shape[1])
    return (order < kept_connections(shape, density)).reshape(shape)


def strongest_direction(sensitivity: np.ndarray, *, density: float) -> np.ndarray:
    """The connections of the highest sensitivity, float [Cin, Cout] -> bool [Cin, Cout]; ties go to the first."""
    flat = np.zeros(sensitivity.size, bool)
    flat[ranking(sensitivity.ravel())[: kept_connections(sensitivity.shape, density)]] = True
    return flat.reshape(sensitivity.shape)


def kept_connections(shape: tuple[int, ...], density: float) -> int:
    """How many of Cin * Cout connections a density keeps: the nearest number, at least one."""
    return max(1, round(density * shape[0] * shape[1]))
