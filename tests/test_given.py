"""Images as `keras.Model.fit` takes them: what is read, and what is refused."""

import keras
import numpy as np
import pytest

from nhn_tf.data import DataError
from nhn_tf.data.given import digest, training_batches, validation_batches
from tests.two_classes import SHAPE, batches

X = np.arange(10 * 16, dtype=np.float32).reshape(10, 4, 4, 1)
Y = np.arange(10) % 2
PARTS = [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)]


class Indexed(keras.utils.PyDataset):
    def __init__(self, parts=PARTS):
        super().__init__()
        self.parts, self.ended = parts, 0

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]

    def on_epoch_end(self):
        self.ended += 1


class Passed:
    """A data set of a length that can only be iterated; it counts its passes."""

    def __init__(self, length=3):
        self.length, self.passes = length, 0

    def __len__(self):
        return self.length

    def __iter__(self):
        self.passes += 1
        shown = self.passes
        return ((images + 1000 * shown, labels) for images, labels in PARTS)


def training(x, y=None, **kwargs):
    return training_batches(x, y, **{**SHAPE, "batch_size": 4, "seed": 0, **kwargs})


def validated(data):
    return validation_batches(data, **SHAPE, batch_size=4)


def test_arrays_are_read_as_they_are_in_an_order_of_each_epoch():
    train = training(X, Y)
    assert len(train) == 2  # the short batch is left out
    epochs = [np.concatenate([train.batch(epoch, i)[0] for i in range(2)]) for epoch in (0, 1)]
    for images in epochs:
        assert images.dtype == np.float32
        assert len(np.unique(images[:, 0, 0, 0])) == 8
        assert np.isin(images[:, 0, 0, 0], X[:, 0, 0, 0]).all()
    assert not np.array_equal(*epochs)
    np.testing.assert_array_equal(training(X, Y).batch(1, 0)[0], epochs[1][:4])


@pytest.mark.parametrize(
    "labels", [Y, Y[:, None], Y.astype(np.float32), np.eye(2)[Y], np.eye(2, dtype=int)[Y], Y.tolist()]
)
def test_labels_of_every_shape_are_the_same_labels(labels):
    found = validated((X, labels))
    assert [found[i][1].tolist() for i in range(3)] == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1]]
    assert found[0][1].dtype == np.int32


@pytest.mark.parametrize("make", [Indexed, lambda: list(PARTS), lambda: batches(20, train=True)])
def test_batches_that_are_indexed_are_taken_as_they_are(make):
    data = make()
    train = training(data)
    for index in range(len(data)):
        np.testing.assert_array_equal(train.batch(0, index)[0], data[index][0])
    assert len(train) == len(data)


@pytest.mark.parametrize("dtype", [int, np.float64])
def test_one_hot_labels_of_batches_are_float32(dtype):
    train = training([(images, np.eye(2, dtype=dtype)[labels]) for images, labels in PARTS])
    labels = train.batch(0, 0)[1]
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.eye(2)[Y[:4]])


def test_a_py_dataset_hears_of_the_ends_of_its_epochs():
    data = Indexed()
    train = training(data)
    ended = []
    for epoch, index in [(0, 0), (0, 2), (1, 0), (1, 1), (3, 0)]:  # the last is of a search that is taken up again
        train.batch(epoch, index)
        ended.append(data.ended)
    assert ended == [0, 0, 1, 1, 3]
    train.epoch = 4
    assert train[0] and data.ended == 4


def test_a_data_set_that_is_iterated_makes_a_pass_an_epoch_and_another_where_one_goes_back():
    data = Passed()
    train = training(data)  # looks at the first batch
    first = [train.batch(0, index)[0] for index in (0, 1, 2)]
    assert data.passes == 2
    np.testing.assert_array_equal(np.concatenate(first), X + 2000)
    np.testing.assert_array_equal(train.batch(1, 2)[0], PARTS[2][0] + 3000)
    np.testing.assert_array_equal(train.batch(1, 1)[0], PARTS[1][0] + 4000)
    train.epoch = 1
    np.testing.assert_array_equal(train[2][0], PARTS[2][0] + 4000)


@pytest.mark.parametrize("make", [lambda: (X, Y), lambda: list(PARTS), Indexed, lambda: PARTS, Passed])
def test_validation_images_are_kept_in_their_order(make):
    found = validated(make())
    images = np.concatenate([found[index][0] for index in range(len(found))])
    np.testing.assert_array_equal(images - images.min(), X)
    np.testing.assert_array_equal(found.split.labels, Y)


def test_a_digest_tells_images_and_labels_from_others_in_any_order():
    same, other, moved = validated((X[::-1], Y[::-1])), validated((X + 1, Y)), validated((X, Y[::-1]))
    assert digest(training(X, Y)) == digest(validated((X, Y))) == digest(same)
    assert len({digest(each) for each in (same, other, moved)}) == 3
    assert digest(training(Passed())) == ""


def test_tf_data_is_read_and_must_know_its_length():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    np.testing.assert_array_equal(validated(data.batch(4)).split.images, X)
    train = training(data.batch(4))
    np.testing.assert_array_equal(train.batch(0, 2)[0], X[8:])
    for endless in (data.batch(4).repeat(), data.filter(lambda x, y: y == 0).batch(4)):
        with pytest.raises(DataError, match="`x` must be a data set that knows how many batches it has .*`take`"):
            training(endless)
    with pytest.raises(DataError, match=r"`x` must be images \[N, 4, 4, 1\].* Received: float32 of shape \(4, 4, 1\)"):
        training(data)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, None, r"search\(x, y, ...\).*Received: ndarray"),
        (X[:3], Y[:3], "`batch_size`. Received: 3"),
        (X[:, :3], Y, r"`x` must be images \[N, 4, 4, 1\], as `input_shape` says. Received: float32 of shape \(10, 3,"),
        (X, Y[:9], r"a label for each of 10 images.*Received: int32 of shape \(9,\)"),
        (X, Y + 1, "labels below `num_classes`=2.*from 1 to 2"),
        (X, Y * 0.5, "a label for each"),
        (X, np.ones((10, 2)), "one for each image. Received: from -1"),
        (np.where(X == 5, np.nan, X), Y, "must be finite"),
        ([(X, Y, Y)], None, "Received: list"),
        (Indexed([(X, Y, Y)]), None, "without weights. Received: 3 parts"),
        (Indexed([]), None, "a batch at least"),
        (Indexed(None), None, "knows how many batches"),
        (Indexed([PARTS[0], (X[4:8, :3], Y[4:8])] * 2), None, r"Received: float32 of shape \(4, 3, 4, 1\)"),
        (Indexed([PARTS[0], (X[4:8], Y[4:8] + 1)] * 2), None, "labels below `num_classes`=2.*from 1 to 2"),
        (X, Y.astype(np.int64) * 2**32, "labels below `num_classes`=2.*from 0 to 4294967296"),
        (X, Y.astype(np.uint64) * 2**32, "labels below `num_classes`=2.*from 0 to 4294967296"),
        (np.full(X.shape, 1e39), Y, "must be finite as float32"),
        (Passed(), Y, "batches of both are given without `y`. Received: Passed"),
        (None, Y, "Received: NoneType"),
        ("photos", Y, "Received: str"),
        (iter(PARTS), None, "knows how many batches"),
        (Passed(4), None, "the 4 batches of its length"),
        (7, None, "Received: int"),
    ],
)
def test_other_training_data_is_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        train = training(x, y)
        train.batch(0, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y, Y), r"`validation_data` must be \(images, labels\). Received: a tuple of 3"),
        (None, "Received: NoneType"),
        ((X[:, :3], Y), r"`validation_data` must be images \[N, 4, 4, 1\]"),
        ([], "Received: list"),
        (Indexed([]), "a batch at least"),
    ],
)
def test_other_validation_data_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        validated(data)
