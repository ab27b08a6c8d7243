"""Training on several devices, and in several processes, gives what training on one gives."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from nhn_tf import training
from nhn_tf.data.batches import Batches
from nhn_tf.data.normalization import Normalization
from nhn_tf.data.splits import Split
from nhn_tf.errors import UserError
from nhn_tf.layers import devices, processes
from nhn_tf.models import weights
from nhn_tf.runs import RunDirectory, RunError
from nhn_tf.settings import PRESETS, ComputeConfig
from nhn_tf.stages import pipeline, planning, recording, repeating, runner
from nhn_tf.training import optimizers
from nhn_tf.training.sharing import Evened, Share
from tests.conftest import smoke_settings

ROOT = Path(__file__).resolve().parent.parent
TWO_DEVICES = {**os.environ, "PYTHONPATH": ".", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
"""An environment in which JAX sees two; TensorFlow is told by the process itself."""
IS_JAX = keras.backend.backend() == "jax"

pytestmark = pytest.mark.jax


def batches(images, size):
    """Batches of images of one pixel, each unlike the others."""
    split = Split(np.arange(images, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(images, dtype=np.int32))
    norm = Normalization.of(split)
    return Batches(split, batch_size=size, normalization=norm, shuffle=False, seed=0, drop_remainder=False)


def test_the_backend_of_the_other_way_to_distribute_is_named():
    here, other = keras.backend.backend(), {"tensorflow": "jax", "jax": "mirrored"}[keras.backend.backend()]
    with pytest.raises(UserError, match=f"`distribute`={other} needs the backend .* Received: {here}"):
        devices.check(other)


def test_batches_that_cannot_be_shared_name_the_nearest_that_can(monkeypatch):
    monkeypatch.setattr(devices, "_count", 3)
    training.check_batch_size(126)
    with pytest.raises(UserError, match=r"divisible by 3, .* Received: 128. Give 126 or 129"):
        training.check_batch_size(128)
    with pytest.raises(UserError, match=r"Received: 2. Give 3"):
        training.check_batch_size(2)


def test_evened_batches_are_divisible_and_weigh_as_many_images_as_there_are(monkeypatch):
    monkeypatch.setattr(devices, "_count", 4)
    evened = Evened(batches(14, 5))  # of 5, 5 and 4 images: 8, 8 and 4 rows
    sizes = [len(evened[i][0]) for i in range(len(evened))]
    assert sizes == [8, 8, 4]
    weights = [evened[i][2] for i in range(len(evened))]
    np.testing.assert_allclose(weights[0], [20 / 14] * 5 + [0] * 3, rtol=1e-6)
    np.testing.assert_allclose(weights[2], [20 / 14] * 4, rtol=1e-6)
    # What Keras makes of it: the mean over all rows of weighted losses; here the loss of image i is i.
    loss = sum(float((evened[i][1] * evened[i][2]).sum()) for i in range(3)) / sum(sizes)
    assert loss == pytest.approx(np.arange(14).mean())


def test_each_process_has_its_own_rows_of_a_batch(monkeypatch):
    monkeypatch.setattr(processes, "_count", 2)
    whole, shares = batches(8, 4), []
    for rank in range(2):
        monkeypatch.setattr(processes, "_rank", rank)
        shares.append(Share(whole)[1])
    assert [labels.tolist() for _, labels in shares] == [[4, 5], [6, 7]]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in shares]), whole[1][0])


def test_a_stage_begun_on_two_devices_is_not_resumed_on_one(tmp_path, monkeypatch):
    run, settings = RunDirectory(tmp_path / "run"), smoke_settings("baseline")
    with run.hold(), monkeypatch.context() as patch:
        patch.setattr(devices, "_count", 2)
        run.ready("baseline", settings).begin("digest of the images")
    with pytest.raises(RunError, match=r"begun with other settings: devices 2 -> 1"):
        runner.run("baseline", run, settings)


class Board:
    """JAX's coordination service, as far as `processes.meet` asks it: what the other rank has left, and one's own."""

    def __init__(self, told):
        self.told = told

    def key_value_set(self, key, value):
        self.own = value

    def blocking_key_value_get(self, key, timeout_ms):
        return self.own if key.endswith(f"/{processes.rank()}") else json.dumps(self.told)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_are_to_train_other_things_are_told_which(monkeypatch, rank):
    monkeypatch.setattr(processes, "_rank", rank)
    monkeypatch.setattr(processes, "_count", 2)
    monkeypatch.setattr(processes, "_client", Board({"config.epochs": 3, "seed": 0}))
    processes.meet({"seed": 0, "config.epochs": 3})
    with pytest.raises(UserError, match=r"Of rank 1 other than of rank 0: config.epochs, step\."):
        processes.meet({"config.epochs": 4, "seed": 0, "step": 7})


@pytest.mark.parametrize(("told", "sentence"), [("", "gone\n"), ("all is told", "")])
def test_what_a_process_leaves_behind_goes_with_it_and_is_told_if_nothing_was(tmp_path, told, sentence):
    (tmp_path / "scratch" / "run").mkdir(parents=True)
    command = [sys.executable, "-I", "-S", "-c", processes._LAST_WORDS, "gone", str(tmp_path / "scratch")]
    assert subprocess.run(command, input=told, capture_output=True, text=True, check=True).stderr == sentence
    assert not (tmp_path / "scratch").exists()


@pytest.mark.skipif(not IS_JAX, reason="several processes train together on JAX")
def test_what_jax_keeps_to_itself_is_where_it_was():
    """None of it is public: another version may have moved it, which only several processes would notice."""
    from jax._src import distributed
    from jax._src.lib import _jax

    assert {"client", "process_id", "num_processes"} <= set(dir(distributed.global_state))
    asked = {"key_value_set", "key_value_try_get", "key_value_increment", "blocking_key_value_get"}
    assert asked <= set(dir(_jax.DistributedRuntimeClient))


@pytest.mark.skipif(IS_JAX, reason="JAX sums by itself")
def test_keras_sums_gradients_where_the_optimizer_has_done_it(monkeypatch):
    """It is private: under another name gradients would be summed twice, the second time behind clipping."""
    calls = []
    monkeypatch.setattr(optimizers.Nesterov, "_all_reduce_sum_gradients", lambda self, pairs: calls.append(0) or pairs)
    variable = keras.Variable([1.0])
    optimizers.Nesterov(0.1).apply([keras.ops.ones(1)], [variable])
    assert calls == [0]


def test_weights_are_transferred_in_the_order_of_the_model(monkeypatch):
    """Processes on JAX compare what they assign: in the order of a set, each would have another."""
    order = []

    class Variable:
        shape = ()

        def __init__(self, name):
            self.name = name

        def assign(self, array):
            order.append(self.name)

    names = [f"layer{number}/kernel" for number in range(30)]
    monkeypatch.setattr(weights, "variables_by_path", lambda model: {name: Variable(name) for name in names})
    assert not weights.transfer(dict.fromkeys(reversed(names), np.zeros(())), keras.Model()).missing
    assert order == names


def test_of_a_diverged_training_nothing_is_saved_within_an_epoch(monkeypatch):
    """`fit` ends it at the same step in every process; when a save is due is each one's own."""
    saved = []
    saver = types.SimpleNamespace(is_due=lambda: True, save=saved.append)
    monitor = types.SimpleNamespace(step=lambda *arguments: None, history=[])
    recorder = recording.FitRecorder(monitor, steps=9, saver=saver, rate_scale=1.0, view=None)
    monkeypatch.setattr(training, "state", lambda model: {})
    monkeypatch.setattr(training, "metric_state", lambda model: ())
    for finite in (False, True):
        monkeypatch.setattr(training, "is_finite", lambda model, finite=finite: finite)
        recorder.on_train_batch_end(3)
        assert len(saved) == finite


def test_the_backend_is_looked_at_before_images_are(tmp_path, monkeypatch):
    other = {"tensorflow": "jax", "jax": "mirrored"}[keras.backend.backend()]
    monkeypatch.setattr(pipeline, "load_feed", None)
    monkeypatch.setattr(runner, "load_feed", None)
    settings = {"baseline": smoke_settings("baseline", compute={"distribute": other})}
    with pytest.raises(UserError, match="needs the backend"):
        pipeline.run_family(tmp_path / "family", {0: settings})
    asked = dataclasses.replace(PRESETS["smoke"], compute=settings["baseline"].compute)
    with pytest.raises(UserError, match="needs the backend"):
        pipeline.run_timed(RunDirectory(tmp_path / "run"), asked, limit_s=600)


def test_a_plan_chooses_batches_that_the_devices_can_share():
    assert [planning._batch_size(images, 1) for images in (7, 400, 15_000, 60_000)] == [1, 32, 64, 128]
    assert [planning._batch_size(images, 3) for images in (7, 400, 15_000, 60_000)] == [3, 30, 63, 126]


def test_a_journal_from_before_there_was_a_setting_can_be_given_it():
    noted = {name: value for name, value in ComputeConfig().to_json().items() if name != "distribute"}
    changes = {"distribute": "jax", "data_dir": "elsewhere"}
    assert repeating._changed(ComputeConfig, noted, changes) == ComputeConfig(distribute="jax")


@pytest.mark.slow
def test_two_devices_train_as_one_does():
    command = [sys.executable, "-m", "tests.two_devices"]
    found = json.loads(subprocess.check_output(command, cwd=ROOT, text=True, env=TWO_DEVICES))
    for way in found.values():
        assert way["devices"] == 2
        assert way["weights"] < 1e-5
        assert way["metrics"] < 1e-5
    assert found["pruned"]["masked"] > 0


METRICS = """
import keras
import numpy as np
from nhn_tf import training
from nhn_tf.layers import devices
from nhn_tf.training import within_epoch
from tests import two_devices

two_devices.see_two_devices()
with devices.scope("mirrored"):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    training.compile_classifier(model, training.optimizers.Nesterov(0.1))

def sums():
    return [float(part) for variable in model.metrics_variables for part in variable.value.values]

class PutBack(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        before, kept = sums(), training.metric_state(model)
        model.reset_metrics()
        again = within_epoch._RestoreMetrics(kept)
        again.set_model(model)
        again.on_epoch_begin(0)
        assert len(set(before)) > 2 and sums() == before, (before, sums())

x = np.random.default_rng(0).random((16, 3), np.float32)
model.fit(x, np.arange(16) % 4, batch_size=8, callbacks=[PutBack()], verbose=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(IS_JAX, reason="JAX keeps one sum for all devices")
def test_a_metric_within_an_epoch_is_put_back_on_the_device_that_it_is_of():
    subprocess.run([sys.executable, "-c", METRICS], cwd=ROOT, env=TWO_DEVICES, check=True)


STAGE = """
import sys
from nhn_tf import stages
from nhn_tf.runs import RunDirectory
from tests import conftest, two_devices

two_devices.see_two_devices()
settings = conftest.smoke_settings("baseline", epochs=2, compute={"distribute": two_devices.KIND})
stages.run("baseline", RunDirectory(sys.argv[1]), settings)
"""


@pytest.mark.slow
def test_a_stage_trains_on_both_devices_and_goes_on_with_both_only(tmp_path):
    run = RunDirectory(tmp_path / "run")
    command = [sys.executable, "-c", STAGE, str(run.path)]
    assert "baseline: each batch is shared among 2 devices" in subprocess.check_output(
        command, cwd=ROOT, text=True, env=TWO_DEVICES
    )
    assert run.stage("baseline").config["devices"] == 2
    assert len(run.stage("baseline").history) == 2
    assert 0 < run.stage("baseline").metrics["test_accuracy"] <= 1
    with pytest.raises(RunError, match="devices 2 -> 1"):
        runner.run("baseline", run, smoke_settings("baseline", epochs=2))


@contextlib.contextmanager
def ranks(*command):
    """Two processes of a command that ends with who they are, as `flags` or arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = {**os.environ, "PYTHONPATH": "."}
    with contextlib.ExitStack() as stack:
        started = []
        for rank in range(2):
            words = [word.format(coordinator=f"127.0.0.1:{port}", rank=rank) for word in command]
            process = stack.enter_context(subprocess.Popen([sys.executable, *words], cwd=ROOT, env=env, **pipes))
            stack.callback(process.kill)
            started.append(process)
        yield started


@pytest.mark.slow
@pytest.mark.skipif(not IS_JAX, reason="several processes train together on JAX")
def test_two_processes_train_as_one_does():
    with ranks("-m", "tests.two_devices", "{coordinator}", "{rank}", "2") as both:
        outputs = [process.communicate(timeout=1200)[0] for process in both]
    for output in outputs:
        plain = json.loads(output.splitlines()[-1])["plain"]
        assert plain["devices"] == 2
        assert plain["weights"] < 1e-5
        assert plain["metrics"] < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not IS_JAX, reason="several processes train together on JAX")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_all_with_a_sentence_and_the_same_command_resumes(tmp_path, lost):
    architecture = tmp_path / "architecture.txt"
    architecture.write_text("0\n0 0\n0 0 0\n")
    settings = ["--stage=base", "--preset=smoke", f"--genotype={architecture}", "--epochs=12", "--distribute=jax"]
    command = ["train.py", *settings, f"--model_dir={tmp_path / 'run'}"]
    command += ["--coordinator={coordinator}", "--rank={rank}", "--ranks=2"]
    run = RunDirectory(tmp_path / "run")
    with ranks(*command) as both:
        while not list((run.stage("base") / "checkpoint").glob("[!.]*")):
            assert [process.poll() for process in both] == [None, None]
            time.sleep(0.02)
        both[lost].send_signal(signal.SIGKILL)
        told = [process.communicate(timeout=1200)[1] for process in both]
        assert both[lost].returncode == -signal.SIGKILL
        assert both[1 - lost].returncode not in (0, None)
    assert f"rank {1 - lost} has ended before its time" in told[1 - lost]
    assert "The same command on every rank goes on from the last checkpoint" in told[1 - lost]
    assert not run.stage("base").is_done
    with ranks(*command) as both:
        outputs = [process.communicate(timeout=1200)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
    assert "going on after epoch" in outputs[0]
    assert json.loads(outputs[0].splitlines()[-1])["stage"] == "base"
    assert "{" not in outputs[1]
    whole = RunDirectory(tmp_path / "whole")
    with ranks(*(word.replace(str(run.path), str(whole.path)) for word in command)) as both:
        assert [process.wait(timeout=1200) for process in both] == [0, 0]
    assert run.stage("base").done.weights == whole.stage("base").done.weights


@pytest.mark.slow
@pytest.mark.skipif(not IS_JAX, reason="several processes train together on JAX")
def test_a_signal_to_any_rank_saves_and_ends_all(tmp_path):
    architecture = tmp_path / "architecture.txt"
    architecture.write_text("0\n0 0\n0 0 0\n")
    run = RunDirectory(tmp_path / "run")
    command = ["train.py", "--stage=base", "--preset=smoke", f"--genotype={architecture}", "--epochs=10000"]
    command += [f"--model_dir={run.path}", "--distribute=jax", "--coordinator={coordinator}", "--rank={rank}"]
    with ranks(*command, "--ranks=2") as both:
        while not list((run.stage("base") / "checkpoint").glob("[!.]*")):
            assert [process.poll() for process in both] == [None, None]
            time.sleep(0.02)
        both[1].send_signal(signal.SIGTERM)
        told = [process.communicate(timeout=1200)[1] for process in both]
        assert [process.returncode for process in both] == [128 + signal.SIGTERM] * 2
    assert "stage 'base' is saved after epoch" in told[0]
    assert not any("before its time" in words for words in told)
