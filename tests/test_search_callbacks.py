"""Keras's callbacks in a search: they hear what `fit` would tell them, may stop it, and are refused in time."""

import csv
import operator

import keras
import numpy as np
import pytest

from nhn_tf.search import EnasSearch, LocationSearch
from nhn_tf.search.callbacks import Listeners
from tests.test_enas import make
from tests.two_classes import Recorder, assert_same_arrays, run

EPOCHS = 4
reward = operator.itemgetter("reward")


def stopping() -> keras.callbacks.EarlyStopping:
    """It stops behind the second epoch: the learning rate does not rise."""
    return keras.callbacks.EarlyStopping("lr", mode="max", patience=1)


@pytest.fixture(scope="module")
def stopped():
    searcher, recorder = make(), Recorder()
    return searcher, recorder, run(searcher, epochs=EPOCHS, callbacks=[stopping(), recorder])


@pytest.fixture(scope="module")
def listened(tmp_path_factory):
    """A search of an epoch with callbacks of all kinds, and what a lambda heard."""
    path, heard = tmp_path_factory.mktemp("listened"), []
    lambdas = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: heard.append("train"),
        on_epoch_begin=lambda epoch, logs: heard.append(f"epoch {epoch}"),
        on_train_batch_begin=lambda batch, logs: heard.append(f"batch {batch}"),
        on_train_batch_end=lambda batch, logs: heard.append(f"end of batch {batch}, {'loss' in logs}"),
        on_epoch_end=lambda epoch, logs: heard.append(f"end of epoch {epoch}, {logs['val_accuracy'] == reward(logs)}"),
        on_train_end=lambda logs: heard.append("end"),
    )
    callbacks = [
        lambdas,
        keras.callbacks.CSVLogger(path / "log.csv"),
        keras.callbacks.ModelCheckpoint(path / "{epoch}-{reward:.2f}.keras", monitor="reward", save_best_only=True),
        Recorder(),
        keras.callbacks.TerminateOnNaN(),
    ]
    searcher = make()
    run(searcher, epochs=1, callbacks=callbacks)
    return searcher, path, heard


def test_keras_callbacks_hear_of_training_epochs_and_batches(listened):
    _, _, heard = listened
    steps = [line for batch in range(3) for line in (f"batch {batch}", f"end of batch {batch}, True")]
    assert heard == ["train", "epoch 0", *steps, "end of epoch 0, True", "end"]


def test_csv_logger_writes_the_metrics_of_each_epoch(listened):
    searcher, path, _ = listened
    with open(path / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["reward"]) == pytest.approx(searcher.history[0]["reward"])
    assert {"epoch", "loss", "accuracy", "val_accuracy", *searcher.history[0]} == set(row)


def test_model_checkpoint_saves_the_supernet(listened):
    searcher, path, _ = listened
    reward = searcher.history[0]["reward"]
    saved = keras.models.load_model(path / f"1-{reward:.2f}.keras")
    inputs = {"images": np.ones((2, 4, 4, 1), np.float32), "genes": np.zeros((2, 3), np.int32)}
    np.testing.assert_array_equal(saved.predict_on_batch(inputs), searcher.supernet.predict_on_batch(inputs))


def test_tensorboard_shows_a_search(tmp_path):
    pytest.importorskip("tensorflow")
    run(make(), epochs=1, callbacks=[keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "train")).Reload()
    assert "epoch_reward" in events.Tags()["tensors"] or "epoch_reward" in events.Tags()["scalars"]


def test_early_stopping_ends_the_search_which_then_ranks(stopped):
    searcher, _, results = stopped
    assert (searcher.epoch, searcher.stopped_of) == (2, EPOCHS)
    assert results["val_accuracy"] == searcher.get_best_trials(1)[0].score
    assert run(searcher, epochs=EPOCHS) is results  # it has ended


def test_a_search_may_be_stopped_as_it_begins():
    class Stop(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.stop_training = True

    searcher = make()
    assert run(searcher, callbacks=[Stop()])["mean_reward_first"] is None
    assert (searcher.epoch, searcher.stopped_of) == (0, 2)


@pytest.mark.slow
def test_a_stopped_search_can_be_asked_for_more(stopped):
    searcher = make()
    searcher.restore(*stopped[1].states[-1])
    assert run(searcher, epochs=EPOCHS + 1)["mean_reward_first"] == stopped[2]["mean_reward_first"]
    assert (searcher.epoch, searcher.stopped_of) == (EPOCHS + 1, None)


@pytest.mark.parametrize("epochs_before", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_search_that_keras_stops_ends_the_same_when_it_was_interrupted(stopped, epochs_before):
    whole, recorder, results = stopped
    resumed = make()
    resumed.restore(*recorder.states[epochs_before - 1])
    assert run(resumed, epochs=EPOCHS, callbacks=[stopping()]) == results
    assert resumed.history == whole.history
    assert_same_arrays(resumed.state_arrays(), whole.state_arrays())


def test_every_metric_says_which_way_is_better(stopped):
    searcher = stopped[0]
    measured = {name for name in searcher.better if searcher.measures(name)}
    assert measured == {*searcher.history[0], "loss", "accuracy", "val_accuracy"}
    assert set(searcher.better) - measured == {"val_loss", "random_reward", "best_random_reward"}


@pytest.mark.parametrize(
    ("callback", "error", "message"),
    [
        (keras.callbacks.EarlyStopping(), ValueError, "`monitor` of a EarlyStopping must be .*'val_loss'"),
        (keras.callbacks.EarlyStopping("entropy"), ValueError, "`mode` of a EarlyStopping .*'max' or 'min'"),
        (keras.callbacks.EarlyStopping("reward", restore_best_weights=True), ValueError, "restore_best_weights"),
        (keras.callbacks.ReduceLROnPlateau("reward"), ValueError, "schedule of its configuration"),
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), ValueError, "schedule of its configuration"),
        (keras.callbacks.ModelCheckpoint("{val_loss}.keras"), ValueError, "of which 'val_loss' is none"),
        (keras.callbacks.ModelCheckpoint("a.keras", save_best_only=True), ValueError, "Received: 'val_loss'"),
        (keras.callbacks.EarlyStopping, TypeError, "Received: the class EarlyStopping"),
        (3, TypeError, "Received: int"),
        (print, TypeError, "Received: builtin_function_or_method"),
    ],
)
def test_callbacks_that_cannot_do_their_work_are_refused(stopped, callback, error, message):
    watched = {name: way for name, way in EnasSearch.better.items() if stopped[0].measures(name)}
    with pytest.raises(error, match=message):
        Listeners([callback], watched)
    with pytest.raises(error, match=message):
        Listeners(callback, watched)


def test_a_callback_is_refused_before_the_first_step():
    class KerasLike:
        def on_epoch_end(self, epoch, logs): ...

    searcher = make()
    searcher.prepare = searcher.run_epoch = None  # not called
    with pytest.raises(TypeError, match=r"on_epoch_end\(searcher, epoch, metrics\)"):
        run(searcher, callbacks=[KerasLike()])


def test_keras_need_not_guess_which_way_is_better():
    watched = [keras.callbacks.EarlyStopping(name) for name in ("val_accuracy", "reward", "loss", "nan_rewards")]
    Listeners(watched, EnasSearch.better)
    assert [callback.mode for callback in watched] == ["max", "max", "min", "min"]


def test_checkpoints_of_every_epoch_need_no_metric():
    Listeners(keras.callbacks.ModelCheckpoint("{epoch}.keras"), LocationSearch.better)
