"""An interrupted run ends with the same bits: stopped by a signal within an epoch, or killed at any moment."""

import contextlib
import csv
import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nhn_tf import stages
from nhn_tf.runs import Checkpoint, OpenStage
from nhn_tf.runs.monitor import Monitor
from nhn_tf.stages import recording
from nhn_tf.stages.recording import Saver
from nhn_tf.storage import files, stopping
from tests import events
from tests.conftest import STAGES, before, newest_checkpoint, smoke_settings

SLOW = pytest.mark.slow
JAX = pytest.mark.jax
JAX_SLOW = pytest.mark.jax_slow
ROOT = Path(__file__).resolve().parent.parent
# Of the run directory: what says when something happened, or how long it took.
TIMES = {"wall_s", "seconds"}
KEPT = ("history.npz", "controller.npz")
# A process that is to be killed has begun its stage by then, or the test fails.
BEGUN_SECONDS = 300


# What two runs that did the same must have in common.


def outcome(run, stage):
    """Everything that a finished stage leaves but times, as comparable values."""
    directory = run.stage(stage)
    tables = {
        name: [{k: v for k, v in row.items() if k not in TIMES} for row in read_csv(directory / name)]
        for name in ("metrics.csv", "trials.csv", "layers.csv")
        if (directory / name).exists()
    }
    return {
        "genotype": (directory / "genotype.json").read_bytes(),
        "masks": (directory / "masks.npz").read_bytes() if (directory / "masks.npz").exists() else None,
        "weights": files.digest_arrays(directory.weights()),
        "metrics": directory.done.metrics,
        "tables": tables,
        **{name: (directory / name).read_bytes() for name in KEPT if (directory / name).exists()},
        "events": events.untimed(directory),
    }


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Dead(BaseException):
    """The process is gone."""


def killed(*_, **__):
    raise Dead


# Stops within an epoch.


def stop_and_go_on(run, stage, settings, stop, at):
    """Runs a stage, stopped at its `at`-th step, then to its end; returns where it had been saved."""
    stop(at)
    with pytest.raises(stopping.Stopped) as stopped:
        stages.run(stage, run, settings)
    assert stopped.value.signal == signal.SIGTERM
    assert not run.stage(stage).is_done
    stopping.request(None)
    stages.run(stage, run, settings)
    return stopped.value.saved


# Steps that the smoke preset reports: 7 of 8 in an epoch of training, 10 of 11 in the final one; in a search epoch 8 of
# the supernet and 2 of the controller, then the ranking; in a cycle 4 individuals, then the comparison.
WITHIN = {
    "enas": {3: "epoch 0 of 2 and 3 steps", 8: "epoch 0 of 2 and 8 steps", 19: "epoch 1 of 2 and 9 steps",
             20: "epoch 1 of 2 and 10 steps", 21: "epoch 2 of 2 and "},
    "base": {10: "epoch 1 of 3 and 3 steps"},
    "pruned": {1: "epoch 0 of 2 and 1 steps"},
    "lds_location": {6: "cycle 1 of 3 and 2 steps", 8: "cycle 1 of 3 and 4 steps",
                     14: "cycle 3 of 3 and 2 candidates"},
    "lds_direction": {7: "cycle 1 of 2 and 3 steps"},
    "final": {14: "epoch 1 of 2 and 4 steps"},
}  # fmt: skip
FAST = {("lds_direction", 7): JAX_SLOW}


@pytest.mark.parametrize(
    ("stage", "at"),
    [
        pytest.param(stage, at, marks=FAST.get((stage, at), [SLOW, JAX]))
        for stage, places in WITHIN.items()
        for at in places
    ],
)
def test_a_stage_stopped_within_an_epoch_goes_on_to_the_same_bits(smoke_run, tmp_path, stop, stage, at):
    run = before(smoke_run, stage, tmp_path / "run")
    saved = stop_and_go_on(run, stage, smoke_settings(stage), stop, at)
    assert WITHIN[stage][at] in saved
    assert outcome(run, stage) == outcome(smoke_run, stage)


@SLOW
@JAX
def test_averaged_weights_several_steps_a_call_and_gradual_pruning_resume_within_an_epoch(smoke_run, tmp_path, stop):
    def runs(stage, *, steps_per_execution=1, **changes):
        settings = smoke_settings(stage, compute={"steps_per_execution": steps_per_execution}, **changes)
        whole = before(smoke_run, stage, tmp_path / f"{stage}-whole-{len(list(tmp_path.iterdir()))}")
        stages.run(stage, whole, settings)
        for at in (2, 6):
            run = before(smoke_run, stage, tmp_path / f"{stage}-{at}-{len(list(tmp_path.iterdir()))}")
            stop_and_go_on(run, stage, settings, stop, at)
            assert outcome(run, stage) == outcome(whole, stage)

    runs("base", ema=0.9, epochs=2)
    runs("final", ema=0.9, dropout=0.5)
    runs("pruned", ema=0.9, cutmix=0.4, mixup=0.4, trivial_augment=True, distill=0.5)
    runs("base", steps_per_execution=3, epochs=3)
    runs("prune", schedule="gradual")


def test_a_checkpoint_is_written_within_an_epoch_when_the_time_has_come(smoke_run, tmp_path, monkeypatch):
    run = before(smoke_run, "base", tmp_path / "run")
    settings = smoke_settings("base", epochs=1, compute={"checkpoint_minutes": 0.0})
    seen = []
    report = Monitor.step

    def step(self, *args, **kwargs):
        report(self, *args, **kwargs)
        seen.append(sorted(path.name for path in (self.directory / "checkpoint").glob("*")))

    monkeypatch.setattr(Monitor, "step", step)
    stages.run("base", run, settings)
    assert seen == [[], *([f"{n:06d}.npz" for n in (number - 1, number) if n] for number in range(1, 7))]


def save_only_at(monkeypatch, counts):
    """Lets checkpoints be due at these of the times that they might be, counted over steps and epochs."""
    times = itertools.count(1)

    def is_due(self, *_):
        return next(times) in counts

    for name in ("is_due", "is_due_after"):
        monkeypatch.setattr(Saver, name, is_due)


@pytest.mark.parametrize(
    ("stage", "saved", "going_on"),
    [
        ("base", 3, "epoch 0 of 3 and 3 steps"),
        pytest.param("pruned", 8, "epoch 1 of 2", marks=SLOW),
        pytest.param("enas", 4, "epoch 0 of 2 and 4 steps", marks=SLOW),
        pytest.param("lds_location", 5, "cycle 1 of 3", marks=[SLOW, JAX]),
    ],
)
def test_a_stage_killed_epochs_after_its_last_checkpoint_ends_with_the_same_bits(
    smoke_run, tmp_path, monkeypatch, capsys, stage, saved, going_on
):
    run = before(smoke_run, stage, tmp_path / "run")
    with monkeypatch.context() as patch:
        save_only_at(patch, {saved})
        patch.setattr(OpenStage, "finish", killed)
        with pytest.raises(Dead):
            stages.run(stage, run, smoke_settings(stage))
    assert len(run.stage(stage).history) == len(smoke_run.stage(stage).history)
    capsys.readouterr()
    stages.run(stage, run, smoke_settings(stage))
    assert f"{stage}: going on after {going_on}\n" in capsys.readouterr().out
    assert outcome(run, stage) == outcome(smoke_run, stage)


@pytest.mark.parametrize(
    ("compute", "seconds_of_writing", "expected"),
    [({}, 3, [1, 4, 6]), ({}, 1, [1, 2, 3, 4, 5, 6]), ({"on_nan": "rollback"}, 3, [1, 2, 3, 4, 5, 6])],
)
def test_a_checkpoint_of_whole_epochs_waits_as_long_as_the_last_was_large(
    monkeypatch, compute, seconds_of_writing, expected
):
    now, saved = [0.0], []
    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: now[0]))
    stage = SimpleNamespace(name="base", save_checkpoint=lambda checkpoint: saved.append(checkpoint.epoch))
    saver = Saver(stage, SimpleNamespace(total=6, unit="epoch"), smoke_settings("base", compute=compute).compute)
    arrays = {"kernel": np.zeros(seconds_of_writing * recording.PACE, np.uint8)}
    for epoch in range(1, 7):  # of a second each
        now[0] = float(epoch)
        if saver.is_due_after(epoch):
            saver.save(Checkpoint(epoch, arrays, {}))
    assert saved == expected


@SLOW
@pytest.mark.parametrize(
    ("stage", "compute", "pace", "numbers"),
    [
        ("base", {}, 1e-6, [1, 3]),
        ("base", {}, recording.PACE, [1, 2, 3]),
        ("base", {"on_nan": "rollback"}, 1e-6, [0, 1, 2, 3]),
        ("lds_location", {}, 1e-6, [1, 3]),
    ],
)
def test_checkpoints_too_large_for_every_epoch_are_left_out_but_the_last_and_those_that_one_may_go_back_to(
    smoke_run, tmp_path, monkeypatch, stage, compute, pace, numbers
):
    run, saved = before(smoke_run, stage, tmp_path / "run"), []
    monkeypatch.setattr(recording, "PACE", pace)
    save = OpenStage.save_checkpoint

    def noted(self, checkpoint):
        saved.append((checkpoint.epoch, checkpoint.step))
        save(self, checkpoint)

    monkeypatch.setattr(OpenStage, "save_checkpoint", noted)
    stages.run(stage, run, smoke_settings(stage, compute=compute))
    assert saved == [(number, 0) for number in numbers]


# Kills of real processes.


class Killed:
    """A pipeline that is started again and again, and killed each time but the last.

    Attributes:
      stages: those that were under way when a process was killed.
    """

    def __init__(self, run):
        self.run = run
        self.stages = []
        self._complaints = run.path.with_name("stderr.txt")
        self._command = [
            sys.executable, "pipeline.py", "--preset=smoke", f"--model_dir={run.path}", "--checkpoint_minutes=0",
        ]  # fmt: skip

    def kill_in(self, stage, delay):
        """Kills a process `delay` seconds after it has begun a stage, or gone on with it; it may have ended by then."""
        started = time.time()
        config = self.run.stage(stage) / "config.json"
        with self._process() as process:
            while not (config.exists() and config.stat().st_mtime > started):
                assert process.poll() is None, self._complaints.read_text()
                assert time.time() < started + BEGUN_SECONDS, f"{stage} has not begun: {self._complaints.read_text()}"
                time.sleep(0.02)
            time.sleep(delay)
        assert process.returncode in (0, -signal.SIGKILL), self._complaints.read_text()
        under_way = [name for name in STAGES if not self.run.stage(name).is_done]
        self.stages += under_way[:1]

    @contextlib.contextmanager
    def _process(self):
        """A process, killed at the end of the context."""
        with (
            open(self._complaints, "w") as stderr,
            subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def finish(self):
        subprocess.run(self._command, cwd=ROOT, check=True, capture_output=True, timeout=900)


@pytest.mark.parametrize(
    ("first", "kills", "least"),
    [
        pytest.param("final", {"final": 1}, 1, marks=SLOW, id="one"),
        pytest.param("enas", dict.fromkeys(STAGES, 3), 20, marks=[SLOW, JAX_SLOW], id="all"),
    ],
)
def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(smoke_run, tmp_path, first, kills, least):
    rng = random.Random(11)
    for share in (0.6, 0.2, 0.05):  # of a stage's time; these processes may be the faster ones
        run = before(smoke_run, first, tmp_path / f"{share}")
        killed = Killed(run)
        for stage, count in kills.items():
            seconds = smoke_run.stage(stage).done.wall_s
            for _ in range(count):
                if not run.stage(stage).is_done:
                    killed.kill_in(stage, rng.uniform(0, share * seconds / count))
        if len(killed.stages) >= least and set(killed.stages) == set(kills):
            break
    killed.finish()
    print(f"{len(killed.stages)} kills in {', '.join(killed.stages)}")
    assert len(killed.stages) >= least
    assert set(killed.stages) == set(kills)
    for stage in STAGES:
        assert outcome(run, stage) == outcome(smoke_run, stage), stage


@SLOW
def test_a_process_that_is_told_to_end_saves_within_its_epoch(smoke_run, tmp_path):
    run = before(smoke_run, "base", tmp_path / "run")
    command = [sys.executable, "train.py", "--stage=base", "--preset=smoke", f"--model_dir={run.path}", "--epochs=500"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        for line in process.stdout:
            if line.startswith("base epoch 2/500"):
                process.send_signal(signal.SIGTERM)
        message = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stage 'base' is saved after epoch" in message and "Go on with:\n  python train.py" in message
    stage = run.stage("base")
    checkpoint = newest_checkpoint(stage)
    assert checkpoint.epoch >= 2
    assert len(list((stage / "checkpoint").glob("*.npz"))) == 2
    assert not (run.path / "lock").exists()
