"""The lock across hosts and containers, where no process can be asked: it is held by touching it."""

import contextlib
import json
import os
import signal
import time

import pytest

from nhn_tf.errors import RunError
from nhn_tf.storage import lock, stopping

AWAY = {"host": "pod-7f9c", "pid": 7, "began": "another-boot 1234"}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A lock's path, with everything sixty times as fast."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 1.0)
    yield tmp_path / "lock"
    lock.release(tmp_path / "lock")
    stopping.request(None)


def wait_until(is_so, seconds=10):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_of_a_host_that_is_gone_is_taken_over(path, capsys):
    path.write_text(json.dumps(AWAY))
    lock.take(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "is held by process 7 on pod-7f9c; waiting 1 s for a sign of life" in capsys.readouterr().err


def test_a_lock_of_another_host_that_is_touched_stays(path, monkeypatch):
    lock.take(path)
    content = path.read_text()
    elsewhere = {**lock._own(), "host": "elsewhere"}
    monkeypatch.setattr(lock, "_own", lambda: elsewhere)
    with pytest.raises(RunError, match=f"in use by process {os.getpid()} on"):
        lock.take(path)
    assert path.read_text() == content


def test_a_container_of_the_same_name_is_asked_likewise(path, monkeypatch):
    """Its processes cannot be seen from here: that there is none of that number says nothing."""
    lock.take(path)
    mine = lock._own()
    path.write_text(json.dumps({**mine, "space": "pid:[1]", "pid": 2**22 + 1}))
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


def test_a_process_whose_lock_was_taken_over_ends(path, capsys):
    lock.take(path)
    path.write_text(json.dumps(AWAY))
    wait_until(stopping.requested)
    assert stopping.requested() == signal.SIGTERM
    assert "has been taken over" in capsys.readouterr().err
    lock.release(path)
    assert json.loads(path.read_text()) == AWAY


def test_a_lock_that_was_deleted_by_hand_ends_nobody(path):
    lock.take(path)
    path.unlink()
    with contextlib.suppress(AssertionError):
        wait_until(stopping.requested, seconds=0.5)
    assert stopping.requested() is None
