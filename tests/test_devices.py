"""Training on several devices, and in several processes, gives what training on one gives."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
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
from nhn_tf.runs import RunDirectory, RunError
from nhn_tf.stages import runner
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


@pytest.mark.slow
def test_two_devices_train_as_one_does():
    command = [sys.executable, "-m", "tests.two_devices"]
    found = json.loads(subprocess.check_output(command, cwd=ROOT, text=True, env=TWO_DEVICES))
    for way in found.values():
        assert way["devices"] == 2
        assert way["weights"] < 1e-5
        assert way["metrics"] < 1e-5
    assert found["pruned"]["masked"] > 0


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
