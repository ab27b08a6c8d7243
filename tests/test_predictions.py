"""What a network answered: counts worked by hand, intervals against published ones, the file against damage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.intervals import noise, sign_test, wilson
from nhn_tf.values.predictions import NAME, Predictions

# Five images of cats (0), dogs (1) and eels (2): the second and the last are taken for others.
LABELS = np.array([0, 0, 1, 2, 1], np.int32)
LOGITS = np.array([[3, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1], [0, 0, 5]], np.float32)


def answers(**changes):
    parts = {
        "labels": LABELS, "logits": LOGITS, "class_names": ("cat", "dog", "eel"),
        "train_counts": (30, 20, 10), "val_counts": (3, 2, 1),
    }  # fmt: skip
    return Predictions(**parts | changes)


def test_answers_are_counted_by_class():
    found = answers()
    assert found.accuracy == 3 / 5
    assert found.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found.mistakes.tolist() == [4, 1]  # a logit of 5 above the others, then one of 1
    assert found.confidence[4] == pytest.approx(math.exp(5) / (math.exp(5) + 2))


def test_thumbnails_are_of_the_most_confident_mistakes():
    images = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4, 1)
    whole = answers().with_thumbnails(images)
    assert whole.shown.tolist() == [4, 1]
    np.testing.assert_array_equal(whole.thumbnails, images[[4, 1]])
    assert answers().with_thumbnails(images, most=1).shown.tolist() == [4]


def test_a_large_image_is_averaged_over_squares():
    image = np.array([[10, 20, 1, 1], [30, 40, 1, 1], [0, 0, 8, 8], [0, 2, 8, 8]], np.uint8)
    small = answers().with_thumbnails(np.stack([image] * 5)[..., None], side=2)
    assert small.thumbnails[0, ..., 0].tolist() == [[25, 1], [0, 8]]  # 100/4, 4/4; 2/4 is rounded to even


def test_a_network_without_mistakes_has_no_thumbnails():
    right = answers(logits=np.eye(3, dtype=np.float32)[LABELS]).with_thumbnails(np.zeros((5, 8, 8, 3), np.uint8))
    assert len(right.shown) == len(right.thumbnails) == 0


def test_logits_that_are_not_finite_have_no_confidence():
    logits = LOGITS.copy()
    logits[1] = math.nan
    logits[4] = math.inf
    assert answers(logits=logits).confidence[[1, 4]].tolist() == [0, 0]
    assert sorted(answers(logits=logits).mistakes.tolist()) == [4]  # NaN's largest is its first, which is right


def test_what_was_saved_is_read_again(tmp_path):
    written = answers().with_thumbnails(np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3))
    written.save(tmp_path)
    read = Predictions.load(tmp_path)
    assert (read.class_names, read.train_counts, read.val_counts) == (("cat", "dog", "eel"), (30, 20, 10), (3, 2, 1))
    for name in ("labels", "logits", "shown", "thumbnails"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


def test_a_run_without_answers_has_none(tmp_path):
    assert Predictions.load(tmp_path) is None


def test_a_damaged_file_is_named(tmp_path):
    answers().save(tmp_path)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError, match=NAME):
        Predictions.load(tmp_path)
    (tmp_path / NAME).write_bytes(whole.replace(LOGITS.tobytes(), LOGITS[::-1].tobytes()))
    with pytest.raises(DamagedFileError, match=NAME):
        Predictions.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS.astype(np.int64)}, r"`labels` must be int32 of shape \[5\]"),
        ({"logits": LOGITS[:, :2]}, r"`logits` must be float32 of shape \[5, 3\]"),
        ({"labels": LABELS + 1}, r"`labels` must lie in \[0, 3\)"),
        ({"train_counts": (1, 2)}, "an entry for each of 3 classes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        answers(**changes)


# Intervals.


@pytest.mark.parametrize(
    ("hits", "total", "interval"),
    [
        # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table 1, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_intervals_are_the_published_ones(hits, total, interval):
    assert wilson(hits, total) == pytest.approx(interval, abs=5e-5)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_an_interval_holds_its_share_and_stays_within_0_and_1(total, share):
    hits = round(share * total)
    low, high = wilson(hits, total)
    assert 0 <= low <= hits / total <= high <= 1
    mirrored = wilson(total - hits, total)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_nothing_counted_has_no_interval():
    with pytest.raises(ValueError, match="Received: 0, 0"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="Received: 3, 2"):
        wilson(3, 2)


def test_the_noise_of_a_difference_is_newcombes():
    # Newcombe (1998), "Interval estimation for the difference", table II, method 10: 10/10 - 0/10 has (0.6075, 1).
    assert noise(1.0, 0.0, 10) == pytest.approx(1 - 0.6075, abs=5e-5)
    assert noise(0.3, 0.5, 50) == noise(0.5, 0.3, 50)
    assert noise(0.9, 0.9, 400) < noise(0.9, 0.9, 100) < noise(0.5, 0.5, 100)


@pytest.mark.parametrize(("wins", "losses", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (3, 1, 10 / 16), (4, 4, 1.0)])
def test_the_sign_test_is_exact(wins, losses, p):
    # (3, 1): of 16 outcomes of 4 coins, 1 + 4 have at most one head; twice that.
    assert sign_test(wins, losses) == p == sign_test(losses, wins)
