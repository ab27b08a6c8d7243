"""What is installed: the commands, their data, and that nothing of it needs the checkout."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nhn_tf.storage import backends, commands
from tests.snippets import ROOT, cells, fences

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "nhn_tf", "flags")
"""What a wheel is made from."""


def test_each_command_is_installed_and_is_a_script():
    assert PROJECT["scripts"] == {f"nhn-{name}": f"nhn_tf.flags.commands.{name}:main" for name in commands.NAMES}
    for name in commands.NAMES:
        module = importlib.import_module(f"flags.commands.{name}")
        assert callable(module.main) and f"    nhn-{name} --" in module.__doc__
        assert f"from flags.commands.{name} import main\n" in (ROOT / f"{name}.py").read_text()


@pytest.mark.parametrize(
    ("program", "in_checkout", "expected"),
    [
        ("search.py", True, 'python train.py --stage=base, pip install ".[jax]"'),
        ("/usr/bin/pytest", True, 'python train.py --stage=base, pip install ".[jax]"'),
        ("/venv/bin/nhn-search", True, 'nhn-train --stage=base, pip install ".[jax]"'),  # pip install -e .
        ("/venv/bin/nhn-search", False, 'nhn-train --stage=base, pip install "nhn-tf[jax]"'),
        ("mine.py", False, 'nhn-train --stage=base, pip install "nhn-tf[jax]"'),
    ],
)
def test_texts_name_commands_as_they_are_typed(program, in_checkout, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "--stage=enas"])
    monkeypatch.setattr(commands, "_IN_CHECKOUT", in_checkout)
    assert commands.typed('nhn-train --stage=base, pip install "nhn-tf[jax]"') == expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["train.py", "--data_dir=my photos"], "python train.py '--data_dir=my photos'"),
        (["/venv/bin/nhn-train", "--stage=base"], "nhn-train --stage=base"),
        ([], "python"),
    ],
)
def test_a_call_is_told_as_it_was_typed(argv, expected):
    assert commands.called(argv) == expected


def module(*arguments, **options):
    command = [sys.executable, "-m", "nhn_tf", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **options)


def test_the_package_itself_runs_every_command_in_a_checkout():
    help = module("--help")
    assert help.returncode == 0
    assert re.findall(r"^  (\w+) +[A-Z]", help.stdout, re.MULTILINE) == list(commands.NAMES)
    train = module("train", "--help")
    assert train.returncode == 0 and "--stage: " in train.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: COMMAND must be among search, train,"),
        (["fly"], "Received: 'fly'."),
        (["report"], "--model_dir is missing"),
        (["search", "report"], "unexpected argument 'report'"),
    ],
)
def test_the_package_itself_refuses_what_is_no_command(arguments, message):
    done = module(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "from nhn_tf import pruning",
        "import nhn_tf; nhn_tf.run",
        "from nhn_tf.search import EnasSearch",
        "from nhn_tf.data import datasets",
        "from nhn_tf.export import write_exports",
    ],
)
def test_without_a_backend_what_needs_keras_says_so_in_a_sentence(statement):
    program = f"import sys\nsys.modules |= dict.fromkeys({backends.BACKENDS})\n{statement}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "nhn_tf.storage.backends.MissingBackendError: the Keras backend tensorflow or jax is not installed. "
        "Run: pip install '.[tensorflow]' or pip install '.[jax]'."
    )
    assert "keras" not in done.stderr.split("MissingBackendError")[0]


def requirements(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return {asked.name.lower().replace("_", "-"): asked for asked in map(Requirement, filter(None, lines))}


def test_ranges_are_the_same_wherever_they_stand():
    extras = PROJECT["optional-dependencies"]
    stated = map(Requirement, [*PROJECT["dependencies"], *extras["tensorflow"], *extras["datasets"]])
    stated = {asked.name.lower().replace("_", "-"): asked.specifier for asked in stated}
    assert stated == {name: asked.specifier for name, asked in requirements("requirements.txt").items()}


def test_the_lock_pins_what_is_asked_for_and_names_no_place():
    text, lock = (ROOT / "requirements-lock.txt").read_text(), requirements("requirements-lock.txt")
    assert not re.search(r"://|@|^-|/", text.split("\n", 1)[1], re.MULTILINE)
    for name, asked in requirements("requirements.txt").items():
        (pin,) = lock[name].specifier
        assert pin.operator == "==" and pin.version in asked.specifier, name
    assert "-c requirements-lock.txt" in (ROOT / "Makefile").read_text()


def ignored(path):
    """Whether .dockerignore, whose last matching line decides, keeps a path of the checkout from the build."""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*" and all(line.startswith("!") or line.startswith("**/") for line in lines[1:])
    return not any(line == f"!{path}" for line in lines)


def test_the_image_is_made_of_files_that_are_there_and_does_what_the_readme_says():
    steps = [
        line.split(None, 1) for line in (ROOT / "Dockerfile").read_text().splitlines() if re.match(r"[A-Z]+ ", line)
    ]
    sources = [source for step, rest in steps if step == "COPY" for source in rest.split()[:-1]]
    assert set(SOURCES) | {"requirements-lock.txt"} == set(sources)
    assert all((ROOT / source).exists() and not ignored(source) for source in sources)
    (image,) = (rest for step, rest in steps if step == "FROM")
    assert re.fullmatch(r"python:3\.11-slim", image)  # the Python of the lock
    (install,) = (rest for step, rest in steps if step == "RUN")
    assert set(re.search(r"\[([\w,]+)\]", install)[1].split(",")) <= set(PROJECT["optional-dependencies"])
    (default,) = (json.loads(rest) for step, rest in steps if step == "CMD")
    lines = [shlex.split(line, comments=True) for _, block in fences(README, "sh") for line in block.splitlines()]
    assert default in lines
    runs = [line for line in lines if line[:2] == ["docker", "run"]]
    assert runs and all(f"{word}".startswith("nhn-") for line in runs for word in line[line.index("nhn") + 1 :][:1])


def test_the_notebook_installs_the_package_only_where_it_is_missing(monkeypatch, tmp_path):
    first = cells(ROOT / "examples" / "quickstart.ipynb")[0]["source"]
    called = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: called.append(command[1:]))
    monkeypatch.chdir(ROOT / "examples")
    exec(first, {})
    assert called == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(first, {})
    monkeypatch.chdir(tmp_path)
    exec(first, {})
    pip = ["-m", "pip", "install", "--quiet"]
    assert called == [[*pip, "..[tensorflow,sparse]"], [*pip, "nhn-tf[tensorflow,sparse]"]]


def call(*command, cwd, **options):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=3600, **options
    )
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The sources alone: a build leaves files in its folder."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    program = "import sys, setuptools.build_meta; setuptools.build_meta.build_sdist(sys.argv[1])"
    call(sys.executable, "-c", program, out, cwd=checkout)
    (path,) = out.glob("nhn_tf-*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel that the source distribution gives."""
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, sdist, cwd=out)
    (path,) = out.glob("nhn_tf-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of commands of an environment that has the wheel, and the packages of this one."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False)
    (site,) = root.glob("lib/python*/site-packages")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={root / 'bin' / 'python'}")
    call(*pip, "install", "--no-deps", "--no-index", wheel, cwd=root)
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "bin"


@pytest.fixture
def environment():
    """The variables, without a way back to the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
def test_the_wheel_holds_every_file_and_puts_nothing_beside_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "nhn_tf",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    tracked = subprocess.run(
        ["git", "ls-files", "nhn_tf", "flags"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {re.sub(r"^flags/", "nhn_tf/flags/", name) for name in tracked.stdout.split()}
    assert {name for name in names if name.startswith("nhn_tf/")} == files
    assert {"nhn_tf/py.typed", "nhn_tf/data/digits.npz", "nhn_tf/report/templates/report.html.j2"} <= files


@pytest.mark.slow
def test_an_installation_names_its_own_commands(installed, tmp_path, environment):
    where = call(installed / "python", "-c", "import nhn_tf; print(nhn_tf.__file__)", cwd=tmp_path, env=environment)
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)
    help = call(installed / "python", "-m", "nhn_tf", "--help", cwd=tmp_path, env=environment)
    assert "  pipeline  Makes a network for a data set" in help.stdout
    for name in commands.NAMES:
        text = call(installed / f"nhn-{name}", "--help", cwd=tmp_path, env=environment).stdout
        assert f"    nhn-{name} --" in text and ".py" not in text
    for program in ([installed / "nhn-train"], [installed / "python", "-m", "nhn_tf", "train"]):
        command = [*map(str, program), "--stage=base", "--preset=smoke", "--model_dir=run"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.endswith("Run: nhn-search --stage=enas --model_dir=run --preset=smoke\n")


@pytest.mark.slow
def test_an_installation_runs_the_demo_away_from_the_checkout(installed, tmp_path, environment):
    done = call(installed / "nhn-pipeline", "--preset=demo", "--model_dir=runs/demo", cwd=tmp_path, env=environment)
    final = json.loads((tmp_path / "runs/demo/7-final/done.json").read_text())
    assert final["metrics"]["test_accuracy"] >= 0.97
    assert "Predict: nhn-predict --model_dir=runs/demo PICTURE" in done.stdout
    report = (tmp_path / "runs/demo/report/report.md").read_text(encoding="utf-8")
    assert "nhn-pipeline --preset=demo --model_dir=runs/demo" in report
    assert "nhn-pipeline --repeat=runs/demo/run.json" in report and "python pipeline.py" not in report
    (journal,) = json.loads((tmp_path / "runs/demo/run.json").read_text())["calls"]
    assert journal["git_commit"] is None
