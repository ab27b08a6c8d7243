"""What TensorBoard shows of a run: stages overlay, the HParams table, pictures; the table in docs/tensorboard.md."""

import dataclasses
import fnmatch
import itertools
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from nhn_tf import stages
from nhn_tf.report import choices, drawing, figures
from nhn_tf.runs.board import Board
from nhn_tf.runs.event_writer import EventWriter
from nhn_tf.runs.monitor import Monitor
from nhn_tf.search.history import History
from nhn_tf.settings import PRESETS
from nhn_tf.stages import networks, showing
from nhn_tf.stages.feed import load_feed
from nhn_tf.stages.recording import FitRecorder, Saver
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.locations import LocationSpace
from nhn_tf.values.space import Space
from tests import events
from tests.conftest import STAGES, before, smoke_settings

ROOT = Path(__file__).resolve().parent.parent
JAX_SLOW = pytest.mark.jax_slow
SLOW = pytest.mark.slow


COMPARED = ("test_error", "live_params", "score", "val_accuracy", "live_flops", "kernel_sparsity")
"""Figures of done.json that are columns of the HParams table."""


# The table of docs/tensorboard.md.


def documented():
    """(stages, runs, tags, kind, points) of each row; tags are None where they are the stage's figures."""
    lines = (ROOT / "docs" / "tensorboard.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    for names, runs, tags, kind, points in rows[2:]:
        chosen = STAGES if names == "all" else names.split()
        patterns = None if tags.startswith("`figures/`") else re.findall(r"`(.+?)`", tags)
        yield chosen, re.findall(r"`(.+?)`", runs) or [""], patterns, kind, points


def _numbers(metrics):
    return [f"figures/{name}" for name, value in metrics.items() if isinstance(value, (int, float))]


def wanted(points, settings):
    """The least and the largest number of points that the table admits."""
    epochs = getattr(settings.config, "epochs", None) or getattr(settings.config, "cycles", None)
    if points == "epochs":
        return epochs, epochs
    if points == "candidates":
        return 1, 1000
    number, _, bound = points.partition(" ")
    return (1 if bound else int(number)), int(number)


def test_the_table_lists_every_run_and_tag_of_a_run_and_no_other(smoke_run):
    found = {stage: events.read(smoke_run.stage(stage) / "tensorboard") for stage in STAGES}
    told = {(stage, *key): 0 for stage in STAGES for key in found[stage]}
    for names, runs, patterns, kind, points in documented():
        for stage, run in itertools.product(names, runs):
            metrics = smoke_run.stage(stage).metrics
            least, most = wanted(points, smoke_settings(stage))
            for pattern in _numbers(metrics) if patterns is None else patterns:
                fitting = [key for key in found[stage] if key[0] == run and fnmatch.fnmatchcase(key[1], pattern)]
                assert fitting, (stage, run, pattern)
                for key in fitting:
                    assert found[stage][key][0] == kind, (stage, key)
                    assert least <= len(found[stage][key][1]) <= most, (stage, key)
                    told[(stage, *key)] += 1
    assert {key: count for key, count in told.items() if count != 1} == {}


@JAX_SLOW
def test_stages_and_their_train_and_validation_have_the_same_tags_in_one_chart_each(smoke_run):
    for stage in ("base", "pruned"):
        found = events.read(smoke_run.stage(stage) / "tensorboard")
        rows = smoke_run.stage(stage).history
        for tag, column in (("epoch_loss", "loss"), ("epoch_accuracy", "accuracy")):
            for run, prefix in (("train", ""), ("validation", "val_")):
                points = found[run, tag][1]
                assert [point.step for point in points] == list(range(1, len(rows) + 1))
                expected = [row[prefix + column] for row in rows]
                np.testing.assert_allclose([point.value for point in points], expected, rtol=1e-6)


@JAX_SLOW
def test_a_finished_stage_is_a_row_of_the_hparams_table(smoke_run):
    from google.protobuf import json_format
    from tensorboard import context
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(smoke_run.path))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(smoke_run.path))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, include_metrics=True,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN],
    )  # fmt: skip
    handler = list_session_groups.Handler(context.RequestContext(), backend, "", request)
    groups = [json_format.MessageToDict(group) for group in handler.run().session_groups]
    rows = {group["hparams"]["stage"]: group for group in groups}
    assert set(rows) == set(STAGES)
    for stage, group in rows.items():
        settings, metrics = smoke_settings(stage), smoke_run.stage(stage).metrics
        for name, value in {"preset": "smoke", "seed": 0, **settings.config.to_json()}.items():
            assert group["hparams"][name] == (", ".join(value) if isinstance(value, list) else value)
        shown = {value["name"]["tag"].removeprefix("figures/"): value["value"] for value in group["metricValues"]}
        assert shown == pytest.approx({name: metrics[name] for name in COMPARED if name in metrics})
        assert group["sessions"][0]["status"] == "STATUS_SUCCESS"


def test_texts_tell_the_command_and_the_genotype(smoke_run):
    found = events.read(smoke_run.stage("final") / "tensorboard")
    [(_, command)], [(_, genotype)] = found["", "command"][1], found["", "genotype"][1]
    assert command.startswith(f"    python train.py --stage=final --model_dir={smoke_run.path} --preset=smoke")
    left = smoke_run.stage("final").genotype()
    assert genotype.count("add-on of layer") == len(left.addons) > 0
    first = genotype.split("    add-on")[0]
    assert Genotype.from_enas_text(first, left.space) == dataclasses.replace(left.without_addons(), masks=None)


@JAX_SLOW
def test_the_graph_has_every_layer_with_its_inputs_and_shape(smoke_run):
    from tensorboard.backend.event_processing import plugin_event_accumulator

    stage = smoke_run.stage("final")
    reader = plugin_event_accumulator.EventAccumulator(str(stage / "tensorboard" / "train"))
    reader.Reload()
    shown = {node.name: node for node in reader.Graph().node}
    model = networks.inherited(stage, load_feed(smoke_settings("final")).data)
    assert set(shown) == {layer.name for layer in model.layers}
    assert all(parent in shown for node in shown.values() for parent in node.input)
    logits = shown[model.output_names[0]]
    assert logits.op == "Dense" and len(logits.input) == 1
    assert [dim.size for dim in logits.attr["_output_shapes"].list.shape[0].dim] == [-1, 10]


@JAX_SLOW
def test_a_graph_is_shown_once_however_often_a_training_goes_on(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for first_step in (0, 0, 3):  # twice from the beginning
        board = Board(tmp_path, first_step=first_step)
        showing.NetworkView(board, model, 5)
        board.curves({"loss": 1.0}, first_step + 1)
        board.flush()
    assert [point.step for point in events.read(tmp_path)["train", "__run_graph__"][1]] == [0]


# Interruptions; `test_resume.py` compares the events of every stage that it stops or kills.


@SLOW
@JAX_SLOW
@pytest.mark.parametrize(("stage", "changes"), [("base", {}), ("prune", {"schedule": "gradual"})])
def test_an_epoch_that_was_shown_but_not_saved_is_not_shown_twice(smoke_run, tmp_path, monkeypatch, stage, changes):
    settings = smoke_settings(stage, **changes)
    whole = smoke_run
    if changes:
        whole = before(smoke_run, stage, tmp_path / "whole")
        stages.run(stage, whole, settings)

    class Killed(BaseException):
        pass

    run, save, epochs = before(smoke_run, stage, tmp_path / "run"), FitRecorder._save, []

    def killed(self, epoch, step):
        epochs.append(epoch)
        if epochs == [1, 2]:
            raise Killed
        save(self, epoch, step)

    monkeypatch.setattr(FitRecorder, "_save", killed)
    monkeypatch.setattr(Saver, "is_due_after", lambda *_: True)
    with pytest.raises(Killed):
        stages.run(stage, run, settings)
    shown = events.read(run.stage(stage) / "tensorboard")
    assert [point.step for point in shown["train", "epoch_loss"][1]] == [1, 2]
    stages.run(stage, run, settings)
    assert epochs[2] == 2
    assert events.untimed(run.stage(stage)) == events.untimed(whole.stage(stage))


@JAX_SLOW
def test_a_monitor_that_goes_on_after_an_epoch_keeps_its_point(tmp_path):
    first = Monitor(tmp_path, label="base", total=3)
    for loss in (3.0, 2.0):
        first.epoch({"loss": loss, "val_loss": math.nan})
    second = Monitor(tmp_path, label="base", total=3, history=first.history[:1])
    second.epoch({"loss": 1.5, "val_loss": 5.0})
    found = events.read(tmp_path / "tensorboard")
    assert found["train", "epoch_loss"][1] == [(1, 3.0), (2, 1.5)]
    assert found["validation", "epoch_loss"][1] == [(2, 5.0)]  # what is not finite has no point


# Pictures.


@JAX_SLOW
def test_pictures_come_after_the_first_epoch_and_the_last_and_are_evenly_spread():
    def due(total, most=8):
        return [epoch for epoch in range(1, total + 1) if showing.is_due(epoch, total, most)]

    assert due(1) == [1]
    assert due(3) == [1, 2, 3]
    assert due(16) == [1, 2, 4, 6, 8, 10, 12, 14, 16]
    assert due(310) == [1, 39, 78, 117, 155, 194, 233, 272, 310]
    for total in range(1, 400):
        assert due(total)[0] == 1 and due(total)[-1] == total and len(due(total)) <= 9


@JAX_SLOW
def test_shares_of_ops_and_skips():
    space = Space(3, 3, ("conv3x3", "max_pool3x3"))
    genes = np.array([
        [0, 1, 1, 1, 0, 1],  # an op for each layer; then layer 1's skip, and layer 2's two
        [0, 0, 1, 1, 1, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 0, 1, 0],
    ])  # fmt: skip
    ops, skips = choices.shares(genes, space)
    np.testing.assert_array_equal(ops, [[1, 0], [0.75, 0.25], [0, 1]])
    np.testing.assert_array_equal(skips, [[np.nan] * 3, [0.5, np.nan, np.nan], [0.5, 0.25, np.nan]])


@JAX_SLOW
def test_the_flattest_and_the_strongest_kernels_among_those_that_count():
    kernels = {
        "a": np.array([[1, 0, 5], [1, 4, 5]], np.float32).reshape(2, 1, 1, 3),  # deviations 0, 2, 0
        "b": np.array([[0, 6], [1, 0]], np.float32).reshape(2, 1, 2, 1),  # 0.5, 3
    }
    every = {"a": np.ones((1, 3), bool), "b": np.ones((2, 1), bool)}
    low, high = choices.flattest(kernels, every), choices.strongest(kernels, every)
    assert [(square.layer, square.std, square.kernel.ravel().tolist()) for square in low] == [
        ("a", 0, [1, 1]), ("a", 0, [5, 5]), ("b", 0.5, [0, 1]), ("a", 2, [0, 4]), ("b", 3, [6, 0]),
    ]  # fmt: skip
    assert [square.std for square in high] == [3, 2, 0.5, 0, 0]
    few = {"a": np.array([[False, False, True]])}  # of b all count
    assert [(square.layer, square.std) for square in choices.flattest(kernels, few)] == [("a", 0), ("b", 0.5), ("b", 3)]
    many = {"a": np.zeros((3, 3, 20, 20), np.float32)}
    assert len(choices.strongest(many, {})) == choices.SHEET


@JAX_SLOW
def test_kernels_stand_in_the_middle_of_their_cells():
    squares = [choices.Square("a", np.full((3, 3), 2.0), 0.0), choices.Square("b", np.full((1, 1), 7.0), 0.0)]
    sheet = choices.tiled(squares, 3)
    np.testing.assert_array_equal(sheet[:, :8], [
        [2, 2, 2, np.nan, np.nan, np.nan, np.nan, np.nan],
        [2, 2, 2, np.nan, np.nan, 7, np.nan, np.nan],
        [2, 2, 2, np.nan, np.nan, np.nan, np.nan, np.nan],
        [np.nan] * 8,
    ])  # fmt: skip
    assert np.isnan(sheet[:, 8:]).all()


def test_pruning_shows_kernels_before_and_after_and_a_training_its_strongest_last(smoke_run, tmp_path):
    """The pictures are those of the kernels that the stages have left in their files."""

    def kernels(stage):
        arrays = smoke_run.stage(stage).weights()
        return {name: arrays[f"{name}/kernel"] for name in masks}

    masks = smoke_run.stage("prune").genotype().masks
    gone = {name: ~mask for name, mask in masks.items()}
    base, left, trained = (kernels(stage) for stage in ("base", "prune", "pruned"))
    kept, went = masks.kept, sum(int(mask.sum()) for mask in gone.values())
    assert kept and went
    sheets = [
        {f"Before, the flattest of {went} that go": choices.flattest(base, gone),
         f"Before, the strongest of {kept} that stay": choices.strongest(base, masks)},
        {f"After, the flattest of {kept} that stay": choices.flattest(left, masks),
         f"After, the strongest of {kept}": choices.strongest(left, masks)},
    ]  # fmt: skip
    shown = [square for sheet in sheets for squares in sheet.values() for square in squares]
    scale = max(np.abs(square.kernel).max() for square in shown)
    writer = EventWriter(tmp_path / "pruning")
    for step, sheet in enumerate(sheets):
        showing.show(writer, "kernels", choices.of_kernels(sheet, scale=scale), step)
    writer.close()
    epochs = smoke_settings("pruned").config.epochs
    writer = EventWriter(tmp_path / "train")
    strongest = {"The strongest kernels": choices.strongest(trained, masks)}
    showing.show(writer, "kernels", choices.of_kernels(strongest), epochs)
    writer.close()
    expected = events.read(tmp_path)
    assert events.read(smoke_run.stage("prune") / "tensorboard")["pruning", "kernels"] == expected["pruning", "kernels"]
    assert events.read(smoke_run.stage("pruned") / "tensorboard")["train", "kernels"] == expected["train", "kernels"]
    assert len(expected["pruning", "kernels"][1]) == 2


@pytest.mark.parametrize(
    ("stage", "tag"),
    [("enas", "epoch_reward"), ("lds_location", "epoch_fitness"), ("lds_direction", "epoch_fitness")],
)
def test_the_noise_of_what_is_measured_is_that_of_so_many_images(smoke_run, stage, tag):
    measured, config = History.load(smoke_run.stage(stage).path).measured, smoke_settings(stage).config
    images = config.reward_batch_size if stage == "enas" else config.fitness_batch_size
    found = events.read(smoke_run.stage(stage) / "tensorboard")["validation", f"{tag}_noise"][1]
    for number, point in enumerate(found):
        scores = measured.scores[measured.tags == number]
        assert point.value == pytest.approx(np.sqrt(scores * (1 - scores) / images).mean())
    assert len(found) == measured.tags.max() + 1 and max(point.value for point in found) > 0


def test_the_best_architecture_is_drawn_when_another_one_is_better(smoke_run):
    rows = smoke_run.stage("lds_location").history
    found = events.read(smoke_run.stage("lds_location") / "tensorboard")["train", "architecture"][1]
    better, best = [], -math.inf
    for number, row in enumerate(rows, 1):
        if row["best_fitness"] > best:
            best = row["best_fitness"]
            better.append(number)
    assert [point.step for point in found] == [*better, len(rows) + 1]  # the last is what was found


# Size.


def test_a_paper_length_run_writes_less_than_50_mb(tmp_path):
    """Each stage's most: curves of every epoch, and the largest pictures and histograms as often as they may come."""
    paper, space = PRESETS["paper"], Space()
    rng = np.random.default_rng(0)
    architectures, locations = space.sample(rng, 256), LocationSpace(space)
    codes = rng.integers(locations.num_sources, size=(20, locations.gene_length))
    kernels = choices.strongest({"layer11_op": rng.normal(size=(5, 5, 36, 36))}, {})
    full = np.concatenate([architectures[0][: space.num_layers], np.ones(space.num_skips, np.int32)])  # every skip
    drawn = dataclasses.replace(Genotype.from_genes(space, full), addons=locations.to_addons(codes[0]))
    pictures = {
        "choices": figures.png(choices.of_controller(architectures, space)),
        "population": figures.png(choices.of_population(codes, locations)),
        "architecture": figures.png(drawing.draw(drawn, title="The best")),
    }
    sheet = figures.png(choices.of_kernels({f"The strongest of {side}": kernels for side in ("those", "these")}))

    def size(name, add):
        writer = EventWriter(tmp_path / name)
        add(writer)
        writer.close()
        return sum(path.stat().st_size for path in (tmp_path / name).iterdir())

    a_curve = size("scalar", lambda writer: writer.scalar("epoch_of_a_long_name", 0.5, 300))
    a_histogram = size("histogram", lambda writer: writer.histogram("kernel_std/layer11_op", rng.random(100), 300))
    a_picture = sum(
        size(name, lambda writer, png=png, name=name: writer.image(name, png, 300, height=1, width=1))
        for name, png in pictures.items()
    )
    a_sheet = size("kernels", lambda writer: writer.image("kernels", sheet, 300, height=1, width=1))
    written = 0
    for stage in STAGES:
        config = paper.stage(stage)
        total = getattr(config, "epochs", 0) or config.cycles
        due = {
            most: sum(showing.is_due(epoch, total, most) for epoch in range(1, total + 1))
            for most in (showing.HISTOGRAMS, showing.PICTURES)
        }
        layers = space.num_layers + locations.gene_length
        written += 20 * total * a_curve + layers * due[showing.HISTOGRAMS] * a_histogram
        written += (due[showing.PICTURES] + 1) * a_picture + 2 * a_sheet
    print(f"{written / 1e6:.1f} MB; pictures of {', '.join(f'{len(png) / 1e3:.0f} kB' for png in pictures.values())}")
    assert 20e6 < written < 50e6
