"""The search space: its sizes by hand, and the shape of an architecture's genes."""

import numpy as np
import pytest

from nhn_tf.values.space import OP_NAMES, Space


@pytest.mark.parametrize(
    ("layers", "segments", "transitions", "num_skips", "gene_length"),
    [
        (12, 3, (3, 7), 66, 78),  # the paper's: 0 + 1 + ... + 11 skip bits
        (24, 3, (7, 15), 276, 300),  # ENAS's published 24-layer network
        (6, 2, (2,), 15, 21),
        (3, 1, (), 3, 6),
    ],
)
def test_sizes_by_hand(layers, segments, transitions, num_skips, gene_length):
    space = Space(layers, segments)
    assert space.transitions == transitions
    assert space.num_skips == num_skips
    assert space.gene_length == gene_length


def test_skip_slices_tile_the_genes_behind_the_ops():
    space = Space(6, 3)
    places = [i for layer in range(6) for i in range(*space.skip_slice(layer).indices(space.gene_length))]
    assert places == list(range(6, space.gene_length))


def test_size_counts_what_enumerate_lists():
    space = Space(3, 1, ("conv3x3", "max_pool3x3"))
    every = space.enumerate()
    assert len(every) == space.size() == 2**3 * 2**3
    assert len(np.unique(every, axis=0)) == len(every)


def test_samples_are_in_the_space_and_follow_the_generator():
    space = Space(6, 3, OP_NAMES[:3])
    first = space.sample(np.random.default_rng(5), 50)
    assert [space.check_genes(row).tolist() for row in first] == first.tolist()
    assert set(first[:, :6].ravel()) == {0, 1, 2}
    np.testing.assert_array_equal(first, space.sample(np.random.default_rng(5), 50))
    assert not np.array_equal(first, space.sample(np.random.default_rng(6), 50))


def test_skip_probability_is_what_it_says():
    space = Space(12, 3)
    assert space.sample(np.random.default_rng(0), 20, skip_probability=0.0)[:, 12:].sum() == 0
    rate = space.sample(np.random.default_rng(0), 500, skip_probability=0.4)[:, 12:].mean()
    assert rate == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 10}, "multiple of num_segments=3. Received: 10"),
        ({"num_layers": 0}, "between 1 and 64"),
        ({"num_segments": 0}, "at least 1"),
        ({"ops": ()}, "at least one op"),
        ({"ops": ("conv3x3", "conv3x3")}, "not repeat"),
        ({"ops": ("conv7x7",)}, "'conv7x7'"),
    ],
)
def test_impossible_spaces_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Space(**arguments)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (np.zeros(5, np.int32), "must be 6 integers"),
        (np.zeros(6), "float64"),
        (np.array([0, 6, 0, 0, 0, 0]), r"0\.\.5"),
        (np.array([0, -1, 0, 0, 0, 0]), r"0\.\.5"),
        (np.array([0, 0, 0, 0, 2, 0]), "0 or 1"),
    ],
)
def test_wrong_genes_are_refused(genes, message):
    with pytest.raises(ValueError, match=message):
        Space(3, 1).check_genes(genes)


def test_enumerating_a_large_space_is_refused():
    with pytest.raises(ValueError, match="too large"):
        Space().enumerate()
