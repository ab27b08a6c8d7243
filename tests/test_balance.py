"""Classes of different sizes: every class counts the same where that is asked for, and nothing changes elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nhn_tf import training
from nhn_tf.data import Batches, Normalization, Split, balance, load
from nhn_tf.data.datasets import from_arrays, is_balanced
from nhn_tf.runs import Settings
from nhn_tf.runs.settings import changes, config_digest, identity
from nhn_tf.settings import PRESETS, DataConfig
from nhn_tf.stages.feed import Feed

NORMALIZATION = Normalization((0.0,), (1 / 255,))


def split_of(*counts: int) -> Split:
    """`counts[c]` images of class c; image i of all is filled with level i."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Split(np.broadcast_to(images, (len(labels), 4, 4, 1)), labels)


def epoch_of(split: Split, number: int, *, balanced: bool, shuffle: bool = True, batch_size: int = 4):
    """(image numbers, labels) of an epoch."""
    batches = Batches(
        split, batch_size=batch_size, normalization=NORMALIZATION, shuffle=shuffle, seed=3, drop_remainder=False,
        balanced=balanced,
    )  # fmt: skip
    parts = [batches.batch(number, index) for index in range(len(batches))]
    numbers = np.rint(np.concatenate([images[:, 0, 0, 0] for images, _ in parts])).astype(int)
    return numbers.tolist(), np.concatenate([labels for _, labels in parts]).tolist()


@pytest.mark.parametrize(("counts", "expected"), [((6, 2), 3.0), ((150, 6), 25.0), ((5, 5), 1.0), ((4, 0, 2), 2.0)])
def test_imbalance_by_hand(counts, expected):
    assert balance.imbalance(split_of(*counts).labels) == expected


def test_balanced_rows_by_hand():
    rows = balance.balanced_rows(np.array([0, 0, 0, 0, 0, 0, 1, 2, 2]), np.random.default_rng(0))
    assert len(rows) == 9
    assert np.count_nonzero(rows < 6) == len(set(rows[rows < 6])) == 3  # three of six, none twice
    assert rows[3:6].tolist() == [6, 6, 6]
    assert sorted(np.bincount(rows)[7:]) == [1, 2]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), st.integers(0, 5))
def test_balanced_rows_show_classes_equally_and_images_of_a_class_equally(counts, seed):
    labels = split_of(*counts).labels
    rows = balance.balanced_rows(labels, np.random.default_rng(seed))
    shown = np.bincount(labels[rows], minlength=len(counts))[np.array(counts) > 0]
    assert len(rows) == len(labels)
    assert np.ptp(shown) <= 1
    times = np.bincount(rows, minlength=len(labels))
    assert all(np.ptp(times[labels == label]) <= 1 for label in set(labels.tolist()))


def test_an_epoch_of_classes_of_one_size_is_the_same_with_and_without_balancing():
    split = split_of(6, 6, 6)
    for number in range(3):
        assert epoch_of(split, number, balanced=True) == epoch_of(split, number, balanced=False)


def test_balanced_epochs_depend_on_seed_and_epoch_alone():
    split = split_of(20, 4)
    first, again, next_ = (epoch_of(split, number, balanced=True) for number in (0, 0, 1))
    assert first == again != next_
    assert np.bincount(first[1]).tolist() == np.bincount(next_[1]).tolist() == [12, 12]


def test_balanced_batches_that_are_not_shuffled_are_the_same_in_every_epoch():
    split = split_of(20, 4)
    assert epoch_of(split, 0, balanced=True, shuffle=False) == epoch_of(split, 1, balanced=True, shuffle=False)
    assert epoch_of(split, 0, balanced=False, shuffle=False)[0] == list(range(24))


class Constant:
    """A model that answers one class always."""

    def __init__(self, answer: int, classes: int):
        self._logits = np.eye(classes)[answer]

    def predict_on_batch(self, images):
        return np.tile(self._logits, (len(images), 1))


def test_answering_the_large_class_always_is_seen_for_what_it_is():
    batches = Batches(
        split_of(30, 6), batch_size=7, normalization=NORMALIZATION, shuffle=False, seed=0, drop_remainder=False
    )
    hits = training.hits(Constant(0, 3), batches)
    assert (hits.images.tolist(), hits.correct.tolist()) == ([30, 6, 0], [30, 0, 0])
    assert hits.accuracy == hits.majority_accuracy == training.accuracy(Constant(0, 3), batches) == 30 / 36
    assert hits.balanced_accuracy == 0.5  # (1 + 0) / 2: the third class has no images
    even = Batches(
        split_of(30, 6), batch_size=7, normalization=NORMALIZATION, shuffle=False, seed=0, drop_remainder=False,
        balanced=True,
    )  # fmt: skip
    assert training.accuracy(Constant(0, 3), even) == 0.5


@pytest.mark.parametrize(
    ("counts", "class_weights", "expected"),
    [
        ((300, 90), "auto", True),
        ((250, 100), "auto", False),
        ((300, 90), "none", False),
        ((100, 100), "balanced", True),
    ],
)
def test_auto_balances_from_three_to_one(counts, class_weights, expected):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (sum(counts), 8, 8, 1), dtype=np.uint8)
    config = DataConfig(class_weights=class_weights, flip="off", pad=0)
    data = from_arrays(images, np.repeat([0, 1], counts), config, seed=0)
    assert is_balanced(config, data) is expected
    assert ("class_weights" in data.summary()["choices"]) == (expected and class_weights == "auto")
    preset = PRESETS["smoke"]
    feed = Feed(data, Settings(preset.base, config, preset.compute))
    assert feed.train(preset.base).balanced is feed.objective(data.val).balanced is expected
    assert feed.validation.balanced is feed.test.balanced is False


def test_digits_are_not_balanced():
    config = DataConfig(dataset="digits")
    assert not is_balanced(config, load(config, seed=0))


def test_a_run_begun_before_there_was_a_setting_goes_on_at_its_default():
    preset = PRESETS["smoke"]
    now = Settings(preset.base, preset.data, preset.compute).to_json()
    before = {**now, "data": {name: value for name, value in now["data"].items() if name != "class_weights"}}
    assert config_digest(before) == config_digest(now)
    assert changes(identity(before), identity(now)) == []
    other = {**now, "data": {**now["data"], "class_weights": "none"}}
    assert changes(identity(before), identity(other)) == [("class_weights", "class_weights auto -> none")]
    assert config_digest(other) != config_digest(now)
