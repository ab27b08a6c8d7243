"""The backend is chosen and checked before Keras loads, by the variable and by Keras's configuration file alike."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flags import backend_choice
from nhn_tf.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installed(monkeypatch):
    """Makes only some backends look installed, and keeps them from being loaded."""

    def only(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in names else None)

    class Module:
        class config:
            list_physical_devices = staticmethod(list)

    monkeypatch.setattr(importlib, "import_module", lambda name: Module)
    monkeypatch.setenv("KERAS_BACKEND", "")  # as if it were not set, and restored at the end
    only("tensorflow", "jax")
    return only


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes Keras's configuration file."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def write(**entries):
        (tmp_path / "keras.json").write_text(json.dumps(entries))

    write()
    return write


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"backend": "torch"}, "the backend in .*keras.json must be among tensorflow, jax. Received: 'torch'"),
        (
            {"image_data_format": "channels_first"},
            "must be channels_last. Received: 'channels_first'",
        ),
        ({"floatx": "float16"}, "floatx must be float32. Received: 'float16', in .*keras.json"),
        ({"floatx": "float64"}, "floatx must be float32"),
    ],
)
def test_the_configuration_file_is_checked_like_the_variable(installed, config, entries, message):
    config(**entries)
    with pytest.raises(UserError, match=message):
        backend_choice.prepare()


def test_the_variable_goes_before_the_file(installed, config, monkeypatch):
    config(backend="torch")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert backend_choice.prepare() == "jax"
    config(backend="jax")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert backend_choice.prepare() == "tensorflow"


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_file_that_keras_passes_over_says_nothing(installed, config, tmp_path, content):
    (tmp_path / "keras.json").unlink()
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    assert backend_choice.prepare() == os.environ["KERAS_BACKEND"] == "tensorflow"


@pytest.mark.parametrize("entries", [{}, {"backend": "tensorflow"}])
def test_where_only_one_is_installed_it_computes(installed, config, capsys, entries):
    config(**entries)  # Keras writes the default into the file by itself
    installed("jax")
    assert backend_choice.prepare() == os.environ["KERAS_BACKEND"] == "jax"
    assert capsys.readouterr().err == "tensorflow is not installed; jax is, and computes.\n"


def test_a_backend_that_was_asked_for_is_not_replaced(installed, config, monkeypatch):
    installed("jax")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(UserError, match=r"tensorflow is not installed. Run: .*'\.\[tensorflow\]'.*KERAS_BACKEND=jax"):
        backend_choice.prepare()


def test_where_none_is_installed_both_are_named(installed, config):
    installed()
    with pytest.raises(UserError, match=r"tensorflow or jax is not installed. Run: .*\[tensorflow\].* or .*\[jax\]"):
        backend_choice.prepare()


CHATTER = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795657987.408214    9329 port.cc:153] oneDNN custom operations are on.\n"
    "I0000 00:00:1795656746.546429   29819 cpu_feature_guard.cc:227] This TensorFlow binary is optimized.\n"
    "To enable the following instructions: AVX2, rebuild TensorFlow.\n"
    "E0000 00:00:1795657997.495508    9329 cuda_platform.cc:52] failed call to cuInit: INTERNAL\n"
)


@pytest.mark.parametrize("level", ["0", "2"])
def test_only_what_tensorflow_says_at_every_start_is_kept_off_the_screen(level):
    program = (
        "import os, sys\n"
        "from flags import backend_choice\n"
        "with backend_choice._without_chatter():\n"
        f"    os.write(2, {CHATTER.encode()!r} + b'E0000 elsewhere.cc:1] a real error\\n')\n"
        "    print('from Python', file=sys.stderr)\n"
        "print('behind', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": level},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    kept = "E0000 elsewhere.cc:1] a real error\nfrom Python\nbehind\n"
    assert done.stderr == (CHATTER + kept if level == "0" else kept)


def test_an_error_while_the_backend_loads_is_not_lost():
    program = (
        "import os\n"
        "from flags import backend_choice\n"
        "with backend_choice._without_chatter():\n"
        "    os.write(2, b'libcuda is odd\\n')\n"
        "    raise ImportError('no libcuda')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.stderr.startswith("libcuda is odd\n") and "ImportError: no libcuda" in done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="TensorFlow is not installed")
def test_a_script_starts_without_tensorflows_lines():
    program = "from flags import entry\nentry.check_backend()\nimport nhn_tf.stages"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
