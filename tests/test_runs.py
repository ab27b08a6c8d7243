"""The run directory: locks, digests, checkpoints, and what it refuses."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from nhn_tf.runs import Checkpoint, RunDirectory, RunError, Settings, journal
from nhn_tf.settings import PRESETS
from nhn_tf.storage import files, lock
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space

pytestmark = pytest.mark.jax

SMOKE = PRESETS["smoke"]
SETTINGS = Settings(config=SMOKE.enas, data=SMOKE.data, compute=SMOKE.compute, preset="smoke")
GENOTYPE = Genotype(Space(3, 3), ("conv3x3",) * 3, ((), (0,), ()))


def begun(run, settings=SETTINGS, **kwargs):
    ready = run.ready("enas", settings, **kwargs)
    assert ready.done is None
    return ready.begin("images")


def changed(**fields):
    return dataclasses.replace(SETTINGS, config=dataclasses.replace(SETTINGS.config, **fields))


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    with directory.hold(preset="smoke"):
        yield directory


def test_a_finished_stage_returns_its_result_for_the_same_settings(run):
    stage = begun(run)
    done = stage.finish({"val_accuracy": 0.5}, genotype=GENOTYPE, weights={"a": np.ones(2)})
    assert run.ready("enas", SETTINGS).done == done
    assert {"stage", "metrics", "config_digest", "wall_s", "device"} <= set(files.read_sealed(stage / "done.json"))
    assert run.require("enas", SETTINGS).genotype() == GENOTYPE


def test_a_genotype_or_weights_of_another_network_are_refused_by_name(run):
    stage = begun(run)
    stage.finish({}, genotype=GENOTYPE, weights={"a": np.ones(2)})
    files.save_npz(stage / "weights.npz", {"a": np.zeros(2)})
    with pytest.raises(files.DamagedFileError, match=r"weights\.npz is not what stage 'enas' finished with"):
        run.stage("enas").weights()
    Genotype(Space(6, 3), ("conv3x3",) * 6, ((),) * 6).save(stage.path)
    with pytest.raises(files.DamagedFileError, match=r"genotype\.json is not what stage 'enas' finished with"):
        run.require("enas", SETTINGS).genotype()


def test_other_settings_are_an_error_that_names_the_fields(run):
    begun(run)
    with pytest.raises(RunError, match=r"epochs 2 -> 5.*\n.*`overwrite`"):
        run.ready("enas", changed(epochs=5))


def test_overwrite_begins_again(run):
    stage = begun(run)
    stage.finish({}, genotype=GENOTYPE, weights={})
    again = dataclasses.replace(changed(epochs=5), overwrite=True)
    ready = run.ready("enas", again)
    assert ready.done is None
    assert run.stage("enas").is_done  # nothing is lost until the new one begins
    ready.begin("images")
    assert not run.stage("enas").is_done


def test_where_the_data_lies_and_how_fast_it_goes_is_not_part_of_the_identity(run):
    begun(run)
    elsewhere = dataclasses.replace(
        SETTINGS,
        data=dataclasses.replace(SETTINGS.data, data_dir="/elsewhere", cache_dir="/tmp"),
        compute=dataclasses.replace(SETTINGS.compute, steps_per_execution=4),
        preset="",
    )
    assert run.ready("enas", elsewhere).done is None


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("", "begun on another result of stage 'enas'"),
        ("arc.txt", "another architecture than `genotype`=arc.txt holds now"),
    ],
)
def test_the_input_genotype_is_part_of_the_identity(run, file, message):
    base = dataclasses.replace(SETTINGS, config=dataclasses.replace(SMOKE.base, genotype=file))
    run.ready("base", base, input_genotype=GENOTYPE).begin("images")
    other = dataclasses.replace(GENOTYPE, ops=("conv5x5",) * 3)
    with pytest.raises(RunError, match=message):
        run.ready("base", base, input_genotype=other)


def test_a_missing_predecessor_names_the_command_to_run(run):
    with pytest.raises(RunError, match=r"python search\.py --stage=enas --model_dir=\S+ --preset=smoke"):
        run.require("enas", SETTINGS)


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        RunDirectory(tmp_path)
    with pytest.raises(RunError, match="is a file"):
        RunDirectory(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_process_killed_as_it_took_hold_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / "lock").write_text(json.dumps(left_by(2**22 + 1)))
    (tmp_path / ".run.json.abc.tmp").write_text("{")
    with RunDirectory(tmp_path).hold(preset="smoke"):
        begun(RunDirectory(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-enas", "run.json"]


def test_run_json_notes_each_call(tmp_path):
    for seed in (3, 4):
        with RunDirectory(tmp_path / "run").hold(preset="smoke", seed=seed):
            pass
    calls = json.loads((tmp_path / "run" / "run.json").read_text())["calls"]
    assert [call["seed"] for call in calls] == [3, 4]
    assert {"argv", "versions", "device", "git_commit", "preset"} <= set(calls[0])


def test_a_pipeline_is_one_call_however_many_stages_it_holds_the_run_for(tmp_path):
    for _ in range(3):
        with RunDirectory(tmp_path / "run").hold(preset="smoke"):
            pass
    assert len(RunDirectory(tmp_path / "run").journal.read()["calls"]) == 1


def test_the_journal_says_what_a_stage_was_begun_with_and_what_it_left(run):
    stage = begun(run)
    expected = {**SETTINGS.to_json(), "data_digest": "images", "computed_with": journal.computed_with()}
    assert run.journal.read()["stages"] == {"enas": expected}
    done = stage.finish({}, genotype=GENOTYPE, weights={"a": np.ones(2)})
    assert run.journal.read()["stages"] == {"enas": {**expected, "genotype": GENOTYPE.digest, "weights": done.weights}}
    run.ready("enas", dataclasses.replace(SETTINGS, overwrite=True)).begin("others")
    assert run.journal.read()["stages"]["enas"] == {**expected, "data_digest": "others"}


def test_what_differs_between_two_calls_is_named():
    call = {"versions": {"keras": "3.15.1", "numpy": "2.4"}, "backend": "jax", "device": "cpu", "cpus": 2, "seed": 1,
            "environment": {}}  # fmt: skip
    assert journal.differences(call, {**call, "seed": 2}) == []
    other = {**call, "versions": {"keras": "3.15.2", "numpy": "2.4"}, "cpus": 4}
    assert journal.differences(call, other) == ["cpus 2 -> 4", "keras 3.15.1 -> 3.15.2"]


def test_a_second_process_is_refused_and_told_by_whom(run):
    with pytest.raises(RunError, match=f"process {os.getpid()}"), RunDirectory(run.path).hold():
        pass
    assert (run.path / "lock").exists()


def left_by(pid, began=""):
    """The lock of a process of this container."""
    return {"host": socket.gethostname(), "pid": pid, "began": began, "place": lock._place()}


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.hold():
        pass
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (run.path / "lock").write_text(json.dumps(left_by(int(process.stdout))))
    with RunDirectory(run.path).hold():
        assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
    assert not (run.path / "lock").exists()


def test_a_lock_whose_process_number_is_another_processs_now_is_taken_over(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.hold():
        mine = json.loads((run.path / "lock").read_text())
        assert mine["began"]
    (run.path / "lock").write_text(json.dumps(left_by(os.getpid(), began=str(int(mine["began"]) - 1))))
    with RunDirectory(run.path).hold():
        assert json.loads((run.path / "lock").read_text()) == mine


def test_a_lock_that_is_being_written_is_waited_for(run, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 2.0)
    path = run.path / "lock"
    content = path.read_text()
    path.write_text("")
    writer = threading.Timer(0.15, path.write_text, [content])
    writer.start()
    with pytest.raises(RunError, match="in use"), RunDirectory(run.path).hold():
        pass
    writer.join()
    assert path.read_text() == content


def test_a_lock_of_before_there_were_leases_is_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.6)
    older = {"host": socket.gethostname(), "space": "pid:[1]", "pid": 2**22 + 1, "began": "boot 12"}
    (tmp_path / "lock").write_text(json.dumps(older))
    with RunDirectory(tmp_path).hold():
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert "waiting 1 s for a sign of life" in capsys.readouterr().err


def checkpoint(epoch):
    return Checkpoint(epoch, {"w/kernel": np.full(50, epoch, np.float32)}, {"history": [{"loss": 0.5}] * epoch})


def test_the_newest_two_checkpoints_stay_and_the_newest_loads(run):
    stage = begun(run)
    for epoch in (1, 2, 3):
        stage.save_checkpoint(checkpoint(epoch))
    assert sorted(path.name for path in (stage / "checkpoint").iterdir()) == ["000002.npz", "000003.npz"]
    loaded = stage.load_checkpoint()
    assert loaded.epoch == 3
    np.testing.assert_array_equal(loaded.arrays["w/kernel"], np.full(50, 3, np.float32))
    assert loaded.values["history"] == [{"loss": 0.5}] * 3


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, damage, capsys):
    stage = begun(run)
    stage.save_checkpoint(checkpoint(1))
    stage.save_checkpoint(checkpoint(2))
    path = stage / "checkpoint" / "000002.npz"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 3] ^= 1
    path.write_bytes({"truncate": content[:-30], "flip": content, "empty": b""}[damage])
    assert stage.load_checkpoint().epoch == 1
    assert "000002.npz" in capsys.readouterr().err


def test_no_checkpoint_is_none(run):
    stage = begun(run)
    assert stage.load_checkpoint() is None


def test_wall_time_adds_up_over_interruptions(run):
    stage = begun(run)
    stage._started -= 100
    stage.save_checkpoint(checkpoint(1))
    again = begun(run)
    again.resume()
    assert again.finish({}, genotype=GENOTYPE, weights={}).wall_s >= 100


def test_what_is_refused_before_it_starts_leaves_no_directory(tmp_path):
    run = RunDirectory(tmp_path / "a" / "b")
    with pytest.raises(RunError), run.hold():
        run.require("enas", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_other_images_are_refused_until_the_stage_begins_again(run):
    begun(run)
    ready = run.ready("enas", SETTINGS)
    ready.check_data("images")
    with pytest.raises(RunError, match="other images"):
        ready.check_data("others")
    run.ready("enas", dataclasses.replace(SETTINGS, overwrite=True)).check_data("others")


@pytest.mark.parametrize("name", ["done.json", "config.json"])
@pytest.mark.parametrize("content", ["{}", "[]", "", "{"])
def test_a_damaged_record_is_named(run, name, content):
    stage = begun(run)
    stage.finish({}, genotype=GENOTYPE, weights={})
    (stage / name).write_text(content)
    with pytest.raises(files.DamagedFileError, match=name):
        run.ready("enas", SETTINGS)


@pytest.mark.parametrize("content", ['{"schema": 1, "calls": []}', "", "[1]"])
def test_a_damaged_run_json_is_begun_again(tmp_path, content, capsys):
    with RunDirectory(tmp_path / "run").hold():
        pass
    (tmp_path / "run" / "run.json").write_text(content)
    with RunDirectory(tmp_path / "run").hold(seed=7):
        pass
    assert "run.json is damaged" in capsys.readouterr().err
    assert [call["seed"] for call in json.loads((tmp_path / "run" / "run.json").read_text())["calls"]] == [7]


@pytest.mark.parametrize("name", ["genotype.json", "weights.npz"])
def test_a_missing_artifact_is_named(run, name):
    stage = begun(run)
    stage.finish({}, genotype=GENOTYPE, weights={"a": np.ones(2)})
    (stage / name).unlink()
    with pytest.raises(files.DamagedFileError, match=f"{name} is missing"):
        run.stage("enas").genotype() if name == "genotype.json" else run.stage("enas").weights()


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDirectory("~/run").path == tmp_path / "run"


def test_a_result_without_its_settings_is_not_taken_for_one_of_others(run):
    stage = begun(run)
    stage.finish({}, genotype=GENOTYPE, weights={"a": np.ones(2)})
    record = (stage / "config.json").read_bytes()
    (stage / "config.json").unlink()
    with pytest.raises(files.DamagedFileError, match=r"config\.json is missing"):
        run.ready("enas", changed(epochs=5))
    (stage / "config.json").write_bytes(record)
    other = RunDirectory(run.path / "other")
    with other.hold():
        begun(other, changed(epochs=5))
    shutil.copy(other.stage("enas") / "config.json", stage / "config.json")
    with pytest.raises(files.DamagedFileError, match=r"config\.json is not what stage 'enas' finished with"):
        run.ready("enas", changed(epochs=5))


def test_what_is_discarded_is_no_longer_in_the_journal(run):
    stage = begun(run)
    stage.finish({}, genotype=GENOTYPE, weights={"a": np.ones(2)})
    run.ready("base", dataclasses.replace(SETTINGS, config=SMOKE.base), input_genotype=GENOTYPE).begin("images")
    run.journal.forget(["enas"])
    assert list(run.journal.read()["stages"]) == ["base"]


def test_a_stage_that_is_resumed_elsewhere_says_so(run, monkeypatch, capsys):
    first = journal.computed_with()
    begun(run)
    monkeypatch.setattr(journal, "device", lambda: "gpu:0")
    for _ in range(2):
        begun(run)
    assert f"device {first['device']} -> gpu:0" in capsys.readouterr().err
    noted = run.journal.read()["stages"]["enas"]
    assert noted["computed_with"] == first
    assert noted["also_computed_with"] == [{**first, "device": "gpu:0"}]
    run.ready("enas", dataclasses.replace(SETTINGS, overwrite=True)).begin("images")
    assert run.journal.read()["stages"]["enas"]["computed_with"] == {**first, "device": "gpu:0"}


def test_the_last_checkpoint_of_whole_epochs_outlives_an_interruption(run):
    stage = begun(run)
    arrays = {"a": np.ones(2)}
    for epoch, step in ((1, 0), (2, 0), (2, 5)):
        stage.save_checkpoint(Checkpoint(epoch, arrays, {}, step))
    for step in (6, 7):
        stage = begun(run)
        assert stage.load_checkpoint().step == step - 1
        stage.save_checkpoint(Checkpoint(2, arrays, {}, step))
        found = begun(run).load_checkpoint(whole_epochs=True)
        assert (found.epoch, found.step) == (2, 0)
