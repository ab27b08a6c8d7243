"""The location-direction search on random images: the cycles, their streams, the candidates, the state."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math

import keras
import numpy as np
import pytest

from nhn_tf import training
from nhn_tf.data.batches import Batches, Normalization
from nhn_tf.data.splits import Split
from nhn_tf.models import network, weights
from nhn_tf.search import DirectionSearch, LocationSearch
from nhn_tf.search.addon_search import Stretch
from nhn_tf.settings.presets import PAPER, DirectionConfig, LocationConfig
from nhn_tf.training import DivergedError
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.locations import LocationSpace
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import Space
from tests.two_classes import SHAPE, Recorder, assert_same_arrays, batches, run, validation

SPACE = Space(num_layers=2, num_segments=1, ops=("conv3x3", "max_pool3x3"))  # sources of the two layers: 1 and 2
MASK = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
BASE = Genotype(SPACE, ("conv3x3", "max_pool3x3"), ((), (0,)), masks=Masks({"layer0_op": MASK}))
FORM = Form(filters=3)
SMALL = {"cycles": 2, "population": 4, "iterations": 2, "batch_size": 8, "fitness_batch_size": 8}
LOCATION = LocationConfig(**SMALL, none_probability=0.5)
DIRECTION = DirectionConfig(**SMALL, density=0.3)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    keras.utils.set_random_seed(3)
    return weights.to_arrays(network.build(BASE, **SHAPE, form=FORM))


def location(arrays, config: LocationConfig = LOCATION, kind=LocationSearch, **kwargs) -> LocationSearch:
    return kind(BASE, arrays, config, **{**SHAPE, "form": FORM, **kwargs})


@pytest.fixture(scope="module")
def located(arrays):
    searcher, recorder = location(arrays), Recorder()
    first = searcher.population.genes
    return searcher, recorder, run(searcher, callbacks=[recorder]), first


@pytest.fixture(scope="module")
def grown(located):
    """A genotype with two add-ons and its weights out of the location search."""
    searcher, *_ = located
    genotype = dataclasses.replace(BASE, addons=(Addon(0, 3, 0), Addon(1, 5, 1)))
    return genotype, searcher.supernet.network_arrays(genotype)


def direction(grown, config: DirectionConfig = DIRECTION, kind=DirectionSearch, **kwargs) -> DirectionSearch:
    genotype, arrays = grown
    return kind(genotype, arrays, config, **{**SHAPE, "form": FORM, **kwargs})


@pytest.fixture(scope="module")
def directed(grown):
    searcher, recorder = direction(grown), Recorder()
    return searcher, recorder, run(searcher, callbacks=[recorder])


def test_every_metric_says_which_way_is_better(located, directed):
    for searcher in (located[0], directed[0]):
        assert set(searcher.better) == {*searcher.history[0], "loss", "accuracy", "val_accuracy"}


# The streams.


def test_one_cycle_of_the_paper_with_all_images_training_touches_each_once():
    config = PAPER.lds_location
    # 50,000 images whose label is their number.
    split = Split(np.zeros((50_000, 1, 1, 1), np.uint8), np.arange(50_000, dtype=np.int32))
    stream = Batches(
        split,
        batch_size=config.batch_size,
        normalization=Normalization((0.5,), (0.5,)),
        shuffle=True,
        seed=0,
        drop_remainder=True,
    )
    orders = []
    for cycle in (0, 1, 299):
        seen = []
        for individual in range(config.population):
            number = cycle * config.population + individual
            stretch = Stretch(stream, number * config.iterations, config.iterations)
            seen += [stretch[index][1] for index in range(len(stretch))]
        assert [len(labels) for labels in seen] == [100] * 500
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(50_000))
        orders.append(np.concatenate(seen))
    assert not np.array_equal(orders[0], orders[1])
    assert config.cycles * config.population == 6000


def test_a_stretch_runs_on_over_the_ends_of_epochs():
    stream = batches(24, train=True)  # three batches an epoch
    stretch = Stretch(stream, 2, 3)
    for index, (epoch, number) in enumerate([(0, 2), (1, 0), (1, 1)]):
        np.testing.assert_array_equal(stretch[index][0], stream.batch(epoch, number)[0])
    for index in (-1, 3):
        with pytest.raises(IndexError, match="below 3"):
            stretch[index]


def test_individuals_train_and_are_measured_in_turn_on_streams_that_never_restart(arrays):
    calls = []

    class Spy(LocationSearch):
        def _train(self, genes, number):
            calls.append(("train", number, genes.tolist()))
            return 0.5, 0.5

        def fitness(self, genes, images, labels):
            calls.append(("measure", images, genes.tolist()))
            return 0.5

    searcher = location(arrays, dataclasses.replace(LOCATION, fitness_batches=2), Spy)
    searcher.prepare(batches(24, train=True), batches(24, train=False, seed=1), 2)
    codes = [searcher.population.genes.tolist()]
    searcher.run_epoch(0)
    codes.append(searcher.population.genes.tolist())
    searcher.run_epoch(1)
    kinds = [kind for kind, *_ in calls]
    assert kinds == ["train", "measure", "measure"] * 8
    assert [call[1] for call in calls if call[0] == "train"] == list(range(8))
    assert [call[2] for call in calls if call[0] == "train"] == codes[0] + codes[1]
    # 16 fitness batches of 8 out of 24 images: each run of three holds every image once.
    images = [call[1] for call in calls if call[0] == "measure"]
    for start in range(0, 15, 3):
        assert len(np.unique(np.concatenate(images[start : start + 3]).reshape(24, -1), axis=0)) == 24


def test_paired_individuals_of_a_cycle_are_measured_on_the_same_images(arrays):
    seen = []

    class Spy(LocationSearch):
        def _train(self, genes, number):
            return 0.5, 0.5

        def fitness(self, genes, images, labels):
            seen.append(images)
            return 0.5

    searcher = location(arrays, dataclasses.replace(LOCATION, fitness_batches=2, paired_fitness=True), Spy)
    searcher.prepare(batches(24, train=True), batches(24, train=False, seed=1), 2)
    searcher.run_epoch(0)
    searcher.run_epoch(1)
    first, second = np.stack(seen[:8]).reshape(4, 2, -1), np.stack(seen[8:]).reshape(4, 2, -1)
    for cycle in (first, second):
        assert (cycle == cycle[:1]).all()
        assert not np.array_equal(cycle[0, 0], cycle[0, 1])
    assert not np.array_equal(first[0], second[0])


# The location search.


def test_one_cycle_of_the_search_renews_the_population_by_rank(arrays):
    class Known(LocationSearch):
        def _train(self, genes, number):
            return 0.5, 0.5

        def fitness(self, genes, images, labels):
            return [0.2, 0.8, 0.4, 0.6][self.asked.pop(0)]

    searcher = location(arrays, kind=Known)
    searcher.asked = [0, 1, 2, 3]
    first = searcher.population.genes
    searcher.prepare(batches(24, train=True), validation(), 2)
    metrics = searcher.run_epoch(0)
    # Ranks: 1, 3, 2, 0. Of four, two survive, one is the crossover of ranks 1 and 2, one is new.
    np.testing.assert_array_equal(searcher.population.genes[:2], first[[1, 3]])
    child = searcher.population.genes[2]
    assert ((child == first[1]) | (child == first[3])).all()
    assert (metrics["best_fitness"], metrics["mean_fitness"], metrics["median_fitness"]) == (0.8, 0.5, 0.5)
    # On 8 images each: sqrt(0.2 * 0.8 / 8) twice, sqrt(0.4 * 0.6 / 8) twice.
    assert metrics["fitness_noise"] == pytest.approx((0.02**0.5 + 0.03**0.5) / 2)


def test_metrics_of_a_cycle(located):
    searcher, recorder, _, _ = located
    assert recorder.metrics == searcher.history
    assert recorder.steps == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
    names = {"train_loss", "train_accuracy", "lr", "best_fitness", "mean_fitness", "best_so_far", "base_accuracy"}
    for metrics in searcher.history:
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
        assert names <= metrics.keys()
        assert metrics["mean_fitness"] <= metrics["best_fitness"] <= metrics["best_so_far"]
    # One cosine over 2 cycles of 8 iterations: from lr_max, half way at the second cycle.
    assert searcher.history[0]["lr"] == pytest.approx(0.05)
    assert searcher.history[1]["lr"] == pytest.approx((0.05 + 0.001) / 2)


def test_location_results(located, arrays):
    searcher, _, results, _ = located
    assert results["evaluations"] == 8
    assert results["codes_ranked"] == results["random_codes_ranked"] <= 2
    assert results["random_search_val_accuracy"] >= results["random_search_mean_val_accuracy"]
    assert results["search_space_size"] == 4
    bare = network.build(BASE, **SHAPE, form=FORM)
    weights.from_arrays(bare, arrays)
    assert results["no_addons_val_accuracy"] == training.accuracy(bare, validation())
    best = searcher.get_best_trials(1)[0]
    assert best.score == results["val_accuracy"]
    assert {(c.figure, c.control, c.control_value) for c in searcher.comparisons} == {
        ("val_accuracy", "random search", results["random_search_val_accuracy"]),
        ("val_accuracy", "no add-ons", results["no_addons_val_accuracy"]),
        ("mean_val_accuracy", "random search", results["random_search_mean_val_accuracy"]),
    }
    assert best.source == "evolution"
    assert results["addons"] == len(best.genotype.addons) >= 1
    assert best.genotype.masks == BASE.masks
    survivors = {searcher.evolution.locations.to_addons(code) for code in searcher.population.genes[:2]}
    assert {t.genotype.addons for t in searcher.trials if t.source == "evolution"} == survivors
    assert [t.score for t in searcher.trials] == sorted((t.score for t in searcher.trials), reverse=True)


def test_survivors_and_random_codes_are_compared_on_equal_terms(located, arrays):
    """Each trains on the same batches from the same weights and optimizer state, and is as good alone as in company."""
    whole, recorder, results, _ = located
    searcher, heard, starts = location(arrays), Recorder(), []
    train = searcher._train

    def spy(genes, number):
        starts.append((number, searcher.state_arrays()))
        return train(genes, number)

    searcher._train = spy
    searcher.restore(*recorder.states[-1])
    assert run(searcher, callbacks=[heard]) == results
    assert len(starts) == len(searcher.trials) == results["codes_ranked"] + results["random_codes_ranked"]
    for number, state in starts:
        assert number == results["evaluations"]
        assert_same_arrays(state, recorder.states[-1][0])
    counts = {len({t.genotype for t in whole.trials if t.source == source}) for source in ("evolution", "random")}
    assert counts == {results["codes_ranked"]}
    assert heard.last_steps == [(n, len(starts)) for n in range(1, len(starts) + 1)]
    assert heard.steps == []
    last = searcher.trials[-1]
    assert searcher.compare([(last.genotype, last.source)]) == [last]


def test_the_best_location_carries_the_add_ons_it_was_measured_with(located):
    searcher, *_ = located
    genotype = searcher.get_best_genotypes(1)[0]
    own, shared = searcher.network_arrays(genotype), searcher.supernet.network_arrays(genotype)
    kernels = [path for path in own if path.startswith("addon") and path.endswith("conv/kernel")]
    assert len(kernels) == len(genotype.addons)
    for path in kernels:  # two more iterations of training
        assert not np.array_equal(own[path], shared[path])
    for path in own.keys() - {path for path in own if path.startswith("addon")}:
        np.testing.assert_array_equal(own[path], shared[path])
    with pytest.raises(ValueError, match="one of the search's trials"):
        searcher.network_arrays(BASE)


def test_random_codes_are_distinct(arrays):
    searcher = location(arrays)
    codes = searcher._random_codes(20)
    assert len(np.unique(codes, axis=0)) == len(codes) == 20
    assert len(searcher._random_codes(60)) <= searcher.evolution.locations.size_with_none() - 1


def test_the_best_location_is_a_network_that_scores_as_its_trial(located):
    searcher, *_ = located
    trial = searcher.get_best_trials(1)[0]
    assert training.accuracy(searcher.get_best_models(1)[0], validation()) == trial.score


def test_the_base_is_bit_identical_after_both_searches(located, directed, arrays):
    for searcher in (located[0], directed[0]):
        after = searcher.supernet.base_variables
        assert after.keys() == arrays.keys()
        for path, variable in after.items():
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), arrays[path], err_msg=path)
        assert not [v.path for v in searcher.supernet.optimizer.variables if "layer0_op_kernel" in v.path]


def test_location_search_restored_after_a_cycle_ends_as_if_never_interrupted(located, arrays):
    searcher, recorder, results, _ = located
    resumed = location(arrays)
    resumed.restore(*recorder.states[0])
    assert_same_arrays(resumed.state_arrays(), recorder.states[0][0])
    assert run(resumed) == results
    assert resumed.history == searcher.history
    assert resumed.trials == searcher.trials
    assert_same_arrays(resumed.state_arrays(), searcher.state_arrays())


@pytest.mark.slow
@pytest.mark.parametrize("count", [6, 10])
def test_location_search_goes_on_after_an_exception_amid_an_individual(located, arrays, count, monkeypatch):
    """Individual 6 is one of the second cycle; 10 is a final candidate."""
    whole, _, results, _ = located
    searcher, turns = location(arrays), itertools.count(1)
    train = searcher._train

    def interrupted(*args):
        trained = train(*args)
        if next(turns) == count:
            raise KeyboardInterrupt
        return trained

    monkeypatch.setattr(searcher, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(searcher)
    assert run(searcher) == results
    assert searcher.history == whole.history
    assert_same_arrays(searcher.state_arrays(), whole.state_arrays())


def test_a_finished_location_search_is_restored_with_its_result(located, arrays, tmp_path):
    searcher, _, results, _ = located
    saved = location(arrays, directory=tmp_path)
    saved.restore(searcher.state_arrays(), json.loads(json.dumps(searcher.state_values())))
    saved.save()
    again = location(arrays, directory=tmp_path)
    assert again.reload()
    assert again.finish() == results
    assert again.trials == searcher.trials
    genotype = searcher.get_best_genotypes(1)[0]
    assert_same_arrays(again.network_arrays(genotype), searcher.network_arrays(genotype))


def test_the_first_population_depends_on_the_seed_alone(located, arrays):
    np.testing.assert_array_equal(location(arrays).population.genes, located[3])
    assert not np.array_equal(location(arrays, seed=1).population.genes, located[3])


def test_the_state_of_another_search_is_refused(located, arrays):
    _, recorder, _, _ = located
    with pytest.raises(ValueError, match="state is of another seed"):
        location(arrays, seed=1).restore(*recorder.states[0])
    other = {**arrays, "stem_conv/kernel": arrays["stem_conv/kernel"] + 1}
    with pytest.raises(ValueError, match="state is of another base network"):
        location(other).restore(*recorder.states[0])


def test_fitness_that_is_not_a_number_ranks_last_and_is_reported(arrays, caplog):
    class Failing(LocationSearch):
        def _train(self, genes, number):
            return 0.5, 0.5

        def fitness(self, genes, images, labels):
            self.asked += 1
            return math.nan if self.asked == 1 else 0.25

    searcher = location(arrays, kind=Failing)
    searcher.asked = 0
    first = searcher.population.genes
    searcher.prepare(batches(24, train=True), validation(), 2)
    with caplog.at_level(logging.WARNING):
        metrics = searcher.run_epoch(0)
    assert metrics["nan_fitness"] == 1
    assert metrics["best_fitness"] == metrics["mean_fitness"] == 0.25
    assert metrics["fitness_noise"] == pytest.approx((0.25 * 0.75 / 8) ** 0.5)
    assert "1 of 4 fitnesses in cycle 1 are NaN" in caplog.text
    np.testing.assert_array_equal(searcher.population.genes[:2], first[1:3])
    searcher.fitness = lambda *_: math.nan
    metrics = searcher.run_epoch(1)
    assert metrics["nan_fitness"] == 4
    assert math.isnan(metrics["best_fitness"]) and math.isnan(metrics["fitness_noise"])


@pytest.mark.parametrize(("count", "images"), [(2, 16), (5, 24)])
def test_images_that_a_fitness_has_twice_lessen_its_noise_once(arrays, count, images):
    class Known(LocationSearch):
        def _train(self, genes, number):
            return 0.5, 0.5

        def fitness(self, genes, images, labels):
            return 0.5

    searcher = location(arrays, dataclasses.replace(LOCATION, fitness_batches=count), Known)
    searcher.prepare(batches(24, train=True), batches(24, train=False, seed=1), 2)
    assert searcher.run_epoch(0)["fitness_noise"] == pytest.approx((0.25 / images) ** 0.5)
    searcher.fitness = lambda *_: 1.5  # no share of images
    assert math.isnan(searcher.run_epoch(1)["fitness_noise"])


def test_a_search_whose_add_ons_diverge_stops_and_says_where(arrays):
    searcher = location(arrays)
    searcher.prepare(batches(24, train=True), validation(), 2)
    for variable in searcher.supernet.trainable_variables:
        variable.assign(np.full(variable.shape, np.nan))
    with pytest.raises(DivergedError, match="no longer finite at step 1 "):
        searcher.run_epoch(0)


def test_without_iterations_and_control_codes_are_only_measured(arrays):
    config = dataclasses.replace(LOCATION, iterations=0, random_control=False, cycles=1)
    searcher = location(arrays, config)
    before = searcher.supernet.addon_variables
    before = {path: keras.ops.convert_to_numpy(v).copy() for path, v in before.items()}
    results = run(searcher)
    assert results["random_search_val_accuracy"] is None
    # Add-ons that nobody trained change nothing.
    assert results["val_accuracy"] == results["no_addons_val_accuracy"]
    for path, variable in searcher.supernet.addon_variables.items():
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), before[path])


def test_summaries(located, directed, capsys):
    located[0].search_space_summary()
    located[0].results_summary(1)
    directed[0].search_space_summary()
    printed = capsys.readouterr().out
    assert "locations: 4 with an add-on everywhere, 36 in all" in printed
    assert "Results after 2 cycles" in printed
    assert "connections of 2 add-ons at density 0.3" in printed
    assert "layer 0: 3x3 from the segment's input" in printed
    assert "layer 1: 5x5 from layer 0" in printed


def test_the_papers_search_space_has_the_size_that_the_paper_states():
    assert f"{LocationSpace(Space()).size():.3g}" == "1.91e+08"


# The direction search.


def test_directions_keep_the_density_and_depend_on_seed_and_cycle(directed, grown):
    searcher, *_ = directed
    masks = searcher.directions(0)
    assert {name: mask.shape for name, mask in masks.items()} == {"addon0_conv": (4, 3, 3), "addon1_conv": (4, 3, 3)}
    for mask in masks.values():
        assert mask.sum(axis=(1, 2)).tolist() == [3] * 4  # 0.3 of 9, rounded
    assert_same_arrays(searcher.directions(0), masks)
    assert not np.array_equal(searcher.directions(1)["addon0_conv"], masks["addon0_conv"])
    assert not np.array_equal(masks["addon0_conv"], masks["addon1_conv"])
    assert not np.array_equal(direction(grown, seed=1).directions(0)["addon0_conv"], masks["addon0_conv"])


def test_direction_search_starts_from_the_location_searchs_add_ons(grown):
    searcher = direction(grown)
    for path, variable in searcher.supernet.addon_variables.items():
        if not path.endswith("/masks"):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), grown[1][path], err_msg=path)


def test_the_two_candidates_and_the_winner(directed, grown):
    searcher, _, results = directed
    assert {trial.source for trial in searcher.trials} == {"best seen", "strongest"}
    best, other = searcher.get_best_trials(2)
    assert best.score >= other.score
    assert (results["winner"], results["val_accuracy"]) == (best.source, best.score)
    assert (results["addon_kernels_kept"], results["addon_kernels"]) == (6, 18)
    trials = {trial.source: trial.genotype for trial in searcher.trials}
    seen = searcher.directions(searcher.best_seen["cycle"])
    for name in ("addon0_conv", "addon1_conv"):
        np.testing.assert_array_equal(trials["best seen"].masks[name], seen[name][searcher.best_seen["individual"]])
        spread = searcher.supernet.kernels[name].std(axis=(0, 1))
        mask = trials["strongest"].masks[name]
        assert mask.sum() == 3
        assert spread[mask].min() > spread[~mask].max()
    for genotype in trials.values():
        assert genotype.addons == grown[0].addons
        np.testing.assert_array_equal(genotype.masks["layer0_op"], MASK)
    assert searcher.best_seen["fitness"] == max(metrics["best_fitness"] for metrics in searcher.history)


def test_candidates_are_networks_that_score_as_their_trials_and_hold_zeros_outside_the_masks(directed):
    searcher, *_ = directed
    for trial, model in zip(searcher.get_best_trials(2), searcher.get_best_models(2), strict=True):
        assert training.accuracy(model, validation()) == trial.score
        for name, mask in trial.genotype.masks.items():
            kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
            assert (kernel[:, :, ~mask] == 0).all()
            assert (kernel[:, :, mask] != 0).any()


def test_comparing_the_candidates_leaves_the_shared_weights_alone(located, directed):
    for searcher, recorder in (located[:2], directed[:2]):
        last = recorder.states[-1][0]
        now = searcher.state_arrays()
        assert_same_arrays({name: now[name] for name in last}, last)
        added = {"ranked", *(f"candidate{number}" for number in range(len(searcher.trials)))}
        assert {name.partition(":")[0] for name in now.keys() - last.keys()} == added


def test_direction_search_restored_after_a_cycle_ends_as_if_never_interrupted(directed, grown):
    searcher, recorder, results = directed
    resumed = direction(grown)
    resumed.restore(*recorder.states[0])
    assert run(resumed) == results
    assert resumed.history == searcher.history
    assert resumed.trials == searcher.trials
    assert_same_arrays(resumed.state_arrays(), searcher.state_arrays())


def test_a_finished_direction_search_is_restored_with_its_result(directed, grown):
    searcher, _, results = directed
    again = direction(grown)
    again.restore(searcher.state_arrays(), json.loads(json.dumps(searcher.state_values())))
    assert again.finish() == results
    assert again.trials == searcher.trials
    genotype = searcher.get_best_genotypes(1)[0]
    assert_same_arrays(again.network_arrays(genotype), searcher.network_arrays(genotype))
    with pytest.raises(ValueError, match="one of the search's trials"):
        again.network_arrays(BASE)


def test_a_direction_that_could_not_be_measured_is_never_the_best(grown):
    searcher = direction(grown)
    assert searcher.learn(0, np.full(4, np.nan)) == {}
    assert searcher.best_seen is None
    searcher.learn(1, np.array([np.nan, 0.25, 0.5, 0.5]))
    searcher.learn(2, np.array([0.5, np.nan, 0.1, 0.0]))
    assert searcher.best_seen == {"cycle": 1, "individual": 2, "fitness": 0.5}


def test_a_direction_search_without_add_ons_is_refused(arrays):
    with pytest.raises(ValueError, match="needs add-on locations"):
        direction((BASE, arrays))


def test_history_holds_every_individual_with_its_fitness_and_both_kinds_of_candidates(located, directed):
    for searcher, _ in (located[:2], directed[:2]):
        assert searcher.measured.tags.tolist() == [0] * 4 + [1] * 4
        for cycle, metrics in enumerate(searcher.history):
            fitness = searcher.measured.scores[searcher.measured.tags == cycle]
            assert (fitness.max(), fitness.mean()) == (metrics["best_fitness"], pytest.approx(metrics["mean_fitness"]))
        assert searcher.get_ranked_trials() == searcher.trials
        assert searcher.remaining_trials == 0
    np.testing.assert_array_equal(located[0].measured.genes[:4], located[3])
    assert directed[0].measured.genes.tolist() == [[0], [1], [2], [3]] * 2
    seen = located[0].evolution.locations.to_addons(located[0].measured.genes[located[0].measured.scores.argmax()])
    assert seen  # a code of the space


@pytest.mark.slow
def test_keras_stops_a_location_search_which_is_ranked_as_if_it_had_not_been_killed_then(located, arrays, tmp_path):
    class Killed(Exception):
        pass

    class Killer:
        def on_epoch_end(self, searcher, epoch, metrics):
            raise Killed

    def stopping():
        return keras.callbacks.EarlyStopping("lr", mode="max", patience=1)

    def search(directory, *more):
        config = dataclasses.replace(LOCATION, cycles=3)
        searcher = location(arrays, config, directory=directory)
        return searcher, lambda: run(searcher, callbacks=[stopping(), *more])

    whole, go = search(None)
    results = go()
    assert (whole.epoch, whole.stopped_of) == (2, 3)
    for _ in range(2):
        _, go = search(tmp_path, Killer())
        with pytest.raises(Killed):
            go()
    resumed, go = search(tmp_path)
    assert resumed.epoch == 2
    assert go() == results  # ranked by the learning rate of three cycles, without another one
    assert resumed.history == whole.history
    ours, theirs = resumed.state_arrays(), whole.state_arrays()
    assert_same_arrays(ours, theirs)


def test_weights_of_another_form_ask_for_it(arrays):
    with pytest.raises(ValueError, match=r"`form` must be .* its stem has 3 filters.*Give form=Form\(filters=3"):
        LocationSearch(BASE, arrays, LOCATION, **SHAPE)
    with pytest.raises(ValueError, match="Give the `form` that the network was built with"):
        location(arrays, form=Form(filters=3, layer_form="direct"))


@pytest.mark.slow
@pytest.mark.jax_slow
def test_both_searches_end_to_end():
    genotype = dataclasses.replace(BASE, masks=None)
    keras.utils.set_random_seed(0)
    arrays = weights.to_arrays(network.build(genotype, **SHAPE, form=FORM))
    config = {**SMALL, "cycles": 1, "population": 2}
    first = LocationSearch(genotype, arrays, LocationConfig(**config), **SHAPE, form=FORM)
    assert 0 <= run(first)["val_accuracy"] <= 1
    best = first.get_best_genotypes(1)[0]
    second = DirectionSearch(best, first.network_arrays(best), DirectionConfig(**config), **SHAPE, form=FORM)
    assert 0 <= run(second)["val_accuracy"] <= 1
    assert set(second.get_best_genotypes(1)[0].masks) == {f"addon{n}_conv" for n in range(len(best.addons))}
