"""The whole ENAS search on random images: the loop, its metrics, its ranking, its state."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math

import keras
import numpy as np
import pytest

from nhn_tf.search import EnasSearch, History, Trial
from nhn_tf.search.candidates import distinct_rows
from nhn_tf.search.rewards import mean_loss
from nhn_tf.search.trials import rank
from nhn_tf.settings import EnasConfig
from nhn_tf.settings.added import ADDED
from nhn_tf.training import DivergedError
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.randomness import Stream
from nhn_tf.values.space import Space
from tests.two_classes import SHAPE, Recorder, assert_same_arrays, batches, run, validation

SPACE = Space(num_layers=2, num_segments=1, ops=("conv3x3", "max_pool3x3"))  # 8 architectures
CONFIG = EnasConfig(
    epochs=2,
    batch_size=8,
    lr_period_epochs=1,
    num_layers=2,
    num_segments=1,
    supernet_filters=4,
    keep_prob=0.9,
    controller_units=8,
    controller_steps=2,
    samples_per_step=3,
    reward_batch_size=8,
    final_samples=6,
    top_k=2,
)


def make(config: EnasConfig = CONFIG, **kwargs) -> EnasSearch:
    return EnasSearch(SPACE, config, **{**SHAPE, **kwargs})


@pytest.fixture(scope="module")
def finished() -> tuple[EnasSearch, Recorder, dict]:
    searcher, recorder = make(), Recorder()
    return searcher, recorder, run(searcher, callbacks=[recorder])


def test_callbacks_hear_of_every_epoch_and_step(finished):
    searcher, recorder, _ = finished
    assert recorder.epochs == [0, 1]
    assert recorder.metrics == searcher.history
    # 3 training batches and 2 controller updates an epoch.
    assert recorder.steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)] * 2
    assert [values["epoch"] for _, values in recorder.states] == [1, 2]


def test_steps_of_the_final_ranking_are_told_apart_from_those_of_an_epoch(finished):
    searcher, recorder, results = finished
    count = results["architectures_evaluated"]
    assert recorder.last_steps == [(count, count)] * 2  # the controller's, then the random control's
    assert not searcher.concluding


def test_metrics_of_an_epoch(finished):
    searcher, _, _ = finished
    for metrics in searcher.history:
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
        assert {"train_loss", "train_accuracy", "lr", "reward", "baseline", "entropy"} <= metrics.keys()
        assert 0 <= metrics["reward"] <= metrics["best_reward"] <= 1
        assert 0 < metrics["distinct"] <= 1
        assert metrics["lr"] == pytest.approx(0.05)  # each epoch is a whole cosine period
    first, second = searcher.history
    assert second["best_reward"] >= first["best_reward"]


@pytest.mark.jax_slow
def test_results_hold_every_promised_figure(finished):
    searcher, _, results = finished
    assert results is searcher.results
    best = searcher.get_best_trials(1)[0]
    # The best genotype's accuracy on all 20 validation images, the short last batch included.
    validation = batches(20, train=False, seed=1)
    assert results["val_accuracy"] == best.score
    assert best.score == searcher.supernet.accuracies(best.genotype.genes()[None], validation)[0]
    assert results["mean_reward_first"] == searcher.history[0]["reward"]
    assert results["mean_reward_last"] == searcher.history[1]["reward"]
    assert 1 <= results["architectures_evaluated"] <= 6
    assert results["random_architectures_evaluated"] == results["architectures_evaluated"]
    assert results["random_search_val_accuracy"] >= results["random_search_mean_val_accuracy"]
    assert results["val_accuracy"] >= results["mean_val_accuracy"]


def test_keeps_the_top_k_of_the_controller_and_of_the_control(finished):
    searcher, _, _ = finished
    scores = [trial.score for trial in searcher.trials]
    assert scores == sorted(scores, reverse=True)
    assert [trial.source for trial in searcher.trials].count("controller") == 2
    assert [trial.source for trial in searcher.trials].count("random") == 2
    assert {trial.source for trial in searcher.get_best_trials(10)} == {"controller"}


@pytest.mark.jax_slow
def test_best_model_classifies_as_its_trial_says(finished):
    searcher, _, _ = finished
    validation = batches(20, train=False, seed=1)
    for model, trial in zip(searcher.get_best_models(2), searcher.get_best_trials(2), strict=True):
        right = 0
        for index in range(len(validation)):
            images, labels = validation[index]
            right += int((model.predict_on_batch(images).argmax(axis=-1) == labels).sum())
        assert right / 20 == trial.score


def test_summaries_name_the_space_and_the_best(finished, capsys):
    searcher, _, results = finished
    searcher.search_space_summary()
    searcher.results_summary(1)
    printed = capsys.readouterr().out
    assert "2 layers in 1 segments" in printed
    assert "architectures: 8" in printed
    assert f"1. score {results['val_accuracy']:.4f} (controller)" in printed
    assert "2. score" not in printed


def test_same_seed_same_search_bit_for_bit_also_in_two_calls(finished):
    searcher, _, results = finished
    again = make()
    run(again, epochs=1)
    assert len(again.history) == 1
    assert run(again) == results
    assert again.history == searcher.history
    assert again.trials == searcher.trials
    assert_same_arrays(again.state_arrays(), searcher.state_arrays())


def test_another_seed_another_search():
    ours, other = make(), make(seed=1)
    for path, array in ours.state_arrays().items():
        if path.endswith("kernel"):  # smoothed or not, every kernel that is drawn at random
            assert not np.array_equal(array, other.state_arrays()[path]) or path.endswith("global_pool/kernel"), path
    samples = [searcher.controller.sample(64, searcher.rng(Stream.CHILD)) for searcher in (ours, other)]
    assert not np.array_equal(*samples)


@pytest.mark.jax_slow
def test_restored_after_an_epoch_it_ends_as_if_never_interrupted(finished):
    searcher, recorder, results = finished
    resumed, heard = make(), Recorder()
    resumed.restore(*recorder.states[0])
    assert_same_arrays(resumed.state_arrays(), recorder.states[0][0])
    assert run(resumed, callbacks=[heard]) == results
    assert heard.epochs == [1]
    assert resumed.history == searcher.history
    assert resumed.trials == searcher.trials
    assert_same_arrays(resumed.state_arrays(), searcher.state_arrays())


def test_restored_at_the_end_it_only_ranks(finished):
    searcher, recorder, results = finished
    resumed, heard = make(), Recorder()
    resumed.restore(*recorder.states[1])
    assert run(resumed, callbacks=[heard]) == results
    assert heard.epochs == []
    finished_state = searcher.state_arrays(), json.loads(json.dumps(searcher.state_values()))
    resumed.restore(*finished_state)
    assert resumed.finish() == results
    assert resumed.trials == searcher.trials


def test_a_project_directory_carries_the_state_to_another_object(finished, tmp_path):
    searcher, _, results = finished
    saved = make(directory=tmp_path, project_name="p")
    assert not saved.reload()
    arrays, values = searcher.state_arrays(), searcher.state_values()
    saved.restore(arrays, values)
    saved.save()
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["history.npz", "state.npz"]
    other = make(directory=tmp_path, project_name="p")
    assert other.reload()
    assert other.epoch == 2
    assert other.finish() == results
    assert_same_arrays(other.state_arrays(), arrays)


def test_a_project_directory_receives_every_epoch(tmp_path):
    class Stopped(Exception):
        pass

    class Stopper:
        def on_epoch_end(self, searcher, epoch, metrics):
            raise Stopped

    searcher = make(directory=tmp_path)
    searcher.run_epoch = lambda epoch: {"reward": 0.25}
    with pytest.raises(Stopped):
        run(searcher, callbacks=[Stopper()])
    other = make(directory=tmp_path)
    assert other.reload()
    assert other.epoch == 1
    assert other.history == [{"reward": 0.25}]


def test_the_state_of_another_search_is_refused(finished):
    _, recorder, _ = finished
    other = make(seed=5)
    before = other.state_arrays()
    with pytest.raises(ValueError, match=r"state is of another seed: 0\. This search's: 5"):
        other.restore(*recorder.states[0])
    arrays, values = recorder.states[0]
    with pytest.raises(ValueError, match="unknown array extra"):
        make().restore({**arrays, "extra": np.zeros(1)}, values)
    assert_same_arrays(other.state_arrays(), before)
    assert other.epoch == 0


def test_a_state_from_before_there_were_some_settings_is_taken_over(finished):
    searcher = finished[0]
    state = searcher.identity()
    del state["objective"]
    state["config"] = {name: value for name, value in state["config"].items() if f"config.{name}" not in ADDED}
    assert len(state["config"]) < len(searcher.config.to_json())
    searcher.check_identity({"search": state})
    state["config"]["random_probes"] = 1
    with pytest.raises(ValueError, match="random_probes"):
        searcher.check_identity({"search": state})


def prepared(kind: type[EnasSearch] = EnasSearch, config: EnasConfig = CONFIG, **kwargs) -> EnasSearch:
    searcher = kind(SPACE, config, **SHAPE, **kwargs)
    searcher.prepare(batches(24, train=True), batches(24, train=False, seed=1), 2)
    return searcher


def test_every_batch_trains_an_architecture_of_its_own(finished):
    searcher, _, _ = finished
    assert searcher._train_data.genes.shape == (3, SPACE.gene_length)
    assert len(searcher._train_data) == 3


def test_rewards_walk_through_all_validation_images_before_repeating_one():
    searcher = prepared()
    seen = []
    searcher.reward = lambda genes, images, labels: seen.append(images) or 0.5
    for number in range(6):
        searcher._measure(np.zeros(3, np.int32), number)
    everything = np.sort(batches(24, train=False, seed=1).batch(0, 0)[0].ravel())
    assert len(everything) == 8 * 16
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    # 24 images in 3 batches: each pass holds every image once, in another order.
    assert len(np.unique(first.reshape(24, -1), axis=0)) == 24
    np.testing.assert_array_equal(np.sort(first.ravel()), np.sort(second.ravel()))
    assert not np.array_equal(first, second)


def test_paired_architectures_of_an_update_share_their_images_and_each_is_measured_against_the_others():
    searcher = make(dataclasses.replace(CONFIG, paired_fitness=True))
    searcher.prepare(batches(24, train=True), batches(24, train=False, seed=1), 1)
    seen, given = [], []
    searcher.reward = lambda genes, images, labels: seen.append(images) or len(seen) / 10
    searcher.controller.update = lambda genes, advantages: (
        given.append(advantages) or dict.fromkeys(("loss", "entropy", "skip_kl"), 0.0)
    )
    searcher._train_controller(0)
    size = CONFIG.samples_per_step
    assert size > 1 and CONFIG.controller_steps > 1
    for step in range(CONFIG.controller_steps):
        same = seen[step * size : (step + 1) * size]
        assert all(np.array_equal(images, same[0]) for images in same)
        rewards = np.arange(step * size + 1, (step + 1) * size + 1) / 10
        others = [np.delete(rewards, i).mean() for i in range(size)]
        np.testing.assert_allclose(given[step], rewards - others, atol=1e-6)
    assert not np.array_equal(seen[0], seen[size])


def test_a_single_architecture_has_no_others_to_be_compared_with():
    with pytest.raises(ValueError, match="`samples_per_step` must be at least 2"):
        dataclasses.replace(CONFIG, paired_fitness=True, samples_per_step=1)


def test_nan_rewards_count_as_zero_and_are_reported(caplog):
    class Failing(EnasSearch):
        def reward(self, genes, images, labels):
            return math.nan if genes[0] == 0 else 0.5

    searcher = prepared(Failing)
    with caplog.at_level(logging.WARNING):
        metrics = searcher._train_controller(0)
    assert metrics["nan_rewards"] > 0
    assert metrics["reward"] == pytest.approx(0.5 * (6 - metrics["nan_rewards"]) / 6)
    assert metrics["reward_noise"] == pytest.approx((0.25 / CONFIG.reward_batch_size) ** 0.5)
    assert math.isfinite(metrics["baseline"])
    assert "rewards in epoch 1 are NaN" in caplog.text
    for array in searcher.controller.state_arrays().values():
        assert np.isfinite(array).all()


def test_what_is_not_finite_is_never_better_than_a_reward_below_zero():
    failed = itertools.cycle([math.nan, -math.inf])
    searcher = make(reward=lambda genotype, accuracy: next(failed) if genotype.ops[0] == "conv3x3" else accuracy - 2)
    results = run(searcher, epochs=1)
    assert math.isinf(next(failed)) or searcher.history[0]["nan_rewards"] > 1  # there was one of each
    metrics, scores = searcher.history[0], searcher.measured.scores
    assert 0 < metrics["nan_rewards"] == np.isnan(scores).sum() < len(scores)
    assert metrics["best_reward"] == np.nanmax(scores) <= -1
    assert "reward_noise" not in metrics
    assert -2 <= results["mean_val_reward"] <= results["val_reward"] <= -1
    ranked = [math.isnan(trial.score) for trial in searcher.get_ranked_trials()]
    assert ranked == sorted(ranked) and ranked[-1]


def test_a_reward_that_takes_something_else_is_refused_at_once():
    for wrong in (lambda accuracy: accuracy, "accuracy"):
        with pytest.raises(TypeError, match=r"called as reward\(genotype, accuracy\)"):
            make(reward=wrong)


def test_a_reward_of_ones_own_is_what_is_searched_and_ranked_for(tmp_path):
    def small(genotype, accuracy):
        return accuracy - 10 * genotype.ops.count("conv3x3")

    searcher, watched = make(reward=small, directory=tmp_path), keras.callbacks.EarlyStopping("reward", mode="max")
    with pytest.raises(ValueError, match=r"metric of the search: loss.*Received: 'val_accuracy'"):
        run(searcher, callbacks=[keras.callbacks.EarlyStopping("val_accuracy")])
    results = run(searcher, epochs=1, callbacks=[watched])
    assert results["val_reward"] == searcher.get_best_trials(1)[0].score
    assert "val_accuracy" not in results
    for genes, score in zip(searcher.measured.genes, searcher.measured.scores, strict=True):
        convolutions = (genes[:2] == 0).sum()
        assert 0 <= score + 10 * convolutions <= 1
    counts = [trial.genotype.ops.count("conv3x3") for trial in searcher.get_ranked_trials()]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    with pytest.raises(ValueError, match=r"another reward: .*small\. This search's: None"):
        make(directory=tmp_path)
    with pytest.raises(ValueError, match=r"`reward` must be that of the search in .*small\. Received: None"):
        EnasSearch.load(tmp_path / "enas")
    loaded = EnasSearch.load(tmp_path / "enas", reward=small)
    assert loaded.get_ranked_trials() == searcher.get_ranked_trials()


def cross_entropy(model, images, labels):
    """By Keras, of all images at once."""
    logits = model.predict_on_batch(images)
    return float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits))


@pytest.mark.jax_slow
def test_the_validation_loss_is_searched_and_ranked_for(tmp_path, capsys):
    stop = keras.callbacks.EarlyStopping("val_loss", patience=9)
    searcher = make(objective="val_loss", directory=tmp_path)
    with pytest.raises(ValueError, match=r"metric of the search: loss, accuracy, val_loss.*Received: 'val_accuracy'"):
        run(searcher, callbacks=[keras.callbacks.EarlyStopping("val_accuracy")])
    results = run(searcher, callbacks=[stop])
    # Each candidate's network, built by itself, has the loss that it was ranked by.
    images, labels = (np.concatenate(part) for part in zip(*validation(), strict=True))
    best, ranked = searcher.get_best_trials(2), searcher.get_ranked_trials()
    for model, trial in zip(searcher.get_best_models(2), best, strict=True):
        assert trial.score == pytest.approx(cross_entropy(model, images, labels), rel=1e-4)
    scores = [trial.score for trial in ranked]
    assert scores == sorted(scores) and scores[0] < scores[-1]
    assert results["val_loss"] == best[0].score and results["mean_val_loss"] > results["val_loss"]
    assert searcher.comparisons[0].gain == results["random_search_val_loss"] - results["val_loss"]
    # What the controller hears is exp(-loss), and the epoch's loss the mean of what it heard of.
    for epoch, metrics in enumerate(searcher.history):
        rewards = searcher.measured.scores[searcher.measured.tags == epoch]
        assert (rewards > 0).all() and (rewards < 1).all()
        assert metrics["reward"] == pytest.approx(rewards.mean())
        assert metrics["val_loss"] == pytest.approx(-np.log(rewards).mean())
        assert "reward_noise" not in metrics
    assert stop.best == pytest.approx(min(metrics["val_loss"] for metrics in searcher.history))

    searcher.results_summary(1)
    assert capsys.readouterr().out.startswith(
        f"Results after 2 epochs: 1 best of {len(ranked)} trials by val_loss (min)\n  1. score {best[0].score:.4f}"
    )
    assert History.load(tmp_path / "enas").figure == "val_loss"
    assert EnasSearch.load(tmp_path / "enas").get_ranked_trials() == ranked
    with pytest.raises(ValueError, match="another objective: val_loss. This search's: val_accuracy"):
        make(directory=tmp_path)


def test_a_loss_that_is_not_finite_is_no_reward_and_ranks_last():
    searcher = prepared(objective="val_loss")
    images, labels = validation().batch(0, 0)
    row, searcher.supernet.predict_on_batch = np.zeros(3, np.int32), lambda x: logits
    logits = np.zeros((8, 2), np.float32)
    assert searcher.supernet.cross_entropy(row, images, labels) == pytest.approx(math.log(2))
    assert searcher.reward(row, images, labels) == pytest.approx(0.5)  # of guessing between two classes
    logits = np.where(np.arange(2) == labels[:, None], -1e6, 1e6).astype(np.float32)
    assert searcher.reward(row, images, labels) == 0.0
    for lost in (np.nan, np.inf):
        logits = np.full((8, 2), lost, np.float32)
        assert math.isnan(searcher.reward(row, images, labels))
    assert mean_loss(np.array([0.0, math.nan, math.exp(-2)])) == pytest.approx(2)
    assert math.isnan(mean_loss(np.array([0.0, math.nan])))


@pytest.mark.jax_slow
def test_random_probes_are_measured_beside_the_search_and_change_nothing_of_it(finished):
    whole, _, results = finished
    config = dataclasses.replace(CONFIG, random_probes=5)
    searcher, recorder = make(config), Recorder()
    assert run(searcher, callbacks=[recorder]) == results
    assert searcher.get_ranked_trials() == whole.get_ranked_trials()
    assert_same_arrays(searcher.state_arrays(), whole.state_arrays())
    best = -1.0
    for ours, theirs in zip(searcher.history, whole.history, strict=True):
        probed = {name: ours[name] for name in ours.keys() - theirs.keys()}
        assert {**theirs, **probed} == ours
        assert probed.keys() == {"random_reward", "best_random_reward"}
        best = max(best, probed["best_random_reward"])
        assert 0 <= probed["random_reward"] <= probed["best_random_reward"] == best <= 1

    resumed = make(config)
    resumed.restore(*recorder.states[0])
    run(resumed)
    assert resumed.history == searcher.history


def test_random_probes_share_the_images_of_the_controllers_architectures():
    searcher = prepared(config=dataclasses.replace(CONFIG, random_probes=2))
    seen = []
    searcher.reward = lambda genes, images, labels: seen.append(images) or len(seen) / 100
    searcher._train_controller(1)
    looks = len(seen)
    mean, best = searcher._probe(1).values()
    assert (mean, best) == (pytest.approx((looks + 1.5) / 100), (looks + 2) / 100)
    assert looks == 6 and len(seen) == 8
    for probe, controllers in zip(seen[looks:], seen, strict=False):
        np.testing.assert_array_equal(probe, controllers)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_trials": 0}, "`max_trials` must be"),
        ({"objective": "loss"}, "`objective` must be"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)


def test_a_collapsed_controller_is_reported(caplog):
    class Constant(EnasSearch):
        def reward(self, genes, images, labels):
            return 0.5

    searcher = prepared(Constant)
    only = np.tile(np.array([1, 0, 1], np.int32), (64, 1))
    searcher.controller.sample = lambda count, rng: only[:count]
    with caplog.at_level(logging.WARNING):
        metrics = searcher._train_controller(0)
    assert "collapsed: all 6 architectures of epoch 1 are the same" in caplog.text
    assert metrics["distinct"] == pytest.approx(1 / 6)
    assert metrics["baseline"] == 0.5


def test_a_search_whose_supernet_diverges_is_ranked_all_the_same_and_stops_and_says_where():
    searcher = make()
    recorder = Recorder()
    run(searcher, epochs=1)
    for variable in searcher.supernet.trainable_variables:
        variable.assign(np.full(variable.shape, np.nan))
    searcher.results = None
    assert searcher.finish()["val_accuracy"] == 0.0
    steps = len(batches(24, train=True))
    with pytest.raises(DivergedError, match=rf"no longer finite at step {steps + 1} .*learning rate .*norm") as error:
        run(searcher, epochs=2, callbacks=[recorder])
    assert error.value.divergence.step == steps
    assert error.value.divergence.norm > 0
    assert recorder.epochs == []


def test_batch_statistics_and_dropout_reach_the_supernet():
    config = EnasConfig(**{**CONFIG.to_json(), "reward_bn": "batch", "keep_prob": 0.75})
    supernet = make(config).supernet
    assert supernet.use_batch_statistics
    assert supernet.dropout_rate == 0.25
    assert not make().supernet.use_batch_statistics


def test_without_controller_steps_and_control_there_is_no_reward_to_report():
    config = EnasConfig(**{**CONFIG.to_json(), "controller_steps": 0, "random_control": False, "epochs": 1})
    results = run(make(config))
    assert results["mean_reward_first"] is None
    assert results["random_search_val_accuracy"] is None
    assert results["random_architectures_evaluated"] == 0
    assert results["val_accuracy"] >= 0


def test_random_control_draws_distinct_architectures_up_to_the_whole_space():
    searcher = make()
    assert len(distinct_rows(searcher._random_architectures(5))) == 5
    assert len(searcher._random_architectures(8)) == 8
    assert len(searcher._random_architectures(50)) == 8


def test_distinct_rows_keep_their_first_places():
    rows = np.array([[1, 0], [0, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(distinct_rows(rows), [[1, 0], [0, 1], [0, 0]])


def test_nan_scores_rank_last_and_equal_ones_keep_their_order():
    genotypes = [Genotype.from_genes(SPACE, genes) for genes in SPACE.enumerate()[:4]]
    trials = [Trial(g, score, "random") for g, score in zip(genotypes, (math.nan, 0.5, 0.9, 0.5), strict=True)]
    assert [trials.index(trial) for trial in rank(trials)] == [2, 1, 3, 0]


def test_a_trial_survives_json_with_any_score():
    genotype = Genotype.from_genes(SPACE, SPACE.enumerate()[5])
    trial = Trial(genotype, 0.1 + 0.2, "controller")
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
    failed = Trial.from_json(json.loads(json.dumps(Trial(genotype, math.nan, "random").to_json())))
    assert math.isnan(failed.score)
    assert failed.genotype == genotype


def test_generators_of_different_purposes_epochs_and_steps_differ():
    searcher = make()
    draws = {
        searcher.rng(stream, epoch, step).integers(2**62)
        for stream in (Stream.CHILD, Stream.CONTROLLER, Stream.FINAL_ARCHITECTURES)
        for epoch in range(3)
        for step in range(3)
    }
    assert len(draws) == 27


def test_precision_of_the_supernet_leaves_the_controller_in_float32():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        searcher = make()
    finally:
        keras.config.set_dtype_policy(before)
    assert {v.dtype for v in searcher.controller.likelihood.weights} == {"float32"}
    noise = np.full((64, 3), 0.501, np.float32)
    assert searcher.controller.sampler.predict_on_batch(noise)["log_prob"].dtype == np.float32


def test_saving_without_a_directory_says_what_is_missing():
    with pytest.raises(ValueError, match="needs `directory`"):
        make().save()
