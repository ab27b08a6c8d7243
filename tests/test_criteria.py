"""Scores of kernels and the masks that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nhn_tf.pruning import criteria


def _kernels(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_scores_of_a_worked_kernel():
    kernel = np.zeros((2, 2, 1, 2), np.float32)
    kernel[:, :, 0, 0] = 3.0  # flat
    kernel[:, :, 0, 1] = [[2, -2], [0, 0]]
    scores = {name: criteria.score({"a": kernel}, name)["a"] for name in ("std", "l1", "l2")}
    np.testing.assert_array_equal(scores["std"], [[0, np.float32(2**0.5)]])  # mean 0, variance 8 / 4
    np.testing.assert_array_equal(scores["l1"], [[3, 1]])
    np.testing.assert_array_equal(scores["l2"], [[3, np.float32(2**0.5)]])


@pytest.mark.parametrize("criterion", criteria.CRITERIA)
def test_every_criterion_gives_one_float32_score_for_each_connection(criterion):
    scores = criteria.score(_kernels(a=(3, 3, 4, 6), b=(5, 5, 2, 3)), criterion)
    assert {name: (s.shape, s.dtype.name) for name, s in scores.items()} == {
        "a": ((4, 6), "float32"),
        "b": ((2, 3), "float32"),
    }


def test_kernels_of_different_sizes_compare():
    kernels = {"three": np.full((3, 3, 1, 1), 0.5), "five": np.full((5, 5, 1, 1), 0.5)}
    for criterion in ("l1", "l2"):
        scores = criteria.score(kernels, criterion)
        assert scores["three"] == scores["five"] == 0.5


def test_random_scores_depend_on_seed_and_name_only():
    kernels = _kernels(a=(3, 3, 4, 6), b=(3, 3, 4, 6))
    first = criteria.score(kernels, "random", seed=1)
    again = criteria.score({"b": kernels["a"] * 2}, "random", seed=1)
    other = criteria.score(kernels, "random", seed=2)
    np.testing.assert_array_equal(first["b"], again["b"])
    assert (first["a"] != first["b"]).all()
    assert (first["a"] != other["a"]).any()


def test_threshold_keeps_what_is_not_below_it():
    scores = {"a": np.array([[0.1, 0.2], [0.3, 0.0]]), "b": np.array([[0.5, 0.1]])}
    chosen = criteria.select(scores, threshold=0.2)
    np.testing.assert_array_equal(chosen.masks["a"], [[False, True], [True, False]])
    np.testing.assert_array_equal(chosen.masks["b"], [[True, False]])
    assert chosen.thresholds == {"a": 0.2, "b": 0.2}
    assert (chosen.rescued, chosen.disconnected) == ((), ())


def test_a_layer_keeps_its_strongest_kernel_unless_it_may_be_disconnected():
    scores = {"a": np.array([[0.1, 0.3], [0.2, 0.0]]), "b": np.array([[1.0]])}
    kept = criteria.select(scores, threshold=0.5)
    np.testing.assert_array_equal(kept.masks["a"], [[False, True], [False, False]])
    assert (kept.rescued, kept.disconnected) == (("a",), ())
    cut = criteria.select(scores, threshold=0.5, allow_disconnected=True)
    assert not cut.masks["a"].any()
    assert (cut.rescued, cut.disconnected) == ((), ("a",))


def test_under_a_global_sparsity_another_kernel_goes_in_place_of_a_rescued_one():
    # Lowest 3 of 6 are all of "a" and 4; the strongest of "a" (3) stays, so 5 goes too.
    scores = {"a": np.array([[1.0, 3.0]]), "b": np.array([[4.0, 5.0, 6.0, 7.0]])}
    chosen = criteria.select(scores, sparsity=0.5)
    np.testing.assert_array_equal(chosen.masks["a"], [[False, True]])
    np.testing.assert_array_equal(chosen.masks["b"], [[False, False, True, True]])
    assert chosen.rescued == ("a",)
    assert chosen.thresholds["b"] == 5.0


def test_ties_go_in_order_so_that_the_count_is_exact():
    scores = {"a": np.zeros((2, 3)), "b": np.zeros((2, 2))}
    chosen = criteria.select(scores, sparsity=0.4)
    np.testing.assert_array_equal(chosen.masks["a"], [[True, False, False], [False, False, True]])
    assert chosen.masks["b"].all()


targets = st.floats(0.0, 0.99)
layer_shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@settings(deadline=None)
@given(layer_shapes, targets, st.booleans(), st.integers(0, 99))
def test_counts_are_within_one_kernel_of_the_target(shapes, sparsity, coarse, seed):
    rng = np.random.default_rng(seed)
    scores = {str(i): rng.integers(0, 3 if coarse else 10**6, shape) for i, shape in enumerate(shapes)}
    for allow in (False, True):
        by_layer = criteria.select(scores, sparsity=sparsity, scope="layer", allow_disconnected=allow)
        for mask in by_layer.masks.values():
            assert abs((~mask).sum() - sparsity * mask.size) <= 1
        over_all = criteria.select(scores, sparsity=sparsity, allow_disconnected=allow).masks
        room = over_all.total if allow else over_all.total - len(over_all)
        gone = over_all.total - over_all.kept
        assert abs(gone - min(sparsity * over_all.total, room)) <= 1
        assert allow or all(mask.any() for mask in over_all.values())


@settings(deadline=None)
@given(layer_shapes, targets, targets, st.sampled_from(criteria.SCOPES), st.booleans(), st.integers(0, 99))
def test_a_higher_target_keeps_no_kernel_that_a_lower_one_drops(shapes, one, two, scope, allow, seed):
    rng = np.random.default_rng(seed)
    scores = {str(i): rng.integers(0, 5, shape) for i, shape in enumerate(shapes)}
    for key, unit in (("sparsity", 1.0), ("threshold", 5.0)):
        low, high = (
            criteria.select(scores, scope=scope, allow_disconnected=allow, **{key: unit * target}).masks
            for target in sorted((one, two))
        )
        assert all((high[name] <= low[name]).all() for name in scores)


@settings(deadline=None)
@given(layer_shapes, targets, targets, st.sampled_from(criteria.SCOPES), st.booleans(), st.integers(0, 99))
def test_pruning_twice_never_revives_a_kernel(shapes, one, two, scope, allow, seed):
    rng = np.random.default_rng(seed)
    scores = [{str(i): rng.integers(0, 5, shape) for i, shape in enumerate(shapes)} for _ in range(2)]
    first = criteria.select(scores[0], sparsity=one, scope=scope, allow_disconnected=allow).masks
    second = criteria.select(scores[1], sparsity=two, scope=scope, allow_disconnected=allow, current=first).masks
    assert all((second[name] <= first[name]).all() for name in first)
    third = criteria.select(scores[1], sparsity=two, scope=scope, allow_disconnected=allow, current=second).masks
    assert third == second


def test_a_dead_layer_stays_dead():
    dead = {"a": np.zeros((2, 2), bool)}
    chosen = criteria.select({"a": np.ones((2, 2))}, threshold=0.5, current=dead)
    assert not chosen.masks["a"].any()
    assert chosen.disconnected == ("a",)


def test_hidden_kernels_that_may_return_compete_but_lose_ties():
    scores = {"a": np.array([[1.0, 2.0, 1.0, 3.0]])}
    hidden = {"a": np.array([[True, True, False, False]])}
    chosen = criteria.select(scores, sparsity=0.5, current=hidden, may_return=True)
    np.testing.assert_array_equal(chosen.masks["a"], [[False, True, False, True]])
    chosen = criteria.select(scores, sparsity=0.25, current=hidden, may_return=True)
    np.testing.assert_array_equal(chosen.masks["a"], [[True, True, False, True]])


@pytest.mark.parametrize("scope", criteria.SCOPES)
def test_random_masks_keep_as_many_kernels_but_others(scope):
    rng = np.random.default_rng(0)
    masks = {"b": rng.random((8, 9)) < 0.2, "a": rng.random((5, 6)) < 0.6, "none": np.zeros((2, 2), bool)}
    control = criteria.random_masks(masks, scope=scope, seed=1)
    assert {name: mask.shape for name, mask in control.items()} == {name: mask.shape for name, mask in masks.items()}
    assert control.kept == sum(mask.sum() for mask in masks.values())
    counts_agree = all(control[name].sum() == mask.sum() for name, mask in masks.items())
    assert counts_agree == (scope == "layer")
    assert (control["b"] != masks["b"]).any()
    assert control == criteria.random_masks(dict(reversed(masks.items())), scope=scope, seed=1)
    assert control != criteria.random_masks(masks, scope=scope, seed=2)


@pytest.mark.parametrize("scope", criteria.SCOPES)
@pytest.mark.parametrize("kept", [False, True])
def test_random_masks_of_an_all_or_nothing_pruning_are_the_same(kept, scope):
    masks = {"a": np.full((3, 4), kept), "b": np.full((2, 2), kept)}
    control = criteria.random_masks(masks, scope=scope)
    assert control.kept == 16 * kept
    assert len(criteria.random_masks({}, scope=scope)) == 0
    with pytest.raises(ValueError, match="global, layer"):
        criteria.random_masks(masks, scope="model")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"threshold": 0.1, "sparsity": 0.5}, "exactly one of"),
        ({"sparsity": 1.0}, r"in \[0, 1\). Received: 1.0"),
        ({"sparsity": -0.1}, r"in \[0, 1\)"),
        ({"sparsity": math.nan}, r"in \[0, 1\)"),
        ({"threshold": -1.0}, "at least 0"),
        ({"threshold": math.nan}, "finite"),
        ({"sparsity": 0.5, "scope": "channel"}, "global, layer"),
        ({"sparsity": 0.5, "current": {"a": np.ones((1, 1), bool)}}, "'a' must have the shape"),
    ],
)
def test_wrong_targets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        criteria.select({"a": np.ones((2, 2))}, **arguments)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_cannot_be_ranked_are_refused_by_layer(bad):
    kernels = _kernels(good=(3, 3, 2, 2), broken=(3, 3, 2, 2))
    kernels["broken"][0, 0, 1, 1] = bad
    with pytest.raises(ValueError, match="'broken' holds NaN or infinite"):
        criteria.score(kernels)


def test_unknown_criteria_and_flat_arrays_are_refused():
    with pytest.raises(ValueError, match="std, l1, l2, random. Received: 'magnitude'"):
        criteria.score(_kernels(a=(3, 3, 2, 2)), "magnitude")
    with pytest.raises(ValueError, match=r"'a' must be \[kh, kw, Cin, Cout\]"):
        criteria.score(_kernels(a=(3, 2)))
