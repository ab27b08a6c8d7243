"""The stages on real digits: what they leave behind, what they refuse, and that an interrupted one ends the same."""

import csv
import dataclasses
import inspect
import shutil

import numpy as np
import pytest

from nhn_tf import stages, training
from nhn_tf.errors import UserError
from nhn_tf.runs import RunDirectory, RunError
from nhn_tf.runs.monitor import Monitor
from nhn_tf.search import EnasSearch, History
from nhn_tf.settings.stages import STAGES
from nhn_tf.stages import runner
from nhn_tf.stages.feed import load_feed
from nhn_tf.stages.recording import Saver
from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.predictions import Predictions
from tests.conftest import before, smoke_settings

SLOW = pytest.mark.slow

TRAINING_METRICS = {"test_accuracy", "test_error", "params", "live_params", "score"}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_stage_has_a_body_of_one_screen():
    for stage in STAGES:
        body = runner.body(stage)
        assert list(inspect.signature(body).parameters) == ["stage", "feed", "settings"]
        assert len(inspect.getsource(body).splitlines()) <= 25, stage.name


def test_enas_leaves_its_figures_trials_and_curves(smoke_run):
    stage = smoke_run.stage("enas")
    done = stage.done.to_json()
    assert done["stage"] == "enas"
    assert done["wall_s"] > 0
    assert set(done["metrics"]) >= {
        "val_accuracy",
        "mean_reward_first",
        "mean_reward_last",
        "random_search_val_accuracy",
        "architectures_evaluated",
    }
    assert [row["epoch"] for row in rows(stage / "metrics.csv")] == ["1", "2"]
    assert {"reward", "baseline", "entropy", "skip_rate", "best_reward"} <= set(rows(stage / "metrics.csv")[0])
    trials = rows(stage / "trials.csv")
    best = max(float(row["score"]) for row in trials if row["source"] == "controller")
    assert best == done["metrics"]["val_accuracy"]
    assert len(trials) == 2 * done["metrics"]["architectures_evaluated"]  # the control's too
    assert done["genotype"] == stage.genotype().digest
    assert any((stage / "tensorboard").iterdir())
    assert not (stage / "checkpoint").exists()


def test_what_a_search_found_is_loaded_from_its_stage_and_samples_on(smoke_run):
    stage = smoke_run.stage("enas")
    searcher = EnasSearch.load(stage.path)
    assert searcher.results == stage.done.metrics
    assert searcher.get_best_genotypes(1)[0] == stage.genotype()
    assert searcher.sample(3, seed=1) == searcher.sample(3, seed=1) != searcher.sample(3, seed=2)
    ranked = [(row["source"], float(row["score"])) for row in rows(stage / "trials.csv")]
    assert [(trial.source, trial.score) for trial in searcher.get_ranked_trials()] == ranked
    feed = load_feed(smoke_settings("enas"))
    accuracy = training.accuracy(searcher.get_best_models(1)[0], feed.objective(feed.data.val))
    assert accuracy == pytest.approx(stage.done.metrics["val_accuracy"], abs=1.5 / len(feed.data.val))  # rounding
    untrained = EnasSearch(searcher.space, searcher.config, input_shape=(8, 8, 1), num_classes=10)
    assert not np.array_equal(
        untrained.controller.state_arrays()["controller/start"], searcher.controller.state_arrays()["controller/start"]
    )


def test_history_has_every_architecture_with_its_reward_and_the_individuals_of_every_cycle(smoke_run):
    seen = History.load(smoke_run.stage("enas").path)
    assert seen.measured.tags.tolist() == [0] * 6 + [1] * 6  # two updates of three architectures
    for epoch, row in enumerate(rows(smoke_run.stage("enas") / "metrics.csv")):
        assert float(row["reward"]) == seen.measured.scores[seen.measured.tags == epoch].mean()
    for stage, cycles in (("lds_location", 3), ("lds_direction", 2)):
        seen = History.load(smoke_run.stage(stage).path)
        assert seen.measured.tags.tolist() == [cycle for cycle in range(cycles) for _ in range(4)]
        assert len(seen.ranked) == len(rows(smoke_run.stage(stage) / "trials.csv"))


@pytest.mark.parametrize("name", ["weights.npz", "history.npz", "controller.npz"])
def test_a_search_whose_files_do_not_belong_together_is_not_loaded(smoke_run, tmp_path, name):
    for kept in ("weights.npz", "history.npz", "controller.npz"):
        shutil.copy(smoke_run.stage("enas") / kept, tmp_path)
    shutil.copy(smoke_run.stage("lds_location") / "weights.npz", tmp_path / name)
    with pytest.raises(DamagedFileError):
        EnasSearch.load(tmp_path)


@pytest.mark.parametrize("stage", ["base", "pruned", "final"])
def test_a_network_leaves_what_it_knows_of_each_class(smoke_run, stage):
    metrics, answers = smoke_run.stage(stage).done.metrics, Predictions.load(smoke_run.stage(stage).path)
    assert answers.class_names == tuple(str(digit) for digit in range(10))
    test, correct = answers.hits
    assert (sum(answers.train_counts), test.sum()) == (256, 96)
    assert metrics["test_accuracy"] == correct.sum() / 96
    assert metrics["test_balanced_accuracy"] == pytest.approx(np.mean(correct / test))
    assert metrics["test_majority_accuracy"] == test.max() / 96


def test_base_trains_the_genotype_that_enas_found(smoke_run):
    done = smoke_run.stage("base").done.to_json()
    assert done["input_genotype"] == smoke_run.stage("enas").done.genotype
    metrics = done["metrics"]
    assert set(metrics) >= TRAINING_METRICS
    assert metrics["test_error"] == pytest.approx(100 * (1 - metrics["test_accuracy"]))
    assert 0 < metrics["live_params"] <= metrics["params"]


def test_a_finished_stage_returns_at_once_and_says_so(run_copy, capsys):
    written = (run_copy.stage("base") / "done.json").stat().st_mtime_ns
    done = stages.run("base", run_copy, smoke_settings("base"))
    assert "already finished" in capsys.readouterr().out
    assert done == run_copy.stage("base").done.to_json()
    assert (run_copy.stage("base") / "done.json").stat().st_mtime_ns == written


def test_a_changed_setting_is_refused_by_name_and_nothing_is_lost(run_copy):
    with pytest.raises(RunError, match="lr_max 0.05 -> 0.01"):
        stages.run("base", run_copy, smoke_settings("base", lr_max=0.01))
    assert run_copy.stage("base").is_done


def test_base_without_a_search_names_the_command(tmp_path):
    with pytest.raises(RunError, match=r"search\.py --stage=enas"):
        stages.run("base", RunDirectory(tmp_path / "run"), smoke_settings("base"))


def test_base_on_other_data_than_the_search_is_refused(run_copy):
    settings = smoke_settings("base")
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, train_limit=128))
    with pytest.raises(RunError, match="train_limit 256 -> 128"):
        stages.run("base", run_copy, settings)


def test_base_with_another_seed_than_the_search_is_refused(run_copy):
    with pytest.raises(RunError, match="seed 0 -> 1"):
        stages.run("base", run_copy, dataclasses.replace(smoke_settings("base"), seed=1))


def test_overwrite_keeps_the_old_result_until_the_new_run_can_start(smoke_run, run_copy):
    settings = smoke_settings("base")
    bad = dataclasses.replace(settings, overwrite=True, data=dataclasses.replace(settings.data, pad=8))
    with pytest.raises(UserError):
        stages.run("base", run_copy, bad)
    too_large = dataclasses.replace(smoke_settings("base", batch_size=4096), overwrite=True)
    with pytest.raises(UserError):
        stages.run("base", run_copy, too_large)
    assert run_copy.stage("base").done == smoke_run.stage("base").done


def test_a_batch_larger_than_the_data_is_refused(smoke_run, tmp_path):
    with pytest.raises(UserError, match="256 training images. Received: 4096"):
        stages.run("enas", RunDirectory(tmp_path / "run"), smoke_settings("enas", batch_size=4096))


def test_an_architecture_from_a_file_needs_no_search(tmp_path, monkeypatch):
    monkeypatch.setattr("nhn_tf.stages.train.fit", lambda *_, **__: None)
    path = tmp_path / "arc.txt"
    path.write_text("0\n5 1\n2 0 1\n")
    settings = smoke_settings("base", genotype=str(path), epochs=1)
    run = RunDirectory(tmp_path / "run")
    stages.run("base", run, settings)
    assert run.stage("base").genotype().ops == ("conv3x3", "max_pool3x3", "conv5x5")


@pytest.mark.parametrize("content", ["0 1 2 3", "zero", "", None])
def test_a_wrong_architecture_file_is_named(tmp_path, content):
    path = tmp_path / "arc.txt"
    if content is not None:
        path.write_text(content)
    message = r"arc\.txt is no architecture" + (".*there is no such file" if content is None else "")
    with pytest.raises(UserError, match=message):
        stages.run("base", RunDirectory(tmp_path / "run"), smoke_settings("base", genotype=str(path)))


class InterruptedError_(Exception):
    pass


def interrupt_after(monkeypatch, epochs):
    """Makes the process 'die' when epoch number `epochs` + 1 is to be reported; all before it are saved."""
    report = Monitor.epoch

    def dying(self, metrics):
        if len(self.history) == epochs:
            raise InterruptedError_
        report(self, metrics)

    monkeypatch.setattr(Monitor, "epoch", dying)
    monkeypatch.setattr(Saver, "is_due_after", lambda *_: True)


@pytest.mark.parametrize(
    "stage",
    [
        *(pytest.param(name, marks=SLOW) for name in ("base", "pruned", "lds_location", "lds_direction")),
        *(pytest.param(name, marks=[SLOW, pytest.mark.jax]) for name in ("enas", "final")),
    ],
)
def test_an_interrupted_stage_ends_bit_for_bit_like_an_uninterrupted_one(smoke_run, tmp_path, monkeypatch, stage):
    run = before(smoke_run, stage, tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedError_):
            stages.run(stage, run, smoke_settings(stage))
    assert not run.stage(stage).is_done
    stages.run(stage, run, smoke_settings(stage))
    expected, found = smoke_run.stage(stage), run.stage(stage)
    assert found.done.metrics == expected.done.metrics
    assert found.genotype() == expected.genotype()
    weights, resumed = expected.weights(), found.weights()
    assert set(weights) == set(resumed)
    for name, array in weights.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    for whole, broken in zip(rows(expected / "metrics.csv"), rows(found / "metrics.csv"), strict=True):
        assert {**whole, "seconds": ""} == {**broken, "seconds": ""}


@SLOW
def test_two_searches_with_one_seed_agree_and_another_seed_differs(smoke_run, tmp_path):
    def search(seed, name):
        run = RunDirectory(tmp_path / name)
        stages.run("enas", run, dataclasses.replace(smoke_settings("enas"), seed=seed))
        return run.stage("enas")

    expected, same, other = smoke_run.stage("enas"), search(0, "same"), search(1, "other")
    assert same.done.weights == expected.done.weights
    assert same.done.metrics == expected.done.metrics
    assert same.genotype() == expected.genotype()
    assert other.done.weights != expected.done.weights
