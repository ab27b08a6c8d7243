"""Signals: a step is finished first, the second one ends the process at once, and the exit code tells which it was."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nhn_tf.storage import stopping

pytestmark = pytest.mark.jax

ROOT = Path(__file__).resolve().parent.parent
each_signal = pytest.mark.parametrize("number", stopping.SIGNALS)


HEAD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests in the background has it ignored,
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
import hashlib, sys, time
from flags import entry
from nhn_tf.storage import stopping
"""


class Process:
    """A program that is sent signals; `stderr` is the path of the file that it complains into."""

    def __init__(self, process, stderr):
        self._process = process
        self._stderr = stderr

    def send(self, number):
        self._process.send_signal(number)

    def send_twice(self, number, pause):
        self.send(number)
        time.sleep(pause)
        self.send(number)

    def wait_for(self, words, seconds=20):
        """Waits until it complains of something."""
        deadline = time.monotonic() + seconds
        while words not in self._stderr.read_text():
            assert time.monotonic() < deadline, f"{words!r} is not said: {self._stderr.read_text()}"
            time.sleep(0.02)

    def ended(self, seconds=20):
        """(exit code, what it printed since, what it complained of)."""
        out, _ = self._process.communicate(timeout=seconds)
        return self._process.returncode, out, self._stderr.read_text()


@pytest.fixture
def begin(tmp_path):
    """Begins a program, and returns once it has said "ready"; what runs at the end of the test is killed."""
    with contextlib.ExitStack() as owned:

        def begin(program):
            command = [sys.executable, "-c", HEAD + textwrap.dedent(program)]
            path = tmp_path / "stderr.txt"
            stderr = owned.enter_context(open(path, "w"))
            pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "text": True}
            process = owned.enter_context(subprocess.Popen(command, cwd=ROOT, **pipes))
            owned.callback(process.kill)
            assert process.stdout.readline() == "ready\n", path.read_text()
            return Process(process, path)

        yield begin


LOOP = """
def action():
    with stopping.deferred():
        print("ready", flush=True)
        while not stopping.requested():
            time.sleep(0.05)
        print("saving", flush=True)
        stopping.check("stage 'base' is saved after epoch 3 of 5")
entry.guarded(lambda: "", action)
"""


@each_signal
def test_a_step_is_finished_and_saved_and_the_exit_code_is_the_signals(begin, number):
    process = begin(LOOP)
    process.send(number)
    code, out, err = process.ended()
    assert code == 128 + number
    assert out == "saving\n"
    assert "stage 'base' is saved after epoch 3 of 5. Go on with:" in err


@each_signal
def test_a_second_signal_ends_even_what_never_comes_back_from_native_code(begin, number):
    process = begin("""
        def action():
            with stopping.deferred():
                print("ready", flush=True)
                hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
        entry.guarded(lambda: "", action)
    """)
    process.send(number)
    process.wait_for("finishing this step")
    time.sleep(stopping.ONE_WISH_SECONDS)
    process.send(number)
    code, _, err = process.ended()
    assert code == 128 + number
    assert "stopped at once" in err


def test_a_signal_right_behind_the_first_is_the_same_wish(begin):
    process = begin(LOOP.replace('print("saving", flush=True)', 'time.sleep(0.5); print("saving", flush=True)'))
    process.send_twice(signal.SIGTERM, 0.2)
    code, out, _ = process.ended()
    assert (code, out) == (128 + signal.SIGTERM, "saving\n")


def test_a_signal_right_behind_does_not_disturb_those_who_tidy_up(begin):
    process = begin("""
        def action():
            try:
                print("ready", flush=True)
                time.sleep(30)
            finally:
                time.sleep(0.6)
                print("tidied", flush=True)
        entry.guarded(lambda: "", action)
    """)
    process.send_twice(signal.SIGTERM, 0.2)
    code, out, err = process.ended()
    assert (code, out) == (128 + signal.SIGTERM, "tidied\n")
    assert "Traceback" not in err


def test_a_signal_after_the_last_save_ends_the_process_before_it_begins_anything_else(begin):
    process = begin(LOOP.replace("stopping.check(\"stage 'base' is saved after epoch 3 of 5\")", "pass"))
    process.send(signal.SIGINT)
    assert process.ended()[:2] == (128 + signal.SIGINT, "saving\n")


def test_a_signal_that_the_parent_ignores_stays_ignored(begin):
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + textwrap.dedent("""
        def action():
            print("ready", flush=True)
            time.sleep(1)
            return {}
        entry.guarded(lambda: "", action)
    """)
    process = begin(program)
    process.send(signal.SIGINT)
    assert process.ended()[:2] == (0, "{}\n")


def test_where_nothing_is_to_be_saved_the_first_signal_stops(begin):
    process = begin("""
        def action():
            try:
                print("ready", flush=True)
                time.sleep(30)
            finally:
                print("tidied", flush=True)
        entry.guarded(lambda: "", action)
    """)
    process.send(signal.SIGINT)
    code, out, err = process.ended(10)
    assert (code, out) == (128 + signal.SIGINT, "tidied\n")
    assert "stopped by SIGINT" in err


@pytest.mark.parametrize("saved", [True, False])
def test_the_command_to_go_on_with_does_not_begin_again(begin, saved):
    program = LOOP if saved else LOOP.replace("stopping.check(", "str(")
    process = begin(program.replace("entry.guarded(", "sys.argv = ['train.py', '--overwrite=true'];\n"
                                      "from absl import flags; flags.DEFINE_boolean('overwrite', False, '')\n"
                                      "entry.guarded("))  # fmt: skip
    process.send(signal.SIGTERM)
    _, _, err = process.ended()
    assert err.strip().endswith("python train.py")


def test_a_signal_that_is_handed_over_is_not_acted_upon(monkeypatch):
    heard = []
    monkeypatch.setattr(stopping, "_heir", None)
    stopping.hand_over(heard.append)
    stopping._raise_unless_deferred(signal.SIGTERM, None)
    with stopping.deferred():
        stopping.request(signal.SIGINT)
    assert heard == [signal.SIGTERM, signal.SIGINT]
    assert stopping.requested() is None


def test_work_is_not_begun_after_a_signal_that_came_between():
    stopping.request(signal.SIGTERM)
    try:
        with pytest.raises(stopping.Stopped) as stopped, stopping.deferred():
            pytest.fail("begun")
        assert stopped.value.signal == signal.SIGTERM
    finally:
        stopping.request(None)


def test_a_signal_at_the_very_end_of_what_is_deferred_counts(begin):
    process = begin("""
        import os, signal
        def action():
            print("ready", flush=True)
            with stopping.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
            return {"swallowed": True}
        entry.guarded(lambda: "", action)
    """)
    assert process.ended()[:2] == (128 + signal.SIGTERM, "")


def test_a_signal_right_behind_does_not_disturb_the_end_of_a_deferred_stop(begin):
    process = begin("""
        def action():
            try:
                with stopping.deferred():
                    print("ready", flush=True)
                    while not stopping.requested():
                        time.sleep(0.05)
                    stopping.check("all is saved")
            finally:
                print("tidying", flush=True)
                time.sleep(0.6)
                print("tidied", flush=True)
        entry.guarded(lambda: "", action)
    """)
    process.send_twice(signal.SIGTERM, 0.3)
    code, out, err = process.ended()
    assert (code, out) == (128 + signal.SIGTERM, "tidying\ntidied\n")
    assert "all is saved. Go on with:" in err


# A reader who has gone.


def unread_after_a_word(program, tmp_path, *, terminal=False):
    """(exit code, what it complained of) of a program whose standard output loses its reader after the first line."""
    reader, writer = os.openpty() if terminal else os.pipe()
    stderr = tmp_path / "stderr.txt"
    with open(stderr, "w") as file:
        command = [sys.executable, "-c", HEAD + textwrap.dedent(program)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=file)
    os.close(writer)
    try:
        assert os.read(reader, 5) == b"ready"
        time.sleep(0.2)  # where Python does not buffer, the end of the line comes apart
        os.close(reader)
        return process.wait(timeout=20), stderr.read_text()
    finally:
        process.kill()


PRINTING = """
def action():
    with stopping.deferred():
        print("ready", flush=True)
        while not stopping.requested():
            print("epoch", flush=True)
            time.sleep(0.02)
        print("what nobody reads is no error", flush=True)
        stopping.check("stage 'base' is saved after epoch 3 of 5")
entry.guarded(lambda: "", action)
"""


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_a_reader_who_has_gone_is_a_wish_to_save_and_end(tmp_path, terminal):
    code, err = unread_after_a_word(PRINTING, tmp_path, terminal=terminal)
    assert code == 128 + signal.SIGPIPE
    assert "stopped by SIGPIPE; stage 'base' is saved after epoch 3 of 5. Go on with:" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("last", ["while True: print('more', flush=True)", "wait_for_its_end(); print('more')"])
def test_where_nothing_is_to_be_saved_a_reader_who_has_gone_ends_it_without_a_word(tmp_path, last):
    program = f"""
import select
def wait_for_its_end():
    ends = select.poll()
    ends.register(1, 0)
    ends.poll()
def action():
    print("ready", flush=True)
    {last}
entry.guarded(lambda: "", action)
"""
    assert unread_after_a_word(program, tmp_path) == (128 + signal.SIGPIPE, "")


def test_help_to_a_reader_who_has_gone_is_no_error(tmp_path):
    program = "sys.argv.append('--help')\nentry.guarded(lambda: 'ready ' * 10**5, dict)\n"
    assert unread_after_a_word(program, tmp_path) == (128 + signal.SIGPIPE, "")


def test_another_threads_line_to_nobody_is_no_error_in_it(tmp_path):
    program = """
import threading
def action():
    def speak():
        while not stopping.requested():
            print("more", flush=True)
            time.sleep(0.02)
        print("the thread lives", file=sys.stderr)
    print("ready", flush=True)
    speaker = threading.Thread(target=speak)
    speaker.start()
    speaker.join()
    with stopping.deferred():
        pass
entry.guarded(lambda: "", action)
"""
    code, err = unread_after_a_word(program, tmp_path)
    assert (code, err) == (128 + signal.SIGPIPE, "the thread lives\n")
