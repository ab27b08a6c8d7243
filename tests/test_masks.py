"""Masks check themselves, count, and survive a file."""

import numpy as np
import pytest

from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.masks import Masks

HALF = np.array([[True, False], [False, True]])


def test_counts_by_hand():
    masks = Masks({"a": HALF, "b": np.ones((2, 3), bool)})
    assert (masks.kept, masks.total) == (8, 10)
    assert masks.sparsity == pytest.approx(0.2)


@pytest.mark.parametrize(
    "mask", [np.ones((2, 2)), np.ones(4, bool), np.ones((3, 3, 2, 2), bool), np.ones((0, 2), bool)]
)
def test_wrong_types_and_shapes_are_refused(mask):
    with pytest.raises(ValueError, match=r"'conv' must be bool \[Cin, Cout\]"):
        Masks({"conv": mask})


def test_masks_cannot_be_changed_from_outside():
    source = HALF.copy()
    masks = Masks({"a": source})
    source[0, 1] = True
    assert masks.kept == 2
    with pytest.raises(ValueError, match="read-only"):
        masks["a"][0, 1] = True


def test_equality_and_hash_go_by_value():
    assert Masks({"a": HALF, "b": ~HALF}) == Masks({"b": ~HALF, "a": HALF})
    assert hash(Masks({"a": HALF})) == hash(Masks({"a": HALF.copy()}))
    assert Masks({"a": HALF}) != Masks({"a": ~HALF})
    assert Masks({"a": HALF}) != Masks({"b": HALF})


def test_merging_adds_layers_and_refuses_to_replace_one():
    assert set(Masks({"a": HALF}).merge(Masks({"b": HALF}))) == {"a", "b"}
    with pytest.raises(ValueError, match="both masks name a"):
        Masks({"a": HALF}).merge(Masks({"a": HALF}))


def test_file_round_trip(tmp_path):
    masks = Masks({"layer0_op": HALF, "layer1_op": np.zeros((3, 1), bool)})
    masks.save(tmp_path / "masks.npz")
    assert Masks.load(tmp_path / "masks.npz") == masks


def test_a_file_of_something_else_is_named(tmp_path):
    np.savez(tmp_path / "masks.npz", weights=np.ones((3, 3)))
    with pytest.raises(DamagedFileError, match=r"masks\.npz does not hold masks"):
        Masks.load(tmp_path / "masks.npz")
