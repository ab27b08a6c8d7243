"""What the README says can be pasted, runs."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nhn_tf.export import write_exports

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_library_example_runs_as_written(capsys):
    section = README.split("## As a library")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "Results after 2 epochs" in capsys.readouterr().out
    assert names["genotype"].space == names["config"].space


@pytest.mark.slow
def test_a_newcomers_commands_make_a_classifier_of_a_folder_and_predict_a_new_picture(tmp_path):
    section = README.split("## On your own images")[1].split("\n## ")[0]
    commands = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()
    train, predict = (
        next(line for line in commands if line.startswith(f"python {name}")) for name in ("pipeline", "predict")
    )
    rng = np.random.default_rng(0)
    for label, colour in (("cat", (200, 40, 40)), ("dog", (40, 40, 200))):
        (tmp_path / "photos" / "train" / label).mkdir(parents=True)
        for number in range(30):
            pixels = np.clip(np.array(colour) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / "train" / label / f"{number}.png")
    Image.new("RGB", (40, 30), (200, 40, 40)).save(tmp_path / "new.jpg")
    (tmp_path / "more").mkdir()
    Image.new("RGB", (30, 40), (40, 40, 200)).save(tmp_path / "more" / "another.png")

    def run(line, *options):
        words = shlex.split(line, comments=True)
        command = [sys.executable, ROOT / words[1], *words[2:], *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)

    trained = run(train, "--base_epochs=4", "--pruned_epochs=1", "--nobaseline", f"--cache_dir={tmp_path}")
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs/photos/report/report.md").exists()
    predicted = run(predict)
    assert predicted.returncode == 0, predicted.stderr
    assert [name for name in ("new.jpg", "another.png") if name in predicted.stdout] == ["new.jpg", "another.png"]


def test_every_file_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).resolve().parent.parent / target).exists(), target


def test_the_example_of_an_exported_network_runs_as_written(smoke_run, tmp_path, monkeypatch, capsys):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Preprocessing" in block)
    shutil.copytree(smoke_run.path, tmp_path / "runs" / "photos")
    write_exports(tmp_path / "runs" / "photos", ["keras"])
    Image.new("RGB", (60, 40), "red").save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] in map(str, range(10))
