"""What the README says can be pasted, runs."""

import re
import shlex
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from nhn_tf.data import digits
from tests.snippets import ROOT, fences, section

README = (ROOT / "README.md").read_text(encoding="utf-8")
# What each example of the README, and of the page that goes on from it, is known by.
EXAMPLES = ("nhn_tf.run.pipeline", "pruning.prune", "Preprocessing.load", "sparse.compile", "EnasSearch(")
PROFILE = "sparse.profile"


def example(what: str, document: str = README) -> str:
    """The only Python block of a document that mentions something."""
    (found,) = (block for _, block in fences(document, "python") if what in block)
    return found


def run(code: str, names: dict) -> dict:
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_each_example_has_its_test():
    assert sorted(map(example, EXAMPLES)) == sorted(block for _, block in fences(README, "python"))


def test_it_begins_with_two_commands_that_need_no_installation():
    first = fences(README, "sh")[0][1].splitlines()
    assert [line.split("  ")[0] for line in first[:2]] == ["make demo", "make test"]


def test_the_library_example_runs_as_written(capsys):
    names = run(example("EnasSearch("), {})
    assert "Results after 2 epochs" in capsys.readouterr().out
    assert names["genotype"].space == names["config"].space


@pytest.mark.slow
def test_a_newcomers_commands_make_a_classifier_of_a_folder_and_predict_a_new_picture(tmp_path):
    commands = fences(section(README, "On your own images"), "sh")[0][1].splitlines()
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

    def call(line, *options):
        words = shlex.split(line, comments=True)
        command = [sys.executable, ROOT / words[1], *words[2:], *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)

    trained = call(train, "--base_epochs=4", "--pruned_epochs=1", "--nobaseline", f"--cache_dir={tmp_path}")
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs/photos/report/report.md").exists()
    predicted = call(predict)
    assert predicted.returncode == 0, predicted.stderr
    assert [name for name in ("new.jpg", "another.png") if name in predicted.stdout] == ["new.jpg", "another.png"]


def some_digits():
    """float32 [B, 8, 8, 1] and their labels [B]."""
    data = digits.read().train.take(np.arange(200))
    return data.images.astype("float32") / 255, data.labels


@pytest.mark.slow
def test_the_example_on_arrays_runs_in_less_time_than_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = some_digits()
    code = example("nhn_tf.run.pipeline")
    assert code.count('"20m"') == 1
    run(code.replace('"20m"', '"5m"'), {"images": images[..., 0], "labels": labels})
    assert (tmp_path / "runs/mine/report/report.html").exists()


def test_the_examples_on_a_model_run_one_after_another(tmp_path, monkeypatch, capsys):
    """What is pruned is compacted, compiled, saved and profiled."""
    pytest.importorskip("llvmlite")
    monkeypatch.chdir(tmp_path)
    images, labels = some_digits()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(16, 3, padding="same"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    names = run(example("pruning.prune"), {"model": model, "images": images, "labels": labels})
    names = run(example("sparse.compile"), names)
    expected = names["small"].predict(images, verbose=0)
    np.testing.assert_allclose(names["logits"], expected, atol=1e-4)
    run(example(PROFILE, (ROOT / "docs/sparse.md").read_text(encoding="utf-8")), names)
    assert {path.name for path in tmp_path.iterdir()} == {"network.nhn", "profile.png"}


def test_the_example_of_an_exported_network_runs_as_written(exported_run, tmp_path, monkeypatch, capsys):
    shutil.copytree(exported_run.path, tmp_path / "runs" / "photos")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    run(example("Preprocessing.load"), {})
    assert capsys.readouterr().out.splitlines()[-1] in map(str, range(10))
    (spoken,) = re.findall(r"`(from nhn_tf.export import load_predictor; [^`]*)`", README)
    run(spoken, {})
