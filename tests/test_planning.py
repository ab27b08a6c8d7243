"""Plans for a time limit: what fits, what is left out, and that a run with one ends in time and is resumed."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nhn_tf.errors import UserError
from nhn_tf.runs import RunDirectory
from nhn_tf.settings.plan import Plan, in_minutes, parse_seconds
from nhn_tf.settings.presets import PAPER
from nhn_tf.settings.stages import NAMES
from nhn_tf.stages import pipeline as pipeline_module
from nhn_tf.stages import planning
from nhn_tf.stages.planning import Machine
from tests import commands, events

ROOT = Path(__file__).resolve().parent.parent

# 64 images a step, 62 steps an epoch; the network of width 16 takes 20e6 multiply-adds, so 0.1 + 0.2 s a step.
MACHINE = Machine(
    trace_s=10.0, epoch_overhead_s=0.5, fixed_s=0.1, rate_s=1e-8, batch_size=64, flops=(0.0, 20e6 / 256),
    baseline_flops=40_000_000, train=4000, val=500,
)  # fmt: skip


def plan(minutes, *, machine=MACHINE, spent_s=30.0, baseline=False):
    return planning.make(machine, PAPER, limit_s=60 * minutes, spent_s=spent_s, baseline=baseline)


def planned_seconds(plan):
    return plan.spent_s + sum(plan.stages.values()) + planning.RESERVE_S


def test_an_epoch_is_its_steps_and_its_validation():
    # 62 steps, and 500 / 64 batches of validation at a third: 64.6 steps of 0.3 s, and half a second.
    assert MACHINE.epoch_seconds(MACHINE.flops_of(16)) == pytest.approx(0.5 + 0.3 * (62 + 500 / 64 / 3))
    assert MACHINE.epochs(2 * 10.0 + 5.5 * (0.5 + 0.3 * (62 + 500 / 64 / 3)), MACHINE.flops_of(16)) == 5
    assert MACHINE.epochs(3.0, MACHINE.flops_of(16)) == 0


@pytest.mark.parametrize("minutes", [5, 10, 20, 60, 170, 200, 600])
@pytest.mark.parametrize("baseline", [False, True])
def test_a_plan_fits_into_its_limit(minutes, baseline):
    made = plan(minutes, baseline=baseline)
    assert planned_seconds(made) <= 60 * minutes
    assert ("baseline" in made.stages) == (baseline and 60 * minutes >= planning.BASELINE_S)
    assert set(made.stages) | set(made.left_out) | {"baseline"} == set(planning.REASONS) | {"base"}
    assert not set(made.stages) & set(made.left_out)


def test_more_time_gives_wider_networks_and_more_stages():
    widths = [plan(minutes).preset.base.filters for minutes in (3, 5, 20, 60)]
    assert widths == sorted(widths) and widths[0] < widths[-1]
    assert "prune" not in plan(1.9).stages
    assert set(plan(20).stages) == {"base", "prune", "pruned"}
    assert set(plan(200).stages) == {*plan(20).stages, "enas", "lds_location", "lds_direction", "final"}
    assert plan(20).preset.base.genotype == planning.ARCHITECTURE
    assert plan(200).preset.base.genotype == ""


def test_a_machine_too_slow_for_the_plain_network_too_plans_without_it():
    minutes = planning.BASELINE_S / 60
    slow = next(m for m in (MACHINE.scaled(scale) for scale in range(1, 99)) if not fits(m, minutes, baseline=True))
    assert fits(slow, minutes, baseline=False)
    made = plan(minutes, machine=slow, baseline=True)
    assert "baseline" not in made.stages
    assert made.left_out["baseline"] == planning.REASONS["baseline"]


def fits(machine, minutes, *, baseline):
    """Whether the smallest network alone gets its epochs, on half of the time beside a baseline."""
    seconds = (planning.MARGIN * 60 * minutes - planning.RESERVE_S - 30) / (2 if baseline else 1)
    return machine.epochs(seconds, machine.flops_of(planning.WIDTHS[0])) >= planning.LEAST_EPOCHS


def test_pruning_without_time_to_train_again_is_left_out():
    first = plan(20)
    spent = 60 * 20 * planning.MARGIN - planning.RESERVE_S - 24  # 24 s are left: 20 s of them begin and end a stage
    second = planning.replan(first, MACHINE, done=("base",), spent_s=spent)
    assert list(second.stages) == ["base"]
    assert second.left_out["pruned"] == "too little time was left to train again"


def test_a_network_is_no_wider_than_its_images_are_enough_for():
    made = [planning._width(dataclasses.replace(MACHINE, widest=width), 1e6) for width in (48, 16, 8)]
    assert made == [48, 16, 8]
    digits, photographs = 1_438 * 8 * 8, 5_000 * 32 * 32 * 3
    assert [planning._widest(225_000, numbers) for numbers in (100, digits, photographs)] == [8, 16, 48]


def test_what_is_typed_is_part_of_the_plan():
    typed = {"base_epochs": 3, "pruned_l2": 1e-3}
    made = planning.make(MACHINE, PAPER, limit_s=1200, spent_s=30, baseline=False, typed=typed)
    assert made.preset.base.epochs == 3 and made.preset.pruned.l2 == 1e-3
    each = MACHINE.epoch_seconds(MACHINE.flops_of(made.preset.base.filters))
    assert made.stages["base"] == pytest.approx(2 * 10 + 3 * each)
    slow = planning.as_seen(MACHINE, made, "base", made.stages["base"])
    assert slow.epoch_seconds(1e7) == pytest.approx(MACHINE.epoch_seconds(1e7))


def test_a_teacher_takes_a_third_of_an_epoch_more():
    made = planning.make(MACHINE, PAPER, limit_s=1200, spent_s=30, baseline=False, typed={"pruned_distill": 0.5})
    alone = plan(20)
    assert planned_seconds(made) <= 1200
    assert 0.7 < made.preset.pruned.epochs / alone.preset.pruned.epochs < 0.85
    seen = planning.as_seen(MACHINE, made, "pruned", made.stages["pruned"])
    assert seen.epoch_seconds(1e7) == pytest.approx(MACHINE.epoch_seconds(1e7))


def test_a_baseline_that_does_not_fit_is_left_out_in_words():
    made = plan(1.7, baseline=True)
    assert "baseline" not in made.stages and made.left_out["baseline"] == "the time is too short"


def test_too_short_a_limit_names_one_that_is_long_enough():
    with pytest.raises(UserError, match=r"`time_limit` must be at least ([\d.]+)m here") as error:
        plan(0.5)
    least = float(str(error.value).split("at least ")[1].split("m here")[0])
    assert plan(least).stages.keys() == {"base"}


def stub_measuring(monkeypatch, *, step, seconds):
    """Makes networks cost nothing, and an epoch of every width take as long; returns the widths that are measured."""
    widths = []

    def fit(model, batches, *, callbacks, **_):
        callbacks[0].steps, callbacks[0].epochs = [step], [seconds, seconds]

    def build(*_, form, **__):
        widths.append(form.filters)
        return form.filters

    monkeypatch.setattr(planning.network, "build", build)
    monkeypatch.setattr(planning.plain_cnn, "build", lambda **_: 0)
    monkeypatch.setattr(
        planning.complexity, "model_cost", lambda width: SimpleNamespace(flops=1e6 * width, params=100 * width)
    )
    monkeypatch.setattr(planning.training, "compile_classifier", lambda *_: None)
    monkeypatch.setattr(planning.training, "fit", fit)
    return widths


FEED = SimpleNamespace(
    data=SimpleNamespace(train=range(3200), val=range(320), image_shape=(8, 8, 1), num_classes=10),
    validation=None, train=lambda config: [0] * 100,
)  # fmt: skip


def test_a_limit_that_is_certainly_too_short_is_refused_before_the_wider_network_is_measured(monkeypatch):
    # 3 epochs of 100 steps and a third of 10 for validation: 310 s.
    widths = stub_measuring(monkeypatch, step=1.0, seconds=12.0)
    with pytest.raises(UserError, match=r"must be at least 6.1m here: an epoch of .* 3,200 images takes 107.0 s"):
        planning.measure(FEED, limit_s=330, spent_s=5.0)
    assert widths == [8]
    machine = planning.measure(FEED, limit_s=600, spent_s=5.0)
    assert widths == [8, *planning.MEASURED] and machine.steps == 100


def test_a_measurement_that_has_outlasted_the_limit_ends():
    now = time.monotonic()
    laps = planning._Laps(10.0, now - planning.PATIENCE_S + 5)
    laps.on_train_batch_end(0)  # so long it goes on: it will tell how long the limit must be
    laps = planning._Laps(10.0, now - planning.PATIENCE_S - 1)
    for told in (laps.on_train_batch_end, laps.on_test_batch_end):
        with pytest.raises(UserError, match=r"must be much longer here: after 31 s.* Received: 0.167m"):
            told(1)
    planning._Laps(60.0, now - planning.PATIENCE_S - 1).on_train_batch_end(0)


def test_stages_that_planning_again_leaves_out_are_not_run(tmp_path, monkeypatch, capsys):
    ran = []

    def run(stage, directory, settings):
        ran.append(stage)
        return {"wall_s": 60 * 20 * planning.MARGIN - planning.RESERVE_S - 54, "metrics": {}}

    monkeypatch.setattr(pipeline_module, "load_feed", lambda settings: FEED)
    monkeypatch.setattr(planning, "measure", lambda feed, **_: MACHINE)
    monkeypatch.setattr(pipeline_module.runner, "set_up", lambda settings: None)
    monkeypatch.setattr(pipeline_module.runner, "check", lambda settings: None)
    monkeypatch.setattr(pipeline_module.runner, "run", run)
    monkeypatch.setattr(pipeline_module, "_reported", lambda directory, rows, plan: {})
    done = pipeline_module.run_timed(RunDirectory(tmp_path / "run"), PAPER, limit_s=1200, baseline=False)
    assert ran == ["base"] and done["left_out"]["prune"] == "too little time was left to train again"
    assert "planned again, by the time that is left: prune left out: too little time" in capsys.readouterr().out


def test_what_is_planned_otherwise_is_told():
    first = plan(20)
    second = planning.replan(first, MACHINE.scaled(2), done=("base",), spent_s=first.spent_s + first.stages["base"])
    epochs = second.preset.pruned.epochs
    assert second.news(first) == f"pruned epochs {epochs}" and first.news(first) == ""


def test_a_run_says_how_much_of_its_time_it_took_and_warns_where_that_is_more(capsys):
    made = plan(20)
    pipeline_module._tell_time(1170.0, made)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("The run took 19.5 of 20 minutes.\n\n", "")
    pipeline_module._tell_time(1290.0, made)
    told = capsys.readouterr()
    assert told.err.startswith("warning: the run took 21.5 minutes, more than its limit of 20 minutes") and not told.out


def test_the_rest_is_planned_again_with_the_time_that_is_left():
    first = plan(20)
    slow = planning.as_seen(MACHINE, first, "base", 1.4 * first.stages["base"])
    assert slow.epoch_seconds(1e7) == pytest.approx(1.4 * MACHINE.epoch_seconds(1e7), rel=0.05)
    spent = first.spent_s + 1.4 * first.stages["base"]
    second = planning.replan(first, slow, done=("base",), spent_s=spent)
    assert second.preset.pruned.epochs < first.preset.pruned.epochs
    assert second.preset.base == first.preset.base
    rest = sum(seconds for name, seconds in second.stages.items() if name != "base")
    assert spent + rest + planning.RESERVE_S <= first.limit_s


def test_the_decay_of_idle_weights_follows_the_length_of_the_training():
    long, short = plan(170, machine=MACHINE.scaled(0.1)).preset.base, plan(5).preset.base
    assert long.l2 < short.l2 <= planning.MOST_L2  # no more than that, however short
    updates = long.epochs * MACHINE.steps
    e_folds = updates * (long.lr_max / 2) * 2 * long.l2 / (1 - long.momentum)
    assert e_folds == pytest.approx(planning.E_FOLDS, rel=0.3)


def test_a_plan_survives_the_journal(tmp_path):
    made = plan(20, baseline=True)
    noted = json.loads(json.dumps(made.to_json()))
    assert Plan.from_json(noted).to_json() == noted
    assert Machine(**Plan.from_json(noted).machine).epoch_seconds(1e7) == MACHINE.epoch_seconds(1e7)
    assert "left out: no add-ons" in made.table() and "filters" in made.table()
    sparsity = dataclasses.replace(made.preset.prune, sparsity=2 / 3)
    planned = dataclasses.replace(made, preset=dataclasses.replace(made.preset, prune=sparsity))
    assert "sparsity 0.667, scope" in planned.table()
    directory = RunDirectory(tmp_path / "run")
    with directory.hold():
        directory.journal.note_plan(plan(200, baseline=True).to_json())
    read = Plan.from_json(directory.journal.read()["plan"])
    # A JSON file is written with its keys sorted; the order of the stages is what the plan is about.
    assert list(read.stages) == [*NAMES, "baseline"]
    assert read.behind("final") == read.stages["baseline"]
    with pytest.raises(ValueError, match="a plan must have limit_s"):
        Plan.from_json({"preset": PAPER.to_json()})


@pytest.mark.parametrize(
    ("text", "expected"), [("20m", 1200), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("7", 420), ("0.5", 30)]
)
def test_times_are_read_as_users_write_them(text, expected):
    assert parse_seconds(text) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(60, "1 minute"), (90, "1.5 minutes"), (1200, "20 minutes"), (10, "0.1667 minutes")]
)
def test_times_are_told_in_minutes(seconds, expected):
    assert in_minutes(seconds) == expected


@pytest.mark.parametrize("text", ["", "m", "20x", "-3m", "0m", "h30", "1e9h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="`time_limit` must be"):
        parse_seconds(text)


def pipeline(*arguments):
    command = [sys.executable, "pipeline.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def test_without_flags_the_pipeline_explains_itself_and_starts_nothing():
    result = pipeline()
    assert result.returncode == 2
    assert "--time_limit=20m" in result.stdout and "46 hours" in result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time_limit=soon"], "--time_limit must be a time such as 20m"),
        (["--time_limit=20m", "--preset=demo"], "--preset and --time_limit exclude each other"),
        pytest.param(["--time_limit=1s"], "--time_limit must be at least", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_limit_is_refused_before_anything_is_written(tmp_path, flags, message):
    result = pipeline("--dataset=digits", f"--model_dir={tmp_path / 'run'}", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time_limit=20m"], "holds stages, but no plan"),
        pytest.param(["--time_limit=1s", "--overwrite=all"], "--time_limit must be at least", marks=pytest.mark.slow),
        pytest.param(
            ["--time_limit=20m", "--overwrite=all", "--base_lr_min=9"], "must not exceed lr_max", marks=pytest.mark.slow
        ),
    ],
)
def test_what_is_refused_discards_nothing(smoke_run, tmp_path, flags, message):
    shutil.copytree(smoke_run.path / "2-base", tmp_path / "run" / "2-base")
    shutil.copy(smoke_run.path / "run.json", tmp_path / "run")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run" / "2-base").iterdir())
    arguments = ("--dataset=digits", "--train_limit=96", f"--model_dir={tmp_path / 'run'}", *flags)
    result = commands.call("pipeline", *arguments)
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run" / "2-base").iterdir()) == before


@pytest.mark.slow
def test_a_planned_run_ends_with_a_network_and_is_resumed_by_its_plan(tmp_path):
    run = tmp_path / "run"
    flags = ["--dataset=digits", "--train_limit=96", "--eval_limit=64", "--time_limit=3m", f"--model_dir={run}"]
    short = ["--base_epochs=2", "--pruned_epochs=1"]  # what is typed stands, whatever is planned
    result = pipeline(*flags, *short)
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.strip().splitlines()[-1])
    assert f"The run took {last['took_s'] / 60:.1f} of 3 minutes" in result.stdout
    assert next(iter(last["wall_s"])) == "base" and set(last["left_out"]) >= {"enas", "final"}
    assert "of the run" in result.stdout and "left out" in result.stdout
    noted = json.loads((run / "run.json").read_text())["plan"]
    assert noted["limit_s"] == 180 and noted["spent_s"] > 0
    shown = events.read(run / "tensorboard")
    assert set(shown) == {("", "plan"), ("", "verdict")}
    [(step, told)] = shown["", "plan"][1]
    assert step == 0 and "left out" in told and "minutes" in told
    again = pipeline(*flags, *short)
    assert again.returncode == 0, again.stderr
    assert "measuring" not in again.stdout
    assert again.stdout.count("already finished") == len(last["wall_s"])
    other = pipeline(*flags[:-2], "--time_limit=9m", f"--model_dir={run}")
    assert other.returncode == 2 and "was planned for 3 minutes" in other.stderr
