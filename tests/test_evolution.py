"""The genetic search over add-on locations: codes, operators, and one cycle followed by hand."""

import dataclasses

import numpy as np
import pytest

from nhn_tf.search.evolution import (
    CROSSOVER_PAIRS,
    Evolution,
    Population,
    crossover,
    generate,
    generate_direction,
    kept_connections,
    mutate,
    ranking,
    strongest_direction,
)
from nhn_tf.settings import LocationConfig
from nhn_tf.values.genotype import Addon
from nhn_tf.values.locations import LocationSpace
from nhn_tf.values.space import Space

pytestmark = pytest.mark.jax

PAPER = LocationSpace(Space())
SMALL = LocationSpace(Space(4, 2))  # sources of the four layers: 1, 2, 1, 2


def evolve(locations, **settings):
    return Evolution(locations, LocationConfig(**settings))


class Draws:
    """A generator whose uniform numbers are given; arrays come out in order."""

    def __init__(self, *arrays):
        self._arrays = list(arrays)

    def random(self, shape):
        drawn = np.asarray(self._arrays.pop(0), float)
        assert drawn.shape == shape
        return drawn


def test_the_papers_code_has_24_genes_and_1_9e8_values():
    assert PAPER.gene_length == 24
    assert PAPER.num_sources.tolist() == [1, 2, 3, 4] * 6
    assert PAPER.size() == 24**3 * 24**3 == 191_102_976
    assert PAPER.size_with_none() == 120**6


@pytest.mark.parametrize(
    ("space", "length", "size"),
    # Sources by place in the segment, both kernel sizes: (1 2)^2 twice; (1 2 3)^2; (1)^2 three times.
    [(Space(4, 2), 8, 2**4), (Space(3, 1), 6, 6**2), (Space(3, 3), 6, 1)],
)
def test_codes_of_other_segments_and_layers(space, length, size):
    locations = LocationSpace(space)
    assert locations.gene_length == length
    assert locations.size() == size


def test_a_code_read_by_hand():
    # 3x3: layer 1 reads its segment's input, layer 3 reads layer 2; 5x5: layer 2 reads its segment's input.
    genes = np.array([-1, 0, -1, 1, -1, -1, 0, -1])
    addons = (Addon(1, 3, 0), Addon(2, 5, 0), Addon(3, 3, 1))
    assert SMALL.to_addons(genes) == addons
    assert SMALL.from_addons(addons).tolist() == genes.tolist()


def test_codes_and_addons_are_the_same_thing():
    for genes in generate(PAPER, 50, np.random.default_rng(0), none_probability=0.8):
        np.testing.assert_array_equal(PAPER.from_addons(PAPER.to_addons(genes)), genes)


@pytest.mark.parametrize("genes", [[0] * 7, [1, *[-1] * 7], [-2, *[-1] * 7], [0.0] * 8])
def test_codes_of_another_space_are_refused(genes):
    with pytest.raises(ValueError, match="location gene"):
        SMALL.check_genes(np.array(genes))


def test_generated_codes_are_legal_sparse_and_never_empty():
    codes = generate(PAPER, 5000, np.random.default_rng(0), none_probability=0.8)
    for code in codes[:100]:
        PAPER.check_genes(code)
    assert (codes >= 0).any(axis=1).all()
    assert (codes >= 0).mean() == pytest.approx(0.2, abs=0.005)
    # The last layer of a segment reads each of its four sources equally often.
    last = codes[:, 3]
    np.testing.assert_allclose(np.bincount(last[last >= 0]) / (last >= 0).sum(), 0.25, atol=0.05)


def test_without_any_add_on_wanted_there_is_still_one():
    codes = generate(SMALL, 20, np.random.default_rng(0), none_probability=1.0)
    assert ((codes >= 0).sum(axis=1) == 1).all()


def test_crossover_takes_each_gene_from_either_parent():
    first, second = np.array([0, 1, -1, -1]), np.array([-1, 0, 2, -1])
    # Below 1/2: from the first.
    child = crossover(first, second, Draws([0.4, 0.5, 0.9, 0.1]))
    assert child.tolist() == [0, 0, 2, -1]
    # A child without add-ons gives way to the better parent.
    assert crossover(np.array([0, -1]), np.array([-1, 0]), Draws([0.9, 0.1])).tolist() == [0, -1]


def test_mutation_replaces_the_genes_drawn_below_the_rate():
    parents, drawn = np.array([[0, 1, -1], [0, -1, -1]]), np.array([[-1, -1, 2], [-1, -1, -1]])
    rng = Draws([[0.05, 0.5, 0.05], [0.05, 0.5, 0.5]])
    # The second would lose its last add-on and stays as it was.
    assert mutate(parents, drawn, rng, rate=0.1).tolist() == [[-1, 1, 2], [0, -1, -1]]


def test_nan_ranks_last_and_equals_keep_their_order():
    assert ranking([0.5, np.nan, 0.9, 0.5, -np.inf, np.nan]).tolist() == [2, 0, 3, 4, 1, 5]
    assert ranking([np.nan, np.nan]).tolist() == [0, 1]


def test_one_cycle_of_the_papers_population_by_hand():
    evolution = evolve(PAPER)
    first = evolution.start(np.random.default_rng(0))
    # Individual i has fitness (7 i mod 20) / 20: the best is 17 (19/20), then 14, 11, 8, 5, 2, 19, 16, 13, 10.
    fitness = np.array([7 * i % 20 / 20 for i in range(20)])
    second = evolution.tell(first, fitness, np.random.default_rng(1))
    best = [17, 14, 11, 8, 5, 2, 19, 16, 13, 10]
    np.testing.assert_array_equal(second.genes[:10], first.genes[best])
    # Places 11-15: uniform crossover of ranks (1,2) (1,3) (1,4) (2,3) (2,4), drawn in this order.
    rng = np.random.default_rng(1)
    for place, (one, other) in enumerate([(1, 2), (1, 3), (1, 4), (2, 3), (2, 4)]):
        a, b = first.genes[best[one - 1]], first.genes[best[other - 1]]
        np.testing.assert_array_equal(second.genes[10 + place], np.where(rng.random(24) < 0.5, a, b))
    # Places 16-20: drawn anew.
    np.testing.assert_array_equal(second.genes[15:], generate(PAPER, 5, rng, none_probability=0.8))


def test_individuals_that_could_not_be_measured_do_not_survive():
    evolution = evolve(SMALL, population=4)
    population = evolution.start(np.random.default_rng(0))
    following = evolution.tell(population, [np.nan, 0.1, np.nan, 0.2], np.random.default_rng(0))
    np.testing.assert_array_equal(following.genes[:2], population.genes[[3, 1]])
    evolution.tell(population, [np.nan] * 4, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("size", "survivors", "crossovers"),
    [(2, 1, 0), (3, 1, 0), (4, 2, 1), (7, 3, 1), (10, 5, 2), (20, 10, 5), (41, 20, 10)],
)
def test_other_population_sizes_keep_the_proportions(size, survivors, crossovers):
    evolution = evolve(SMALL, population=size)
    assert (evolution.survivors, evolution.crossovers) == (survivors, crossovers)
    population = evolution.start(np.random.default_rng(0))
    following = evolution.tell(population, np.arange(size)[::-1], np.random.default_rng(1))
    assert following.genes.shape == population.genes.shape
    np.testing.assert_array_equal(following.genes[:survivors], population.genes[:survivors])
    # The pairs come round again after the fifth, and never name a rank that did not survive.
    ranks = [rank for i in range(crossovers) for rank in CROSSOVER_PAIRS[i % 5]]
    assert max(ranks, default=0) <= survivors


def test_per_gene_mutation_starts_from_the_best():
    evolution = evolve(PAPER, mutation="per_gene", mutation_rate=0.1)
    population = evolution.start(np.random.default_rng(0))
    following = evolution.tell(population, -np.arange(20), np.random.default_rng(1))
    kept = (following.genes[15:] == population.genes[:5]).mean(axis=1)
    assert (kept > 0.6).all()
    none = evolve(PAPER, mutation="per_gene", mutation_rate=0.0)
    np.testing.assert_array_equal(
        none.tell(population, -np.arange(20), np.random.default_rng(1)).genes[15:], population.genes[:5]
    )


def test_a_population_cannot_be_changed_and_telling_changes_nothing():
    evolution = evolve(SMALL, population=4)
    population = evolution.start(np.random.default_rng(0))
    before = population.genes.copy()
    evolution.tell(population, np.arange(4), np.random.default_rng(0))
    np.testing.assert_array_equal(population.genes, before)
    with pytest.raises(ValueError, match="read-only"):
        evolution.ask(population)[0, 0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        population.genes = before


def test_same_generator_same_population():
    evolution = evolve(PAPER, mutation="per_gene")
    histories = []
    for _ in range(2):
        population = evolution.start(np.random.default_rng(3))
        for cycle in range(3):
            population = evolution.tell(population, np.sin(np.arange(20)), np.random.default_rng((3, cycle)))
        histories.append(population.genes)
    np.testing.assert_array_equal(*histories)


def test_evolution_finds_a_known_best_code():
    # Fitness: how many genes agree with a target. Half of the genes of 200 random codes agree at best.
    target = generate(SMALL, 1, np.random.default_rng(9), none_probability=0.5)[0]
    evolution = evolve(SMALL, population=20, none_probability=0.5)
    population = evolution.start(np.random.default_rng(0))
    for cycle in range(60):
        fitness = (evolution.ask(population) == target).sum(axis=1)
        population = evolution.tell(population, fitness, np.random.default_rng((1, cycle)))
    np.testing.assert_array_equal(population.genes[0], target)


def test_wrong_numbers_of_fitness_or_individuals_are_refused():
    evolution = evolve(SMALL, population=4)
    with pytest.raises(ValueError, match="must be 4 numbers"):
        evolution.tell(Population(np.zeros((4, 8))), np.zeros(3), np.random.default_rng(0))
    with pytest.raises(ValueError, match="`population` must be between 2"):
        evolve(SMALL, population=1)
    with pytest.raises(ValueError, match="among regenerate, per_gene"):
        evolve(SMALL, mutation="none")


@pytest.mark.parametrize(("density", "kept"), [(0.1, 2), (0.5, 12), (1.0, 24), (1e-4, 1), (0.15, 4)])
def test_directions_keep_exactly_their_density(density, kept):
    assert kept_connections((4, 6), density) == kept
    for seed in range(5):
        mask = generate_direction((4, 6), np.random.default_rng(seed), density=density)
        assert mask.dtype == bool
        assert mask.shape == (4, 6)
        assert mask.sum() == kept


def test_every_connection_is_equally_likely():
    masks = [generate_direction((3, 4), np.random.default_rng(seed), density=0.25) for seed in range(2000)]
    np.testing.assert_allclose(np.mean(masks, axis=0), 0.25, atol=0.04)


def test_the_strongest_direction_keeps_the_highest_sensitivities():
    sensitivity = np.array([[0.1, 0.9, np.nan], [0.5, 0.5, 0.2]])
    # 2 of 6: 0.9, then the first of the two 0.5.
    assert strongest_direction(sensitivity, density=1 / 3).tolist() == [[False, True, False], [True, False, False]]
