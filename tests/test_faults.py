"""Writing is cut off at every single call: afterwards the old state loads, or the new one, never a mixture."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nhn_tf.errors import UserError
from nhn_tf.runs import Checkpoint, RunDirectory, journal
from nhn_tf.storage import files
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import Space
from tests.conftest import before, newest_checkpoint, smoke_settings

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = smoke_settings("enas")
GENOTYPE = Genotype(
    Space(3, 3),
    ("conv3x3",) * 3,
    ((), (0,), ()),
    masks=Masks({"layer0_op": np.eye(4, dtype=bool)}),
    addons=(Addon(0, 3, 0),),
)


class Died(BaseException):
    """The process is gone: nothing of it runs any more."""


class Disk:
    """Stands between the code and the operating system, counts the calls that change the disk, and cuts one off.

    Args:
      cut: the number of the call that fails, from 1; None for none.
      manner: "error", that one call is refused with EIO; "full", every write from there on is refused with ENOSPC;
        "death", the process dies in the middle of it.
      block: bytes that one write takes at most.
    """

    def __init__(self, cut: int | None = None, manner: str = "error", *, block: int = 512):
        self.block = block
        self.calls = 0
        self.dead = False
        self._cut = cut
        self._manner = manner

    def call(self, *, writes: bool) -> None:
        if self.dead:
            raise Died
        self.calls += 1
        if self._cut is None or self.calls < self._cut:
            return
        if self._manner == "full" and writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._manner == "error" and self.calls == self._cut:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._manner == "death":
            self.dead = True
            raise Died

    def open(self, file, mode="r", encoding=None):
        """Like the built-in, its buffer so small that every few bytes are a write of their own."""
        if "w" not in mode:
            return open(file, mode, encoding=encoding)
        buffered = io.BufferedWriter(_RawFile(self, file), 16)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding)

    @contextlib.contextmanager
    def attached(self):
        """Everything that `nhn_tf` writes meanwhile goes through this disk."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "open", self.open, raising=False)
            patch.setattr(os, "fsync", lambda _: self.call(writes=True))  # nobody pulls the plug of this machine
            for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, self._counted(getattr(os, name), writes=name == "mkdir"))
            patch.setattr(files.tempfile, "mkstemp", self._counted(files.tempfile.mkstemp, writes=True))
            yield self

    def _counted(self, function, *, writes):
        def counted(*args, **kwargs):
            self.call(writes=writes)
            return function(*args, **kwargs)

        return counted


class _RawFile(io.FileIO):
    def __init__(self, disk: Disk, descriptor: int):
        super().__init__(descriptor, "wb")
        self._disk = disk

    def write(self, data) -> int:
        if self._disk.dead:
            return len(data)  # a buffer that is flushed at the interpreter's end, which never comes
        block = bytes(data)[: self._disk.block]
        try:
            self._disk.call(writes=True)
        except BaseException:
            super().write(block[: len(block) // 2])
            raise
        return super().write(block)


@pytest.fixture(autouse=True)
def quick_calls(monkeypatch):
    """Noting a call in run.json asks git and the packages; here it is made hundreds of times."""
    monkeypatch.setattr(journal, "_git_commit", lambda: None)
    monkeypatch.setattr(journal, "_versions", dict)
    monkeypatch.setattr(journal, "device", lambda: "cpu")


def checkpoint(epoch):
    rng = np.random.default_rng(epoch)
    arrays = {
        "w/kernel": rng.random((3, 3, 4, 4), np.float32),
        "optimizer/slot": rng.random(70),
        "step": np.array(epoch),
    }
    return Checkpoint(epoch, arrays, {"history": [{"loss": 0.5, "epoch": e} for e in range(epoch)]})


def same(loaded, epoch):
    expected = checkpoint(epoch)
    assert loaded.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array, strict=True)
    assert loaded.values["history"] == expected.values["history"]


@pytest.fixture
def begun(tmp_path):
    """A stage that has saved two checkpoints and is going on."""
    run = RunDirectory(tmp_path / "begun")
    with run.hold(preset="smoke"):
        stage = run.ready("enas", SETTINGS).begin("images")
        for epoch in (1, 2):
            stage.save_checkpoint(checkpoint(epoch))
    return run.path


@pytest.fixture
def finished(begun, tmp_path):
    """The same stage, finished."""
    shutil.copytree(begun, tmp_path / "finished")
    run = RunDirectory(tmp_path / "finished")
    finish(run.ready("enas", SETTINGS).begin("images"))
    return run.path


def weights():
    return checkpoint(9).arrays


def finish(stage):
    return stage.finish({"val_accuracy": 0.5, "figures": [1, 2]}, genotype=GENOTYPE, weights=weights())


def cut_everywhere(action, source, manner, check, *, block=512):
    """Runs `action(run)` on copies of the run in `source`, cut off at each of its calls in turn.

    Args:
      action: what is cut off.
      source: the run's directory before it.
      manner: as for `Disk`.
      check: what must hold of the run afterwards; gets the run, held, and whether the action came to its end.
      block: as for `Disk`.

    Returns:
      How many calls there were, and how many cuts let the action come to its end all the same.
    """
    work = source.with_name("cut")

    def after(disk):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        told = None
        with disk.attached():
            try:
                action(RunDirectory(work))
            except (UserError, Died) as error:
                told = error
        (work / "lock").unlink(missing_ok=True)  # this process, which stands for one that is gone, is alive
        with RunDirectory(work).hold():
            assert not list(work.rglob("*.tmp")), "temporary files stay behind"
            check(RunDirectory(work), told is None)
        return told

    disk = Disk(block=block)
    assert after(disk) is None
    ended = 0
    for cut in range(1, disk.calls + 1):
        told = after(Disk(cut, manner, block=block))
        if isinstance(told, UserError):
            assert str(work) in str(told) and "cannot be written" in str(told)
            assert ("no space left" in str(told)) == (manner == "full")
        assert told is not None or manner != "death"
        ended += told is None
    print(f"\n{action.__name__}, {manner}: {disk.calls} cuts, {ended} without consequence")
    return disk.calls, ended


MANNERS = ("error", "full", "death")
each_manner = pytest.mark.parametrize("manner", MANNERS)
fine_cuts = pytest.mark.parametrize("block", [2048, pytest.param(16, marks=pytest.mark.slow)])


@each_manner
@fine_cuts
def test_a_checkpoint_cut_off_anywhere_leaves_the_old_or_the_new_one(begun, manner, block):
    epochs = set()

    def save_checkpoint(run):
        run.ready("enas", SETTINGS).begin("images").save_checkpoint(checkpoint(3))

    def check(run, ended):
        ready = run.ready("enas", SETTINGS)
        assert ready.done is None
        loaded = ready.begin("images").load_checkpoint()
        assert loaded.epoch in ((3,) if ended else (2, 3))
        same(loaded, loaded.epoch)
        epochs.add(loaded.epoch)

    calls, _ = cut_everywhere(save_checkpoint, begun, manner, check, block=block)
    assert calls >= 30
    assert epochs == {2, 3}


@each_manner
@fine_cuts
def test_a_stages_end_cut_off_anywhere_is_unfinished_or_finished(begun, finished, manner, block):
    expected = RunDirectory(finished).stage("enas")
    states = set()

    def finish_stage(run):
        finish(run.ready("enas", SETTINGS).begin("images"))

    def check(run, ended):
        ready = run.ready("enas", SETTINGS)
        done = ready.done
        states.add(done is not None)
        if done is None:
            assert not ended
            begun = ready.begin("images")
            same(begun.load_checkpoint(), 2)
            done = finish(begun)
        assert dataclasses.replace(done, wall_s=0) == dataclasses.replace(expected.done, wall_s=0)
        stage = run.stage("enas")
        assert stage.genotype() == expected.genotype()
        assert files.digest_arrays(stage.weights()) == files.digest_arrays(weights())
        assert run.ready("enas", SETTINGS).done == done

    calls, _ = cut_everywhere(finish_stage, begun, manner, check, block=block)
    assert calls > 40
    assert states == {False, True}
    with RunDirectory(begun.with_name("cut")).hold():
        assert not (begun.with_name("cut") / "1-enas" / "checkpoint").exists()


@each_manner
def test_a_stage_begun_again_is_the_old_result_or_the_new_beginning(finished, manner):
    """--overwrite discards a finished stage: half of it must never look like a result."""
    again = dataclasses.replace(SETTINGS, config=dataclasses.replace(SETTINGS.config, epochs=5), overwrite=True)
    states = set()

    def start(run):
        run.ready("enas", again).begin("images")

    def check(run, ended):
        stage = run.stage("enas")
        states.add(stage.is_done)
        if stage.is_done:
            assert not ended
            assert run.ready("enas", SETTINGS).done.genotype == stage.genotype().digest
            assert files.digest_arrays(stage.weights()) == files.digest_arrays(weights())
        else:
            ready = run.ready("enas", dataclasses.replace(again, overwrite=False))
            assert ready.done is None
            assert ready.begin("images").load_checkpoint() is None

    calls, _ = cut_everywhere(start, finished, manner, check)
    assert calls > 10
    assert states == ({False} if manner == "full" else {False, True})


@each_manner
def test_a_call_cut_off_while_it_is_noted_loses_no_earlier_one(begun, manner):
    def hold(run):
        with run.hold(seed=7):
            pass

    def check(run, ended):
        seeds = [call["seed"] for call in files.read_sealed(run.path / "run.json")["calls"]]
        assert seeds in (([0, 7, 0],) if ended else ([0, 0], [0, 7, 0]))

    calls, _ = cut_everywhere(hold, begun, manner, check)
    assert calls > 5


def test_an_old_checkpoint_that_cannot_be_removed_is_told(begun, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    stage = RunDirectory(begun).ready("enas", SETTINGS).begin("images")
    with monkeypatch.context() as patch, pytest.raises(files.WriteError, match="checkpoint.*Operation not permitted"):
        patch.setattr(os, "unlink", refuse)
        stage.save_checkpoint(checkpoint(3))
    same(stage.load_checkpoint(), 3)


def test_no_temporary_is_taken_for_a_checkpoint(begun):
    """A killed process leaves a temporary that is as good as a checkpoint, but for its name."""
    stage = RunDirectory(begun).stage("enas")
    both = sorted((stage / "checkpoint").iterdir())
    shutil.copy(both[1], both[1].with_name(f".{both[1].name[:-5]}9.npz.abc.tmp"))
    assert newest_checkpoint(stage).epoch == 2
    with RunDirectory(begun).hold():
        assert sorted((stage / "checkpoint").iterdir()) == both


def test_leftovers_that_may_be_another_process_are_spared(tmp_path):
    old, new, other = tmp_path / ".a.npz.x.tmp", tmp_path / ".b.npz.y.tmp", tmp_path / "c.tmp"
    for path in (old, new, other):
        path.touch()
    os.utime(old, (1, 1))
    files.remove_leftovers(tmp_path, older_than_s=3600)
    assert sorted(tmp_path.iterdir()) == [new, other]
    files.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [other]


# Everything goes through `files.atomic_write`.


def test_every_file_of_a_run_is_written_atomically(smoke_run, tmp_path, monkeypatch):
    """A stage is run once more, and each file it leaves must have come by rename. TensorBoard's event files append."""
    from nhn_tf import stages

    run = before(smoke_run, "prune", tmp_path / "run")
    old = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    renamed = set()
    replace = os.replace

    def noted(source, target):
        assert Path(source).name.startswith(".") and str(source).endswith(".tmp")
        renamed.add(Path(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    stages.run("prune", run, smoke_settings("prune"))
    files_now = {path for path in run.path.rglob("*") if path.is_file()}
    written = {path for path in files_now if old.get(path) != path.stat().st_mtime_ns}
    assert len(written) >= 7
    assert {path for path in written - renamed if "tensorboard" not in path.parts} == set()


def test_only_known_places_open_files_for_writing():
    """What writes without `files.atomic_write`, file by file: an addition must be looked at."""
    words = ("open(", ".write_text(", ".write_bytes(", "np.save(", "savefig(", "os.open(", ".save(path)")
    found = set()
    for path in sorted((ROOT / "nhn_tf").rglob("*.py")):
        code = path.read_text()
        if path.name != "files.py" and any(word in code for word in words):
            found.add(str(path.relative_to(ROOT / "nhn_tf")))
    reading = {"data/cifar_archives.py", "data/pictures.py", "sparse/code_cache.py", "sparse/program/file_format.py"}
    drawing = {"report/figures.py", "sparse/profiling.py"}  # into memory, or through files.atomic_write
    temporary = {
        "export/check.py",
        "export/formats.py",
        "export/reload.py",
        "sparse/library.py",
    }  # in a directory that is then renamed
    appending = {"runs/event_writer.py"}
    nowhere = {"storage/stopping.py", "layers/processes.py"}  # the null device; a process
    assert found - reading - drawing - temporary - appending - nowhere <= {"storage/lock.py"}


# A disk that is really full.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(directory):
    """Takes all the space there is."""
    with contextlib.suppress(OSError), open(directory / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_space(small_disk):
    run = RunDirectory(small_disk / "run")
    with pytest.raises(files.WriteError) as error, run.hold(preset="smoke"):
        stage = run.ready("enas", SETTINGS).begin("images")
        stage.save_checkpoint(checkpoint(1))
        fill(small_disk)
        stage.save_checkpoint(checkpoint(2))
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{stage.path / 'checkpoint'}/")
    assert "2.npz cannot be written: no space left on the device" in first
    assert "0.0 MiB are free" in first
    assert "the same command again" in second
    left = [path.name for path in run.path.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]
    assert len(left) == 3 and {"run.json", "config.json"} < set(left)  # and the first checkpoint
    with pytest.raises(UserError, match="no space left|cannot write into"), run.hold():
        pass
    (small_disk / "filler").unlink()
    with run.hold():
        ready = run.ready("enas", SETTINGS)
        assert ready.done is None
        stage = ready.begin("images")
        same(stage.load_checkpoint(), 1)
        stage.save_checkpoint(checkpoint(2))
        same(stage.load_checkpoint(), 2)


def test_a_full_disk_refuses_a_new_run_without_leaving_a_directory(small_disk):
    fill(small_disk)
    with pytest.raises(UserError, match="no space left|cannot write into"), RunDirectory(small_disk / "run").hold():
        pass
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@pytest.mark.slow
def test_a_training_stopped_by_a_full_disk_ends_bit_for_bit_once_there_is_space(small_disk, tmp_path):
    """Real processes: the disk holds the first checkpoint, but not the second beside it."""
    architecture = tmp_path / "architecture.txt"
    architecture.write_text("0\n2 1\n0 0 1\n")
    settings = ["--stage=base", "--preset=smoke", f"--genotype={architecture}", "--filters=12"]
    settings += ["--checkpoint_minutes=0"]

    def train(directory):
        command = [sys.executable, "train.py", *settings, f"--model_dir={directory}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert train(tmp_path / "undisturbed").returncode == 0
    expected = json.loads((tmp_path / "undisturbed" / "2-base" / "done.json").read_text())
    size = os.path.getsize(tmp_path / "undisturbed" / "2-base" / "weights.npz")
    remount = [
        "mount",
        "-o",
        f"remount,size={3 * size // 1024}k",
        str(small_disk),
    ]  # a checkpoint has two weights' size
    subprocess.run(remount, check=True)
    stopped = train(small_disk / "run")
    assert stopped.returncode == 2, stopped.stderr
    assert "cannot be written: no space left on the device" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert len(list((small_disk / "run" / "2-base" / "checkpoint").glob("*.npz"))) == 1
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    resumed = train(small_disk / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after epoch 0 of 3 and 1 steps" in resumed.stdout
    found = json.loads((small_disk / "run" / "2-base" / "done.json").read_text())
    assert found["weights"] == expected["weights"]
    assert found["metrics"] == expected["metrics"]


DYING = """
import os, sys
import numpy as np
from nhn_tf.storage import files

calls, cut = 0, int(sys.argv[2])
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == cut:
            os._exit(9)
        return function(*args, **kwargs)
    return call

for name in ("fsync", "replace", "chmod", "open"):
    setattr(os, name, counted(getattr(os, name)))
files.np.lib.format.write_array = counted(np.lib.format.write_array)
files.save_npz(sys.argv[1], {f"a{i}": np.full(1000, float(sys.argv[3])) for i in range(20)})
print("calls", calls)
"""


@pytest.mark.slow
def test_a_process_that_really_dies_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "state.npz"

    def save(cut, value):
        command = [sys.executable, "-c", DYING, str(path), str(cut), str(value)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    calls = int(save(0, 1).stdout.split()[-1])
    assert calls >= 25
    for cut in range(1, calls + 1):
        old = files.load_npz(path)["a0"][0]
        assert save(cut, cut + 1).returncode == 9
        arrays = files.load_npz(path)
        assert len(arrays) == 20
        assert len({array[0] for array in arrays.values()}) == 1
        assert arrays["a0"][0] in (old, cut + 1)
