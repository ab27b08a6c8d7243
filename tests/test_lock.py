"""The lock: a lease that is held by touching it, across hosts and containers, where no process can be asked."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nhn_tf import stages
from nhn_tf.errors import RunError
from nhn_tf.runs import RunDirectory
from nhn_tf.storage import files, lock, stopping
from tests.conftest import before, smoke_settings
from tests.test_resume import outcome

ROOT = Path(__file__).resolve().parent.parent
AWAY = {"host": "pod-7f9c", "pid": 7, "began": "1234", "place": "another-boot pid:[1]"}
LEASE = 1.5
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

ELSEWHERE = f"""
import socket, sys, time
from pathlib import Path

from nhn_tf.storage import lock

socket.gethostname = lambda: "pod-7f9c"
lock._place = lambda: "another-boot pid:[1]"
lock.BEAT_SECONDS, lock.LEASE_SECONDS, lock._SETTLE_SECONDS = 0.1, {LEASE}, 0.2
"""
"""The beginning of a program that runs on another host."""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A lock's path, with everything eighty times as fast."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.1)
    yield tmp_path / "lock"
    lock.release(tmp_path / "lock")
    stopping.request(None)


def wait_until(is_so, seconds=10):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def process(program, *arguments):
    """A process that is killed at the end of the context."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, **PIPES) as running:
        try:
            yield running
        finally:
            running.kill()


HOLDER = f"{ELSEWHERE}\nlock.take(Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)"


def test_a_lease_of_another_host_is_taken_over_once_it_has_ended_and_not_before(path, capsys):
    with process(HOLDER, path) as holder:
        assert holder.stdout.readline() == "held\n"
        content = path.read_bytes()
        with pytest.raises(RunError, match=r"in use by process \d+ on pod-7f9c"):
            lock.take(path)
        assert path.read_bytes() == content
        holder.kill()
        holder.wait()
        killed = time.monotonic()
        lock.take(path)
        assert time.monotonic() - killed >= LEASE - 0.1
    assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert f"on pod-7f9c; waiting {LEASE:.0f} s for a sign of life" in capsys.readouterr().err


def test_a_holder_that_was_suspended_writes_nothing_when_it_wakes_up(path):
    program = f"""{ELSEWHERE}
from nhn_tf.storage import files
lock.BEAT_SECONDS = 60.0  # it notices as it writes
lock.take(Path(sys.argv[1]))
print('held', flush=True)
sys.stdin.readline()
files.write_json(Path(sys.argv[1]).with_name('done.json'), 'of the sleeper')
"""
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, cwd=ROOT, **PIPES) as sleeper:
        assert sleeper.stdout.readline() == "held\n"
        sleeper.send_signal(signal.SIGSTOP)
        lock.take(path)
        files.write_json(path.with_name("done.json"), "of who took over")
        sleeper.send_signal(signal.SIGCONT)
        _, told = sleeper.communicate("\n")
    assert "LostError" in told and "has been taken over" in told and f'"pid": {os.getpid()}' in told
    assert files.read_json(path.with_name("done.json")) == "of who took over"
    assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert not list(path.parent.glob(".*.tmp"))


def test_of_many_who_wait_for_the_end_of_a_lease_one_takes_over(path):
    path.write_text(json.dumps(AWAY))
    program = f"""{ELSEWHERE}
print('ready', flush=True)
sys.stdin.readline()
lock.take(Path(sys.argv[1]))
print('held', flush=True)
time.sleep(2)
"""
    command = [sys.executable, "-c", program, str(path)]
    waiters = [subprocess.Popen(command, cwd=ROOT, **PIPES) for _ in range(4)]
    for waiting in waiters:
        assert waiting.stdout.readline() == "ready\n"
    for waiting in waiters:
        waiting.stdin.write("\n")
        waiting.stdin.flush()
    told = [waiting.communicate() for waiting in waiters]
    assert sorted(out for out, _ in told) == ["", "", "", "held\n"]
    assert sum("in use by process" in error for _, error in told) == 3


def test_a_process_of_the_same_name_elsewhere_is_watched_likewise(path, monkeypatch):
    """Its processes cannot be seen from here: that there is none of that number says nothing."""
    lock.take(path)
    mine = json.loads(path.read_bytes())
    path.write_text(json.dumps({**mine, "place": f"{mine['place']}1", "pid": 2**22 + 1}))
    looks = []
    monkeypatch.setattr(lock, "_stirs", lambda *arguments: looks.append(arguments) or True)
    with pytest.raises(RunError, match="in use"):
        lock.take(path)
    assert len(looks) == 1


def test_the_holder_touches_its_lock_until_it_is_released(path):
    lock.take(path)
    for _ in range(2):
        before = path.stat().st_mtime_ns
        wait_until(lambda before=before: path.stat().st_mtime_ns != before)
    lock.release(path)
    assert not path.exists()
    time.sleep(0.3)
    assert not path.exists() and stopping.requested() is None


def test_a_process_whose_lock_was_taken_over_ends_and_writes_nothing_more(path, capsys):
    lock.take(path)
    files.write_json(path.parent / "2-base" / "a.json", 1)
    path.write_text(json.dumps(AWAY))
    with pytest.raises(lock.LostError, match="has been taken over .*pod-7f9c"):
        files.write_json(path.parent / "2-base" / "a.json", 2)
    with pytest.raises(lock.LostError):
        files.remove_tree(path.parent / "2-base")
    assert files.read_json(path.parent / "2-base" / "a.json") == 1
    files.write_json(path.parent.with_name("elsewhere.json"), 2)
    wait_until(stopping.requested)
    assert stopping.requested() == signal.SIGTERM
    assert "has been taken over" in capsys.readouterr().err
    lock.release(path)
    assert json.loads(path.read_text()) == AWAY
    files.write_json(path.parent / "2-base" / "a.json", 3)


def test_a_run_that_was_lost_as_it_began_is_left_to_who_took_it_over(path):
    run = RunDirectory(path.parent / "run")
    with pytest.raises(lock.LostError), run.hold():
        (run.path / "lock").write_text(json.dumps(AWAY))
        files.write_json(run.path / "a.json", 1)
    assert sorted(found.name for found in run.path.iterdir()) == ["lock", "run.json"]


def test_a_process_whose_lock_is_gone_ends_and_writes_nothing_more(path, capsys):
    """As after a sleep through which another has taken the run over, finished it, and released it."""
    lock.take(path)
    path.unlink()
    with pytest.raises(lock.LostError, match=r"lock is gone: somebody has deleted it, or had taken it over"):
        files.write_json(path.with_name("done.json"), "of the sleeper")
    assert not path.with_name("done.json").exists()
    wait_until(stopping.requested)
    assert "is gone" in capsys.readouterr().err


def test_looks_that_fail_do_not_end_a_lease(path, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.3)
    path.write_text(json.dumps(AWAY))
    seen, look, looks = lock._look(path), lock._look, []

    def away_at_first(path):
        looks.append(path)
        if len(looks) < lock._LOOKS:
            raise OSError(errno.EIO, "Input/output error")
        if len(looks) == lock._LOOKS:
            os.utime(path)  # whoever was away comes back
        return look(path)

    monkeypatch.setattr(lock, "_look", away_at_first)
    assert lock._stirs(path, seen)
    looks.clear()
    monkeypatch.setattr(lock, "_look", lambda path: os.stat(path / "nothing"))
    with pytest.raises(NotADirectoryError):
        lock._stirs(path, seen)


@pytest.mark.skipif(not lock._place(), reason="the system does not tell")
def test_a_holder_that_has_ended_and_that_nobody_waits_for_is_gone(path):
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    own = {"host": "here", "pid": child.pid, "began": lock._began(child.pid), "place": lock._place()}
    path.write_text(json.dumps(own))
    with pytest.raises(RunError, match="in use"):
        lock.take(path)
    child.stdin.close()
    wait_until(lambda: lock._state_and_start(child.pid)[0] == "Z")
    lock.take(path)
    child.wait()


@pytest.mark.slow
def test_a_run_killed_on_another_host_goes_on_here_to_the_same_bits(smoke_run, path, tmp_path):
    run = before(smoke_run, "base", tmp_path / "run")
    command = ["train.py", "--stage=base", "--preset=smoke", f"--model_dir={run.path}", "--checkpoint_minutes=0"]
    program = f"{ELSEWHERE}\nimport runpy\nsys.argv = {command!r}\nrunpy.run_path('train.py', run_name='__main__')"
    with process(program) as there:
        wait_until(lambda: len(list(run.stage("base").path.glob("checkpoint/*.npz"))) == 2, seconds=300)
        with pytest.raises(RunError, match="on pod-7f9c"):
            stages.run("base", run, smoke_settings("base"))
        assert there.poll() is None
        there.kill()
        there.wait()
    killed = time.monotonic()
    stages.run("base", run, smoke_settings("base"))
    assert time.monotonic() - killed >= LEASE - 0.1
    assert outcome(run, "base") == outcome(smoke_run, "base")
