"""Objectives of the architecture search: what a network costs, and how cost weighs against accuracy."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from nhn_tf import stages
from nhn_tf.errors import UserError
from nhn_tf.models import complexity, network
from nhn_tf.models.derived_cost import derived_cost
from nhn_tf.report import pareto
from nhn_tf.runs import RunDirectory
from nhn_tf.search import EnasSearch, latency
from nhn_tf.search.latency import Latencies
from nhn_tf.search.objective import Objective
from nhn_tf.settings import EnasConfig
from nhn_tf.sparse.native import machine
from nhn_tf.stages import pipeline
from nhn_tf.storage import files
from nhn_tf.values import space as spaces
from nhn_tf.values.comparison import Comparison
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import Space
from tests.conftest import smoke_settings
from tests.two_classes import SHAPE, run

FORMS = {
    "mixed": Form(6),
    "release": Form(6, layer_form="release"),
    "direct": Form(6, layer_form="direct"),
    "average pooling": Form(6, reduction="avg_pool", width_growth=3),
    "separable": Form(6, separable_as_dense=False),
}
"""Every way in which a form changes what a network costs."""


def genotypes(space, count, seed=0):
    return [Genotype.from_genes(space, genes) for genes in space.sample(np.random.default_rng(seed), count)]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_cost_is_that_of_the_network_when_it_is_built(form):
    for genotype in genotypes(Space(6, 3), 3):
        shape = {"input_shape": (16, 8, 3), "num_classes": 7, "form": form}
        assert derived_cost(genotype, **shape) == complexity.model_cost(network.build(genotype, **shape))


def test_a_cost_after_pruning_is_that_of_a_network_with_as_many_kernels_masked():
    genotype = Genotype(Space(3, 3), ("conv3x3", "sep_conv5x5", "avg_pool3x3"), ((), (0,), (1,)))
    shape = {"input_shape": (8, 8, 3), "num_classes": 5, "form": Form(4)}
    masks = {}
    for name, width in (("layer0_op", 4), ("layer1_op", 8)):
        mask = np.zeros((width, width), bool)
        mask[:, : width // 4] = True
        masks[name] = mask
    pruned = dataclasses.replace(genotype, masks=Masks(masks))
    assert derived_cost(genotype, **shape, sparsity=0.75) == complexity.model_cost(network.build(pruned, **shape))


def test_ops_of_ones_own_are_counted(monkeypatch):
    monkeypatch.setattr(spaces, "_own", {})
    spaces.register_op("seven", lambda filters, name: keras.layers.Conv2D(
        filters, (1, 7), padding="same", use_bias=False, name=name))  # fmt: skip
    spaces.register_op("dilated", lambda filters, name: keras.layers.Conv2D(
        filters, 3, dilation_rate=2, padding="same", name=name))  # fmt: skip
    genotype = Genotype(Space(2, 1, ("seven", "dilated")), ("seven", "dilated"), ((), (0,)))
    shape = {"input_shape": (4, 4, 1), "num_classes": 3, "form": Form(4)}
    assert derived_cost(genotype, **shape) == complexity.model_cost(network.build(genotype, **shape))
    masks = Masks({"layer1_op": np.tile(np.arange(4) == 0, (4, 1))})  # as full convolutions are, one's own are pruned
    pruned = network.build(dataclasses.replace(genotype, masks=masks), **shape)
    assert derived_cost(genotype, **shape, sparsity=0.75) == complexity.model_cost(pruned)


def test_a_convolution_of_ones_own_is_taken_to_be_pruned_as_the_stages_prune_it(monkeypatch):
    monkeypatch.setattr(spaces, "_own", {})
    spaces.register_op("dilated", lambda filters, name: keras.layers.Conv2D(
        filters, 3, dilation_rate=2, padding="same", name=name))  # fmt: skip
    genotype = Genotype(Space(1, 1, ("dilated",)), ("dilated",), ((),))
    shape = {"input_shape": (8, 8, 3), "num_classes": 5, "form": Form(4)}
    pruned = dataclasses.replace(genotype, masks=Masks({"layer0_op": np.eye(4, dtype=bool)}))  # 4 of 16 kernels
    assert derived_cost(genotype, **shape, sparsity=0.75) == complexity.model_cost(network.build(pruned, **shape))

    timed = []
    monkeypatch.setattr(latency.sparse, "compile", lambda model, **options: timed.append(model))
    latency._compiled(genotype, shape, 0.75, np.random.default_rng(0))
    assert 0 < keras.ops.sum(timed[0].get_layer("layer0_op").mask) < 10


CONFIG = EnasConfig(
    num_layers=3, ops=("conv3x3", "conv5x5", "max_pool3x3"), supernet_filters=4, epochs=2, batch_size=8, cutout=0,
    lr_period_epochs=0, controller_steps=3, samples_per_step=4, reward_batch_size=8, final_samples=8, top_k=2,
)  # fmt: skip

SMALL = dataclasses.replace(CONFIG, num_layers=2, num_segments=2, ops=("conv3x3", "max_pool3x3"))


def objective(**changes):
    return Objective(dataclasses.replace(CONFIG, **changes), (8, 8, 3), 2)


def test_without_cost_the_objective_is_the_accuracy():
    (genotype,) = genotypes(CONFIG.space, 1)
    assert objective()(genotype, 0.75) == 0.75


def test_the_score_is_the_papers():
    (genotype,) = genotypes(CONFIG.space, 1)
    weighing = objective(objective="score")
    assert weighing(genotype, 0.9) == 1 - complexity.score(10, weighing.cost(genotype) / 1e6) / 50
    assert weighing(genotype, 0.9) == pytest.approx(0.9, abs=1e-4)  # nearly nothing of a million


@pytest.mark.parametrize(("name", "figure"), [("params", "live_params"), ("flops", "live_flops")])
def test_at_equal_accuracy_the_cheaper_network_is_better_by_the_power_of_its_cost(name, figure):
    weighing = objective(objective=name, cost_target=1000.0, cost_weight=0.5)
    first, second = genotypes(CONFIG.space, 2)
    costs = [getattr(weighing.network_cost(genotype), figure) for genotype in (first, second)]
    assert costs[0] != costs[1]
    assert weighing(first, 0.5) / weighing(second, 0.5) == pytest.approx(math.sqrt(costs[1] / costs[0]))
    assert weighing(first, 0.5) == pytest.approx(0.5 * math.sqrt(1000 / costs[0]))


def test_a_target_that_is_not_given_is_what_random_architectures_cost():
    weighing = objective(objective="params")
    costs = [weighing.cost(genotype) for genotype in genotypes(CONFIG.space, 400)]
    assert weighing.target == pytest.approx(np.mean(costs), rel=0.1)
    assert weighing.target == objective(objective="params").target


def test_latencies_are_measured_once_and_travel_with_the_state(monkeypatch):
    pytest.importorskip("llvmlite")
    searcher = make(dataclasses.replace(SMALL, objective="latency", epochs=1, controller_steps=1))
    run(searcher)
    latencies = searcher.weighing.latencies
    assert latencies.plain > 0
    assert set(latencies.ops[0]) == {"max_pool3x3"} and len(latencies.ops) == len(latencies.skips) == 2
    for trial in searcher.get_ranked_trials():
        assert trial.score == trial.accuracy * (searcher.weighing.target / latencies(trial.genotype)) ** 0.07
    monkeypatch.setattr(Latencies, "measure", None)  # whoever calls it now fails
    again = make(searcher.config)
    again.restore(searcher.state_arrays(), json.loads(json.dumps(searcher.state_values())))
    assert again.weighing.latencies == latencies
    run(again)


@pytest.fixture
def without_llvmlite(monkeypatch, tmp_path):
    """A run that holds something, and settings of a search by latency that are to replace it."""

    def missing(model, **options):
        raise machine.MissingLLVMError("llvmlite is not installed")

    monkeypatch.setattr(latency.sparse, "compile", missing)
    run = RunDirectory(tmp_path / "run")
    left = run.stage("enas").path / "left"
    left.parent.mkdir(parents=True)
    left.touch()
    yield run, dataclasses.replace(smoke_settings("enas", objective="latency"), overwrite=True)
    assert left.exists()


def test_without_llvmlite_a_search_by_latency_is_refused_before_anything_is_discarded(without_llvmlite):
    directory, settings = without_llvmlite
    with pytest.raises(UserError, match="llvmlite"):
        stages.run("enas", directory, settings)


@pytest.mark.slow
def test_without_llvmlite_a_pipeline_by_latency_is_refused_before_anything_is_discarded(without_llvmlite):
    directory, settings = without_llvmlite
    with pytest.raises(UserError, match="stage 'enas': llvmlite"):
        pipeline.run(directory, {"enas": settings}, overwrite=True)


def test_an_op_that_the_sparse_runtime_does_not_know_is_refused_for_latency_alone(monkeypatch):
    pytest.importorskip("llvmlite")
    monkeypatch.setattr(spaces, "_own", {})

    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    spaces.register_op("doubled", lambda filters, name: Doubled(name=name), batch_norm=False)
    objective(objective="flops", ops=("conv3x3", "doubled")).check()
    with pytest.raises(UserError, match="`objective`=latency times networks .*Doubled.* not supported"):
        objective(objective="latency", ops=("conv3x3", "doubled")).check()


def test_weights_of_cost_that_overflow_the_controllers_gradient_are_out_of_range():
    with pytest.raises(ValueError, match="`cost_weight` .*Received: 10"):
        dataclasses.replace(CONFIG, objective="params", cost_target=1e15, cost_weight=10)
    searcher = make(dataclasses.replace(CONFIG, objective="params", cost_target=1e15, cost_weight=1))
    genes = searcher.controller.sample(4, np.random.default_rng(0))
    rewards = np.array([searcher.weighing(searcher.decode(row), 1.0) for row in genes])
    logs = searcher.controller.update(genes, searcher.controller.advantages(rewards))
    assert all(map(math.isfinite, logs.values()))
    assert all(np.isfinite(array).all() for array in searcher.controller.state_arrays().values())


def test_a_networks_latency_is_that_of_its_layers():
    table = Latencies(1.0, [{"conv5x5": 0.5}, {"conv5x5": 0.25}], [0.125, 0.0625])
    space = Space(4, 2, ("conv3x3", "conv5x5"))
    genotype = Genotype(space, ("conv5x5", "conv3x3", "conv5x5", "conv5x5"), ((), (0,), (0, 1), (2,)))
    assert table(genotype) == 1 + 0.5 + 0.125 + 2 * 0.25 + 3 * 0.0625
    assert Latencies(1.0, [{"conv5x5": -2.0}, {}], [0, 0])(genotype) == 0.1


@pytest.mark.slow
def test_wider_layers_and_more_skips_take_longer():
    pytest.importorskip("llvmlite")
    table = Latencies.measure(
        Space(3, 3, ("conv3x3", "conv5x5")), form=Form(32), input_shape=(32, 32, 3), num_classes=10, sparsity=0.5
    )
    assert all(ops["conv5x5"] > 0 for ops in table.ops)
    assert table.skips[0] == 0 and min(table.skips[1:]) > 0


def test_the_width_that_counts_is_the_supernets_or_the_one_given():
    (genotype,) = genotypes(CONFIG.space, 1)
    narrow, wide = objective(objective="params"), objective(objective="params", cost_filters=8)
    assert wide.cost(genotype) > 3 * narrow.cost(genotype)


def make(config, **options):
    return EnasSearch(config.space, config, **SHAPE, **options)


def test_a_search_ranks_by_what_it_weighs_and_keeps_accuracy_beside_it():
    searcher = make(dataclasses.replace(SMALL, objective="flops", cost_weight=0.5, epochs=1))
    run(searcher)
    trials = searcher.get_ranked_trials()
    assert {trial.source for trial in trials} == {"controller", "random"}
    for trial in trials:
        assert trial.score == searcher.weighing(trial.genotype, trial.accuracy)
    assert trials[0].score == max(trial.score for trial in trials)
    best = searcher.get_best_trials(1)[0]
    assert searcher.results["best_accuracy"] == best.accuracy
    assert searcher.results["best_cost"] == searcher.weighing.network_cost(best.genotype).live_flops
    compared = {comparison.figure for comparison in Comparison.read(searcher.results)}
    assert compared == {"val_reward", "mean_val_reward"}

    again = make(searcher.config)
    again.restore(searcher.state_arrays(), searcher.state_values())
    assert again.get_ranked_trials() == trials


def test_the_controller_learns_what_costs_less():
    # Accuracy is held still, so that cost alone can teach it.
    config = dataclasses.replace(
        CONFIG, objective="params", cost_weight=1.0, controller_lr=0.02, skip_weight=0.0, entropy_weight=0.0
    )
    searcher = make(config)
    cost = searcher.weighing.cost
    before = np.mean([cost(genotype) for genotype in searcher.sample(100, seed=1)])
    for step in range(60):
        genes = searcher.controller.sample(8, np.random.default_rng(step))
        rewards = np.array([searcher.weighing(searcher.decode(row), 0.5) for row in genes])
        searcher.controller.update(genes, searcher.controller.advantages(rewards))
    after = np.mean([cost(genotype) for genotype in searcher.sample(100, seed=1)])
    assert after < 0.6 * before


def test_a_cost_is_weighed_against_nothing_but_accuracy():
    config = dataclasses.replace(CONFIG, objective="params")
    with pytest.raises(ValueError, match="`reward` is made of the accuracy: leave `objective` out.*'params'"):
        make(config, reward=lambda genotype, accuracy: accuracy)
    with pytest.raises(ValueError, match="`config.objective`=params weighs accuracy, not val_loss"):
        make(config, objective="val_loss")


def test_the_front_has_what_no_other_beats_in_both():
    rows = [(10, 0.5, "a"), (10, 0.6, "b"), (20, 0.6, "a"), (30, 0.9, "a"), (40, 0.8, "b"), (5, 0.1, "b")]
    assert pareto.front(rows) == [(5, 0.1, "b"), (10, 0.6, "b"), (30, 0.9, "a")]


@pytest.mark.parametrize("row", ["controller,0.5,nan", "controller,inf,10", "nobody,0.5,10", "random,0.5,ten"])
def test_a_table_of_trials_that_no_search_leaves_is_damaged(row, tmp_path):
    stage = RunDirectory(tmp_path).stage("enas")
    stage.path.mkdir()
    files.write_sealed(stage / "config.json", {"config": {}})
    (stage / "trials.csv").write_text(f"source,accuracy,live_params\ncontroller,0.25,10\n{row}\n")
    with pytest.raises(files.DamagedFileError, match="trials.csv has no readable costs"):
        pareto.collect(stage)


def test_the_report_has_the_front_of_what_the_stage_ranked(smoke_run):
    value = pareto.collect(smoke_run.stage("enas"))
    trials = smoke_run.stage("enas").trials
    assert sum(value["computed"]["ranked"].values()) == len(trials)
    best = max(float(trial["accuracy"]) for trial in trials)
    assert value["computed"]["front"][-1][1] == best
    assert value["computed"]["front"][0][0] == min(int(trial["live_params"]) for trial in trials)
    assert pareto.draw(smoke_run.stage("enas")) is not None
