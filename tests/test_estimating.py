"""When a whole run ends: by what has run, as an estimate, and nothing where nothing is known."""

import dataclasses

import pytest

from nhn_tf.runs import RunDirectory, Settings
from nhn_tf.runs.settings import Behind
from nhn_tf.settings import PRESETS
from nhn_tf.settings.stages import NAMES
from nhn_tf.stages import estimating
from nhn_tf.stages.feed import load_feed
from tests.conftest import before

SMOKE = PRESETS["smoke"]
SETTINGS = {stage: Settings.of(SMOKE, stage, name="smoke") for stage in NAMES}
TRAIN = 256
# Of the smoke preset: what each stage behind `base` takes, in images.
PRUNE = TRAIN / 3
PRUNED = 2 * TRAIN
LOCATION = 3 * 4 * (2 * 32 + 32 / 3)  # cycles, population, two batches, a third of a measured one
DIRECTION = 2 * 4 * (2 * 32 + 32 / 3)


def images(run):
    data = load_feed(SETTINGS["base"]).data
    assert len(data.train) == TRAIN
    return 2 * (TRAIN + (len(data.val) if SMOKE.final.train_on_validation else 0))


def test_behind_a_search_of_another_network_nothing_is_known(tmp_path):
    assert estimating.behind("enas", SETTINGS, RunDirectory(tmp_path / "run")) is None


def test_behind_the_base_all_is_priced_by_its_own_rate(tmp_path):
    run = RunDirectory(tmp_path / "run")
    final = images(run)
    found = estimating.behind("base", SETTINGS, run)
    rest = PRUNE + PRUNED + LOCATION + DIRECTION + final
    assert found == Behind(0.0, pytest.approx(rest / TRAIN), 5, is_planned=False)
    # A control of another network has a price of its own.
    control = {**SETTINGS, "resnet": Settings.of(SMOKE, "resnet", name="smoke")}
    assert estimating.behind("base", control, run) is None
    control = {**SETTINGS, "pruned_longer": Settings.of(SMOKE, "pruned_longer", name="smoke")}
    longer = estimating.behind("base", control, run)
    assert longer.stages == 6 and longer.epochs == pytest.approx((rest + final) / TRAIN)
    taught = {**SETTINGS, "pruned": Settings.of(SMOKE.replaced(pruned_distill=0.5), "pruned", name="smoke")}
    assert estimating.behind("base", taught, run).epochs == pytest.approx((rest + PRUNED / 3) / TRAIN)


def test_behind_a_search_of_add_ons_trainings_are_priced_by_the_last_training(smoke_run, tmp_path):
    run = before(smoke_run, "lds_location", tmp_path / "run")
    found = estimating.behind("lds_location", SETTINGS, run)
    pruned = run.stage("pruned").done.wall_s
    assert found.seconds == pytest.approx(pruned * images(run) / PRUNED)
    assert (found.epochs, found.stages) == (pytest.approx(2.0), 1)  # the cycles of the other half, which are as long


def test_what_another_seed_took_counts_where_its_settings_are_the_same(smoke_run, tmp_path):
    run = RunDirectory(tmp_path / "run")
    took = {stage: record.done.wall_s for stage, record in smoke_run.stages.items() if stage in NAMES}
    found = estimating.behind("enas", SETTINGS, run, [smoke_run])
    assert found == Behind(pytest.approx(sum(took.values()) - took["enas"]), is_planned=False)
    longer = dataclasses.replace(SETTINGS["pruned"], config=dataclasses.replace(SMOKE.pruned, epochs=3))
    assert estimating.behind("enas", {**SETTINGS, "pruned": longer}, run, [smoke_run]) is None
    damaged = before(smoke_run, "final", tmp_path / "damaged")
    (damaged.stage("pruned") / "done.json").write_text("{")
    assert estimating.behind("enas", SETTINGS, run, [damaged]) is None


def test_what_has_finished_takes_no_time(smoke_run):
    assert estimating.behind("enas", SETTINGS, smoke_run) == Behind(is_planned=False)
