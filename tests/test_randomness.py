"""Streams of one seed never meet."""

import itertools

import numpy as np
import pytest

from nhn_tf.values.randomness import Stream, generator

pytestmark = pytest.mark.jax


def first(seed, stream, *counters):
    return int(generator(seed, stream, *counters).integers(2**62))


def test_numpy_ignores_zeros_at_the_end_of_short_keys_which_is_why_keys_here_end_in_one():
    assert np.random.default_rng((5, 1)).random() == np.random.default_rng((5, 1, 0, 0)).random()


def test_no_two_streams_and_counters_share_their_first_draws():
    counters = list(itertools.product((0, 1, 2, 2**32 - 1), repeat=3))
    keys = list(itertools.product((0, 1, 2**32, 2**32 + 1), Stream, counters))
    draws = {first(seed, stream, *numbers) for seed, stream, numbers in keys}
    assert len(draws) == len(keys) > 4000


def test_zeros_matter_at_every_place():
    # Shifting a word along the key, as one between an epoch and a batch, gives another stream.
    draws = {first(3, Stream.ORDER, *numbers) for numbers in ((), (3,), (0, 3), (0, 0, 3), (3, 3), (3, 3, 3))}
    assert len(draws) == 6
    assert first(0, Stream.ORDER) != first(0, Stream.AUGMENTATION) != first(0, Stream.CHILD)


def test_counters_left_out_are_zero():
    assert first(7, Stream.CHILD) == first(7, Stream.CHILD, 0) == first(7, Stream.CHILD, 0, 0, 0)
    assert first(7, Stream.CHILD, 1) == first(7, Stream.CHILD, np.int64(1), 0)


def test_purposes_are_numbered_from_one():
    assert min(Stream) > 0
    assert len({int(stream) for stream in Stream}) == len(Stream)


@pytest.mark.parametrize(("seed", "counters"), [(-1, ()), (2**64, ()), (0, (-1,)), (0, (2**32,)), (0, (0, 0, 0, 0))])
def test_what_does_not_fit_into_a_key_is_refused(seed, counters):
    with pytest.raises(ValueError, match="must"):
        generator(seed, Stream.ORDER, *counters)
