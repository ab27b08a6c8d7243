"""What a terminal shows: one line that is renewed, others' lines whole above it, nothing left over; pipes get lines."""

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import time
import traceback
from pathlib import Path

import pytest

from nhn_tf.runs import monitor
from nhn_tf.runs.monitor import Monitor
from nhn_tf.runs.settings import Behind
from nhn_tf.storage import terminal

ROOT = Path(__file__).resolve().parent.parent
JAX = pytest.mark.jax
LONG = "base epoch 3/60 step 12/80 | 12.0 ms a step | ETA 0:01:10 | best val_accuracy 0.9 | loss 0.4"


class Screen:
    """A terminal, by its other end: what has been written to it, as the rows that a user sees."""

    def __init__(self):
        self.mine, self.its = pty.openpty()
        self.resize(80)
        self.raw = ""
        self._streams = []

    def stream(self):
        """A stream of a process that writes to it."""
        self._streams.append(os.fdopen(os.dup(self.its), "w", buffering=1))
        return self._streams[-1]

    def resize(self, columns):
        self.columns = columns
        fcntl.ioctl(self.its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, until=None, seconds=180):
        """Takes in what has been written; with `until`, waits for that."""
        os.set_blocking(self.mine, False)
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                self.raw += os.read(self.mine, 2**16).decode()
                continue
            if until is None or until in self.raw:
                return self
            assert time.monotonic() < deadline, f"{until!r} does not come: {self.raw!r}"
            time.sleep(0.02)

    @property
    def rows(self):
        """The rows, without trailing spaces; the last is the one that the cursor is in."""
        rows, column = [""], 0
        for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.", self.raw, re.DOTALL):
            if part == "\r":
                column = 0
            elif part == "\n":
                rows.append("")  # the terminal itself puts "\r" in front of each
            elif part == "\x1b[K":
                rows[-1] = rows[-1][:column]
            elif not part.startswith("\x1b"):
                if column == self.columns:
                    rows.append("")
                    column = 0
                rows[-1] = rows[-1][:column] + part + rows[-1][column + 1 :]
                column += 1
        return [row.rstrip() for row in rows]

    def close(self):
        for stream in self._streams:
            stream.close()
        os.close(self.mine)
        os.close(self.its)


@pytest.fixture
def screen(monkeypatch):
    """A terminal that nothing writes to yet; `taken_over` makes it a script's."""
    monkeypatch.setattr(terminal, "live", None)
    monkeypatch.setattr(terminal, "quiet", False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with contextlib.closing(Screen()) as shown:
        yield shown


@pytest.fixture
def taken_over(screen, monkeypatch):
    """Makes the terminal the standard streams called so, of a script that has taken them over; or others."""

    def begin(**streams):
        for name, stream in (streams or {"stdout": screen.stream(), "stderr": screen.stream()}).items():
            monkeypatch.setattr(sys, name, stream)
        terminal.take_over()

    return begin


# The line.


@JAX
def test_a_line_is_renewed_in_place(screen, taken_over):
    taken_over()
    for number in range(3):
        terminal.live.show(f"epoch {number}" + "." * (3 - number))
    assert screen.read().rows == ["epoch 2."]


@JAX
def test_what_others_write_stands_whole_above_it(screen, taken_over):
    taken_over()
    handler = logging.StreamHandler()  # as absl's and TensorFlow's are made, once the streams have been taken over
    terminal.live.show(LONG)
    print("a table", flush=True)
    terminal.live.show("epoch 2")
    handler.emit(logging.LogRecord("absl", logging.WARNING, "", 0, "from a log", None, None))
    terminal.live.show("epoch 3")
    traceback.print_exception(ValueError("from Python"))
    print("half a line ", end="")
    terminal.live.show("epoch 4")
    print("error: the end", file=sys.stderr)
    rows = screen.read().rows
    assert rows == ["a table", "from a log", "ValueError: from Python", "half a line", "error: the end", ""]


@JAX
def test_a_line_is_cut_to_the_terminals_width_as_it_is_now(screen, taken_over):
    taken_over()
    screen.resize(30)
    terminal.live.show(LONG)
    assert screen.read().rows == [LONG[:27].rstrip()]
    screen.resize(50)
    terminal.live.show(LONG)
    assert screen.read().rows == [LONG[:47].rstrip()]
    screen.resize(2)
    terminal.live.show(LONG)
    assert screen.read().rows[-1] == ""


@JAX
@pytest.mark.parametrize(
    ("line", "width", "shown"),
    [
        ("epoch", 5, "epoch"),
        ("epoch", 4, "epoc"),
        ("epoch", 0, ""),
        ("epoch", -1, ""),
        ("猫狗x", 3, "猫"),  # two columns each
        ("猫狗x", 5, "猫狗x"),
        ("e\u0301te", 2, "e\u0301t"),  # an accent of its own takes none
    ],
)
def test_characters_take_the_columns_that_they_take(line, width, shown):
    assert terminal.cut(line, width) == shown


# Where there is none.


@JAX
@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_write_a_line_anew_gets_none(screen, taken_over, monkeypatch, kind):
    monkeypatch.setenv("TERM", kind) if kind else monkeypatch.delenv("TERM", raising=False)
    taken_over()
    assert terminal.live is None
    print("warning: as it is")
    assert screen.read().raw == "warning: as it is\r\n"


@JAX
def test_a_pipe_gets_a_line_for_each_epoch(taken_over, tmp_path):
    taken_over(stdout=(out := io.StringIO()))
    assert terminal.live is None
    watch = Monitor(tmp_path, label="base", total=2)
    for number in (1, 2):
        watch.step(1, 4)
        watch.epoch({"loss": number})
    watch.close()
    lines = out.getvalue().splitlines()
    assert [re.sub(r"ETA \d:\d\d:\d\d", "ETA", line) for line in lines] == [
        "base epoch 1/2 ETA | loss 1",
        "base epoch 2/2 ETA | loss 2",
    ]


@JAX
@pytest.mark.parametrize(("value", "coloured"), [("", True), ("1", False)])
def test_warnings_stand_out_unless_no_color_is_set(screen, taken_over, monkeypatch, value, coloured):
    monkeypatch.setenv("NO_COLOR", value)
    taken_over(stderr=screen.stream())
    print("warning: of data\n  warning: is no head\nerror: of flags", file=sys.stderr)
    assert ("\x1b" in screen.read().raw) == coloured
    assert screen.rows == ["warning: of data", "  warning: is no head", "error: of flags", ""]
    assert screen.raw.count("\x1b[0m") == (2 if coloured else 0)


@JAX
def test_quiet_leaves_warnings_and_results(screen, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back at the end
    terminal.note("digits: 1,797 images")
    out = terminal.be_quiet()
    terminal.note("digits: 1,797 images")
    print("base epoch 1/3")
    print("warning: of two\nlines")
    print("base epoch 2/3", "warning: no head", sep="\n")
    print("{}", file=out)
    said = capsys.readouterr()
    assert said.out == "{}\n"
    assert said.err == "digits: 1,797 images\nwarning: of two\nlines\nwarning: no head\n"


# What stages show.


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    monkeypatch.setattr(monitor, "time", found := Clock())
    return found


@JAX
def test_rate_and_end_leave_out_the_time_of_compiling(screen, taken_over, clock, tmp_path):
    taken_over()
    watch = Monitor(tmp_path, label="base", total=3, behind=Behind(60.0))
    assert screen.read().rows == ["base epoch 1/3"]
    for step in (1, 2, 3):  # of 4: the first takes 30 s, the others 1 s each
        clock.now += 30 if step == 1 else 1
        watch.step(step, 4)
    # 9 of 12 steps are left, at a second each, and the stages behind.
    assert screen.read().rows == ["base epoch 1/3 step 3/4 | 1,000 ms a step | ETA 0:00:09, of the run 0:01:09"]
    clock.now += 7  # the last step, and 6 s of measuring, most of them of compiling
    screen.resize(200)
    watch.epoch({"val_accuracy": 0.5, "loss": 2.0})
    for accuracy in (0.75, 0.625):
        for step in (1, 2, 3):
            clock.now += 0.0625
            watch.step(step, 4)
        clock.now += 0.5
        watch.epoch({"val_accuracy": accuracy, "loss": 1.0})
        row = screen.read().rows[-1]
        if accuracy == 0.75:
            assert row == (
                "base epoch 2/3 | 62.5 ms a step | ETA 0:00:01, of the run 0:01:01 | best val_accuracy 0.75"
                " | val_accuracy 0.75 | loss 1"
            )
    watch.close()
    assert screen.read().rows == ["base epoch 3/3 | 0:00:40 | 62.5 ms a step | best val_accuracy 0.75", ""]


@JAX
def test_the_end_of_the_run_is_estimated_from_the_rate_and_the_first_step(screen, taken_over, clock, tmp_path):
    taken_over()
    behind = Behind(100.0, epochs=5.0, stages=2, is_planned=False)
    watch = Monitor(tmp_path, label="base", total=3, behind=behind)
    for step in (1, 2, 3):  # of 4: the first takes 30 s, the others 1 s each
        clock.now += 30 if step == 1 else 1
        watch.step(step, 4)
    # 9 of 12 steps are left; behind them 100 s, 5 epochs of 4 s, and of 2 stages twice a first step.
    assert screen.read().rows == ["base epoch 1/3 step 3/4 | 1,000 ms a step | ETA 0:00:09, of the run ~0:04:09"]


@JAX
def test_the_best_so_far_counts_the_epochs_of_an_earlier_process(screen, taken_over, tmp_path):
    taken_over()
    past = [{"cycle": 1, "best_so_far": 0.625, "seconds": 1.0}]
    watch = Monitor(tmp_path, label="lds_location", total=3, unit="cycle", history=past)
    watch.epoch({"best_so_far": 0.625, "best_fitness": 0.5})
    assert "lds_location cycle 2/3 | " in screen.read().rows[0]
    assert "best fitness 0.625" in screen.rows[0]


# Whole processes.


@contextlib.contextmanager
def begin(screen, program, *arguments):
    """Begins a program whose terminal is the screen, and which listens to Ctrl-C whatever this process does."""
    head = (
        "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    command = [sys.executable, "-c", head + textwrap.dedent(program), *arguments]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), screen.its)
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


@JAX
def test_ctrl_c_leaves_whole_lines(screen):
    program = f"""
        import sys, time
        from flags import entry
        from nhn_tf.storage import stopping, terminal

        def action():
            with stopping.deferred():
                while True:
                    terminal.live.show({LONG!r})
                    time.sleep(0.05)
                    if stopping.requested():
                        stopping.check("it is saved")

        entry.guarded(lambda: "", action)
    """
    screen.resize(70)
    with begin(screen, program) as process:
        screen.read(until="base epoch")
        os.write(screen.mine, b"\x03")
        assert process.wait(timeout=60) == 130
    first, second, command, last = filter(None, [*screen.read().rows, "the shell"])
    assert first == "SIGINT: finishing this step and saving; once more stops at once"
    assert second == "stopped by SIGINT; it is saved. Go on with:"
    assert command == "  python -c" and last == "the shell"
    assert screen.rows[-1] == ""


@pytest.mark.slow
def test_a_search_on_a_terminal_leaves_a_line_and_its_result(screen, tmp_path):
    screen.resize(100)
    script = (
        "import runpy, sys; sys.argv = ['search.py', *sys.argv[1:]]; runpy.run_path('search.py', run_name='__main__')"
    )
    flags = ["--stage=enas", "--preset=smoke", "--dataset=digits", f"--model_dir={tmp_path}"]
    with begin(screen, script, *flags) as process:
        screen.read(until="{", seconds=300)
        assert process.wait(timeout=60) == 0
    rows = screen.read().rows
    assert re.search(r"enas epoch 1/2 step \d+/10 \| [\d,.]+ ms a step \| ETA", screen.raw)
    assert "enas ranking candidates" in screen.raw
    assert rows[0].startswith("enas epoch 2/2 | 0:0") and "best reward" in rows[0]
    assert json.loads("".join(rows[1:]))["stage"] == "enas"
