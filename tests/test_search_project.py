"""A search in a directory: taken up again, never replaced unasked; and what it tells of its trials."""

import itertools
import logging
import re
import shutil

import keras
import numpy as np
import pytest

from nhn_tf.data import DataError
from nhn_tf.models import weights
from nhn_tf.search import EnasSearch, History
from nhn_tf.settings import EnasConfig
from nhn_tf.storage import files
from tests.test_enas import CONFIG, SPACE, make
from tests.two_classes import SHAPE, Recorder, assert_same_arrays, batches, run, validation


class Killed(Exception):
    pass


class Killer:
    def on_epoch_end(self, searcher, epoch, metrics):
        raise Killed


def interrupting(hook, count):
    """A callback that Ctrl-C interrupts at the `count`-th call of a hook."""
    calls = itertools.count(1)

    def called(*args, **kwargs):
        if next(calls) == count:
            raise KeyboardInterrupt

    callback = Silent() if hook == "on_step_end" else keras.callbacks.Callback()
    setattr(callback, hook, called)
    return callback


class Silent:
    def on_epoch_end(self, searcher, epoch, metrics): ...


class Told(logging.Handler):
    """Keeps what is logged in a list."""

    def __init__(self, told):
        super().__init__()
        self.told = told

    def emit(self, record):
        self.told.append(record.getMessage())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A search that was killed after its first epoch and taken up again, one that was not, and what was logged."""
    path, told = tmp_path_factory.mktemp("project"), []
    logger = logging.Logger("search")
    logger.addHandler(Told(told))
    with pytest.raises(Killed):
        run(make(directory=path), callbacks=[Killer()])
    resumed = make(directory=path, logger=logger)
    assert resumed.epoch == 1
    run(resumed)
    whole = make()
    run(whole)
    return path, resumed, whole, told


def content(path):
    return {name.name: name.read_bytes() for name in sorted((path / "enas").iterdir())}


def test_an_interrupted_project_goes_on_to_the_same_bits_with_the_same_history(project):
    path, resumed, whole, _ = project
    assert resumed.results == whole.results
    assert_same_arrays(resumed.state_arrays(), whole.state_arrays())
    seen = History.load(path / "enas")
    assert seen.sources == ("controller", "random")
    np.testing.assert_array_equal(seen.measured.genes, whole.measured.genes)
    assert seen.measured.tags.tolist() == [0] * 6 + [1] * 6
    for epoch, metrics in enumerate(whole.history):
        assert seen.measured.scores[seen.measured.tags == epoch].mean() == metrics["reward"]
    assert len(seen.ranked) == 2 * whole.results["architectures_evaluated"]


@pytest.mark.parametrize("hook", ["on_train_batch_end", pytest.param("on_step_end", marks=pytest.mark.slow)])
def test_a_search_that_an_exception_has_ended_goes_on_to_the_same_bits(project, hook):
    whole, searcher = project[2], make()
    with pytest.raises(KeyboardInterrupt):
        run(searcher, callbacks=[interrupting(hook, 7 if hook == "on_step_end" else 5)])  # in the second epoch
    assert (searcher.epoch, searcher.progress) == (1, None)
    run(searcher)
    assert searcher.results == whole.results
    assert_same_arrays(searcher.state_arrays(), whole.state_arrays())


class Halver(keras.callbacks.Callback):
    """Halves a weight after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        weight = self.model.trainable_variables[0]
        weight.assign(weight / 2)


@pytest.mark.parametrize("callbacks", [[], [Halver()]], ids=["alone", "with Keras's"])
def test_an_epoch_is_saved_from_the_one_copy_that_an_exception_goes_back_to(tmp_path, callbacks):
    """Where a callback of Keras may have changed weights there is a second one, which is saved and gone back to."""
    searcher, copies = make(directory=tmp_path), []
    arrays = searcher.state_arrays
    searcher.state_arrays = lambda: copies.append(searcher.epoch) or arrays()
    with pytest.raises(Killed):
        run(searcher, callbacks=[*callbacks, Killer()])
    assert copies == [0, 0, 1, *([1] if callbacks else [])]
    assert_same_arrays(make(directory=tmp_path).state_arrays(), arrays())
    with pytest.raises(ValueError, match="while `search` runs"):
        searcher.whole_state()


def test_a_finished_project_is_returned_and_left_as_it_is(project):
    path, resumed, *_ = project
    before = content(path)
    again = make(directory=path)
    assert run(again, callbacks=[Killer()]) == resumed.results
    assert again.trials == resumed.trials
    assert again.remaining_trials == 0
    assert content(path) == before


def test_history_that_was_deleted_is_written_again(project, tmp_path):
    shutil.copytree(project[0] / "enas", tmp_path / "enas")
    (tmp_path / "enas" / "history.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"enas holds no history\.npz"):
        History.load(tmp_path / "enas")
    run(make(directory=tmp_path))
    assert content(tmp_path) == content(project[0])


def test_a_project_that_was_removed_meanwhile_is_written_again(project, tmp_path):
    searcher = make(directory=tmp_path)
    searcher.restore(project[2].state_arrays(), project[2].state_values())
    searcher.save()
    before = content(tmp_path)
    shutil.rmtree(tmp_path / "enas")
    searcher.save()
    assert content(tmp_path) == before


def test_damaged_files_of_a_search_say_what_to_do(tmp_path):
    (tmp_path / "enas").mkdir()
    (tmp_path / "enas" / "state.npz").write_bytes(b"PK")
    with pytest.raises(
        files.DamagedFileError, match=r"state\.npz is not a readable npz .* `overwrite=True` begins again"
    ):
        make(directory=tmp_path)
    with pytest.raises(ValueError, match="`directory` must not lead through a file"):
        make(directory=tmp_path / "enas" / "state.npz")


def test_counts_that_numpy_has_made_are_saved(tmp_path):
    searcher = make(directory=tmp_path, num_classes=np.int64(2), input_shape=np.array([4, 4, 1]), seed=np.int64(0))
    searcher.save()
    assert make(directory=tmp_path).reload()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_shape", (4, 4), r"\(H, W, C\).*Received: \(4, 4\)"),
        ("input_shape", (4, None, 1), "at least 1"),
        ("input_shape", (4, 4, 0), "at least 1"),
        ("input_shape", 4, "Received: 4"),
        ("num_classes", 1, "at least 2. Received: 1"),
        ("num_classes", "2", "Received: '2'"),
        ("seed", 1.5, "at least 0. Received: 1.5"),
    ],
)
def test_shapes_and_counts_that_are_none_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"`{name}` must be.*{message}"):
        make(**{name: value})


def test_another_search_in_its_directory_is_refused_by_what_differs(project):
    before = content(project[0])
    config = EnasConfig(**{**CONFIG.to_json(), "lr_max": 0.125})
    with pytest.raises(ValueError, match=r"another config: lr_max 0\.05\. This search's: lr_max 0\.125.*overwrite="):
        make(config, directory=project[0])
    other = batches(24, train=True, seed=7)
    with pytest.raises(DataError, match="a search on other images"):
        make(directory=project[0]).search(other, validation_data=validation())
    assert content(project[0]) == before


def test_overwrite_begins_again_and_keeps_what_is_there_until_an_epoch_has_ended(project, tmp_path):
    searcher = make(directory=tmp_path)
    searcher.restore(project[2].state_arrays(), project[2].state_values())
    searcher.save()
    before = content(tmp_path)
    again = make(directory=tmp_path, overwrite=True)
    assert (again.epoch, again.results) == (0, None)
    with pytest.raises(DataError):
        again.search(np.zeros((24, 5, 5, 1)), np.zeros(24), validation_data=validation())
    assert content(tmp_path) == before
    again.run_epoch = lambda epoch: {"reward": 0.25}
    with pytest.raises(Killed):
        run(again, callbacks=[Killer()])
    assert make(directory=tmp_path).history == [{"reward": 0.25}]
    with pytest.raises(ValueError, match="written by another search meanwhile"):
        searcher.save()


def test_a_logger_hears_of_each_epoch_and_of_the_results(project):
    _, resumed, _, told = project
    epoch, results = told
    assert epoch.startswith("epoch 2 of 2: train_loss ") and f"reward {resumed.history[1]['reward']:.4g}" in epoch
    assert results.startswith(f"ranked {len(resumed.ranked)} candidates: ")
    assert f"val_accuracy {resumed.results['val_accuracy']:.4g}" in results
    with pytest.raises(TypeError, match=r"`logger` must be a logging\.Logger\. Received: str"):
        make(logger="log")


def test_all_candidates_are_ranked_beyond_those_kept(project):
    searcher = project[2]
    ranked = searcher.get_ranked_trials()
    assert len(ranked) == len(searcher.ranked) > len(searcher.trials)
    assert [trial for trial in ranked if trial.source == "controller"][:2] == searcher.get_best_trials(2)
    assert [trial.score for trial in ranked] == sorted((trial.score for trial in ranked), reverse=True)


def test_a_finished_search_is_loaded_from_its_directory(project):
    path, resumed, *_ = project
    loaded = EnasSearch.load(path / "enas")
    assert loaded.project_dir is None
    assert_same_arrays(loaded.state_arrays(), resumed.state_arrays())
    assert loaded.sample(5) == resumed.sample(5)
    with pytest.raises(FileNotFoundError, match=r"holds no search: neither a project's state\.npz"):
        EnasSearch.load(path)


def test_a_finished_stage_samples_on_but_has_no_optimizer_to_train_on_with(project, tmp_path):
    searcher = project[1]
    searcher.save_history(tmp_path)
    searcher.save_controller(tmp_path)
    files.save_npz(tmp_path / "weights.npz", weights.to_arrays(searcher.supernet))
    loaded = EnasSearch.load(tmp_path)
    assert loaded.sample(5) == searcher.sample(5)
    assert run(loaded) == searcher.results
    with pytest.raises(ValueError, match=r"only where its optimizer was kept: in a project's state\.npz"):
        run(loaded, epochs=3)


def test_best_hyperparameters_name_every_choice(project):
    (best,) = project[2].get_best_hyperparameters(1)
    genotype = project[2].get_best_genotypes(1)[0]
    assert best == {
        "layer0_op": genotype.ops[0], "layer1_op": genotype.ops[1], "layer1_skip0": 0 in genotype.skips[1],
    }  # fmt: skip


def test_best_models_are_networks_of_their_own(project):
    searcher = project[2]
    first, second = searcher.get_best_models(2)
    before = [np.array(v) for v in second.get_weights()]
    shared = searcher.state_arrays()
    first.set_weights([np.zeros_like(v) for v in first.get_weights()])
    for ours, theirs in zip(before, second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert_same_arrays(searcher.state_arrays(), shared)


def test_a_search_without_results_says_so(capsys):
    searcher = EnasSearch(SPACE, CONFIG, **SHAPE, max_trials=3)
    assert (searcher.config.final_samples, searcher.remaining_trials) == (3, 3)
    searcher.results_summary()
    assert capsys.readouterr().out == "No results yet: 0 of 2 epochs are done. Call `search`.\n"
    assert searcher.get_best_models(1) == searcher.get_ranked_trials() == []
    with pytest.raises(ValueError, match="`count` must be a whole number of at least 1"):
        searcher.sample(0)


class Shuffled(keras.utils.PyDataset):
    """24 images whose order a generator of its own draws anew at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)
        self.images = self.rng.normal(size=(24, 4, 4, 1)).astype(np.float32)
        self.order = np.arange(24)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        chosen = self.order[8 * index : 8 * index + 8]
        return self.images[chosen], chosen % 2

    def on_epoch_end(self):
        self.order = self.rng.permutation(24)


def test_a_py_dataset_that_shuffles_itself_is_searched_on_to_the_same_bits():
    searchers, recorder = (make(), make()), Recorder()
    searchers[0].search(Shuffled(), validation_data=validation(), callbacks=[recorder])
    searchers[1].restore(*recorder.states[0])
    searchers[1].search(Shuffled(), validation_data=validation())
    assert_same_arrays(searchers[0].state_arrays(), searchers[1].state_arrays())


def test_an_objective_that_is_not_measured_is_refused():
    known = r"`objective` must be \"val_accuracy\" \(max\) or \"val_loss\" \(min\), .* `reward` .*"
    for objective in ("loss", ["val_loss"]):
        with pytest.raises(ValueError, match=f"{known} Received: {re.escape(repr(objective))}"):
            make(objective=objective)
    with pytest.raises(ValueError, match="`reward` is made of the accuracy: leave `objective` out"):
        make(objective="val_loss", reward=lambda genotype, accuracy: accuracy)


def test_an_objective_of_keras_tuner_is_taken_at_its_word():
    tuner = pytest.importorskip("keras_tuner")
    for name, direction in (("val_accuracy", "max"), ("val_loss", "min")):
        searcher = make(objective=tuner.Objective(name, direction))
        assert (searcher.objective, searcher.direction) == (name, direction)
    for name, direction in (("val_accuracy", "min"), ("val_loss", "max"), ("accuracy", "max")):
        with pytest.raises(ValueError, match=f"Received: '{name}', '{direction}'\\."):
            make(objective=tuner.Objective(name, direction))


def test_images_and_labels_are_searched_as_arrays():
    images = np.random.default_rng(0).normal(size=(24, 4, 4, 1)).astype(np.float32)
    labels = np.eye(2)[np.arange(24) % 2]
    searcher, recorder = make(), Recorder()
    searcher.search(images, labels, validation_data=(images[:20], labels[:20]), epochs=1, callbacks=[recorder])
    assert recorder.epochs == [0]
    model = searcher.get_best_models(1)[0]
    right = model.predict_on_batch(images[:20]).argmax(axis=1) == labels[:20].argmax(axis=1)
    assert right.mean() == searcher.get_best_trials(1)[0].score  # the network reads what the search read
