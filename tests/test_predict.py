"""Predictions for new pictures: the network's own answers, read as training read, without Keras where that can be."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from nhn_tf.data import DataError
from nhn_tf.data.normalization import Normalization
from nhn_tf.export import ExportError, Prediction, Predictor, Preprocessing, load_predictor, predicting, write
from nhn_tf.storage import files

ROOT = Path(__file__).resolve().parent.parent
sparse_only = pytest.mark.skipif(not importlib.util.find_spec("llvmlite"), reason="llvmlite is not installed")
HAS_SPARSE = bool(importlib.util.find_spec("llvmlite"))


@pytest.fixture(scope="session")
def exported(exported_run):
    return exported_run.path


@pytest.fixture(scope="module")
def reference(exported):
    """The run's own network with its data."""
    return write._reference(predicting.source.last_stage(exported), None)


@pytest.fixture(scope="module")
def digits(reference, tmp_path_factory):
    """Twelve test images as files, by number."""
    folder = tmp_path_factory.mktemp("digits")
    for number, image in enumerate(reference.data.test.images[:12]):
        Image.fromarray(image[..., 0]).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


def probabilities_of(reference, images):
    logits = reference.model.predict(reference.preprocessing.normalization(images), verbose=0)
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def without_llvmlite(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llvmlite" else find(name))


# The function.


@pytest.mark.jax_slow
@pytest.mark.parametrize("name", [pytest.param(predicting.SPARSE, marks=sparse_only), predicting.KERAS])
def test_files_are_answered_as_the_runs_own_network_answers_their_images(
    exported, reference, digits, monkeypatch, name
):
    if name == predicting.KERAS:
        without_llvmlite(monkeypatch)
    assert predicting.needs_keras(exported) == (name == predicting.KERAS)
    predictor = load_predictor(exported)
    assert predictor.path == exported / "export" / name
    found = [predictor(str(path)) for path in digits]
    expected = probabilities_of(reference, reference.data.test.images[:12])
    np.testing.assert_allclose([one.probabilities for one in found], expected, atol=1e-5)
    assert [one.class_name for one in found] == [str(label) for label in expected.argmax(1)]


@sparse_only
def test_a_colour_photo_is_made_grey_for_a_grey_network_and_turned_upright(exported, tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    photo.save(tmp_path / "colour.png")
    photo.convert("L").save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me a quarter clockwise"
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    predictor = load_predictor(exported)
    grey = predictor(tmp_path / "grey.png").probabilities
    for name in ("colour.png", "turned.png"):
        np.testing.assert_array_equal(predictor(tmp_path / name).probabilities, grey)


def fixed(logits):
    """A predictor that answers every picture alike."""
    how = Preprocessing("set", (8, 8, 1), Normalization((0.5,), (0.25,)), ("cat", "dog", "fox"))
    return Predictor(lambda images: np.tile(np.float32(logits), (len(images), 1)), how, Path("none"))


def test_probabilities_by_hand():
    # exp(log 6) : exp(log 3) : exp(log 1), of 10; a large number added to all of them changes nothing
    answer = fixed(np.log([3, 6, 1]) + 1000)(np.zeros((8, 8, 1), np.uint8))
    assert answer.class_name == "dog"
    names, shares = zip(*answer.top(), strict=True)
    assert names == ("dog", "cat", "fox")
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=1e-4)
    assert answer.top(2) == answer.top()[:2]


def test_the_network_gets_normalised_pixels():
    seen = []
    predictor = fixed([0, 0, 0])
    predictor._network = lambda images: seen.append(images) or np.zeros((1, 3))
    predictor(np.full((8, 8, 1), 255, np.uint8))
    np.testing.assert_allclose(seen[0], np.full((1, 8, 8, 1), (1 - 0.5) / 0.25), rtol=1e-6)


@pytest.mark.parametrize(
    "images", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 1)), np.zeros((8, 8, 1), "u1")]
)
def test_images_of_another_kind_are_refused(images):
    with pytest.raises(ValueError, match=r"uint8 \[B, 8, 8, 1\]"):
        fixed([0, 0, 0]).predict(images)


def test_a_stream_keeps_the_order_and_names_what_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "BATCH", 3)
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(paths):
        path.write_bytes(b"no picture") if number in (1, 3, 4, 5) else Image.new("L", (5, 9)).save(path)
    found = list(fixed([0, 1, 2]).stream(map(str, paths)))
    assert [path for path, _ in found] == paths
    assert [number for number, (_, result) in enumerate(found) if isinstance(result, DataError)] == [1, 3, 4, 5]
    assert all(isinstance(result, Prediction) for number, (_, result) in enumerate(found) if number in (0, 2, 6, 7))


# Which export.


@pytest.mark.jax_slow
def test_a_run_without_an_export_is_exported_first(run_copy, digits, capsys):
    assert predicting.needs_keras(run_copy.path)
    predictor = load_predictor(run_copy.path)
    assert predictor.path.name == (predicting.SPARSE if HAS_SPARSE else predicting.KERAS)
    assert len(predictor(digits[0]).probabilities) == 10
    said = capsys.readouterr()
    assert said.out == ""
    assert "one is written first" in said.err


@sparse_only
def test_exports_of_weights_that_the_run_no_longer_has_are_not_used(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "run")
    assert not predicting.needs_keras(tmp_path / "run")
    (tmp_path / "run" / "7-final" / "done.json").unlink()  # now the network of stage 'pruned' is the last
    assert predicting._find(tmp_path / "run" / "export") is None


@sparse_only
def test_a_copy_of_the_exports_predicts_alone(exported, digits, tmp_path):
    shutil.copytree(exported / "export", tmp_path / "copy")
    expected = load_predictor(exported)(digits[0]).probabilities
    np.testing.assert_array_equal(load_predictor(tmp_path / "copy")(digits[0]).probabilities, expected)


@sparse_only
def test_a_network_with_another_networks_preprocessing_is_refused(exported, tmp_path):
    shutil.copytree(exported / "export", tmp_path / "copy")
    how = json.loads((tmp_path / "copy" / "preprocessing.json").read_text())
    files.write_json(tmp_path / "copy" / "preprocessing.json", {**how, "class_names": ["a", "b"]})
    with pytest.raises(ValueError, match="not the network that .*preprocessing.json belongs to"):
        load_predictor(tmp_path / "copy")


@pytest.mark.parametrize(
    "change", [{"mean": [0.1, 0.2]}, {"std": [0.0]}, {"class_names": 3}, {"image_shape": [8, 8]}, {"mean": None}]
)
def test_a_preprocessing_that_is_none_is_named(tmp_path, change):
    how = fixed([0, 0, 0]).preprocessing
    files.write_json(tmp_path / "good.json", how.to_json())
    assert Preprocessing.load(tmp_path / "good.json") == how
    files.write_json(tmp_path / "bad.json", how.to_json() | change)
    with pytest.raises(files.DamagedFileError, match=r"bad\.json does not say how to make inputs"):
        Preprocessing.load(tmp_path / "bad.json")


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(ExportError, match=r"no run\.json"):
        load_predictor(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ExportError, match=r"train\.py --stage=base"):
        load_predictor(tmp_path)


# The script.


def script(*arguments, **options):
    command = [sys.executable, "predict.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def folder(digits, tmp_path):
    """Three pictures, one of them deeper, beside files that are none."""
    root = tmp_path / "more"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / ".thumbnails").mkdir()
    for number, name in enumerate(("b.png", "deep/a.png", "deep/deeper/c.PNG", ".thumbnails/b.png")):
        shutil.copy(digits[number], root / name)
    (root / "notes.txt").write_text("no picture")
    return root


@sparse_only
def test_a_line_a_picture_with_folders_searched(exported, folder, digits):
    done = script(f"--model_dir={exported}", digits[5], folder, "--top=2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = ["b.png", "deep/a.png", "deep/deeper/c.PNG"]
    assert [line.split(": ")[0] for line in lines] == [str(digits[5]), *(str(folder / name) for name in names)]
    predictor = load_predictor(exported)
    (first, share), (second, other) = predictor(digits[5]).top(2)
    assert lines[0].split(": ")[1] == f"{first} {100 * share:.1f}%, {second} {100 * other:.1f}%"
    assert "2 files left out: 1 .txt, 1 hidden" in done.stderr


@sparse_only
def test_json_lines_hold_every_picture_the_unreadable_ones_too(exported, digits, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    gone = tmp_path / "gone.png"
    done = script(f"--model_dir={exported}", "--json", "--top=0", tmp_path / "broken.jpg", digits[0], gone)
    assert done.returncode == 1
    broken, digit, missing = map(json.loads, done.stdout.splitlines())
    assert broken["picture"] == str(tmp_path / "broken.jpg") and "cannot be read as a picture" in broken["error"]
    assert missing["picture"] == str(gone) and "there is no such file" in missing["error"]
    expected = load_predictor(exported)(digits[0])
    assert digit["class"] == expected.class_name
    assert list(digit["probabilities"]) == [name for name, _ in expected.top()]
    assert sum(digit["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "broken.jpg" in done.stderr and "gone.png" in done.stderr and "Traceback" not in done.stderr


@sparse_only
def test_neither_keras_nor_a_backend_is_imported(exported, digits):
    program = (
        "import runpy, sys\n"
        "for name in ('keras', 'tensorflow', 'jax', 'matplotlib', 'sklearn'): sys.modules[name] = None\n"
        "runpy.run_path('predict.py', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program, f"--model_dir={exported}", str(digits[0])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{digits[0]}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model_dir is missing"),
        (["--model_dir=nowhere"], "no picture is given"),
        (["--model_dir=nowhere", "tests/test_predict.py"], "nowhere holds no run"),
        (["--model_dir=nowhere", "flags"], "there is no picture in flags"),
        (["--model_dir=nowhere", "--top=-1", "a.png"], "--top=-1"),
    ],
)
def test_a_users_mistake_is_told_in_one_line(arguments, message):
    done = script(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("pruned", "expected"),
    [(0.40, "base"), (0.94, "pruned"), (None, "pruned")],  # of 96 images, 0.95 against 0.94 is chance
)
def test_a_network_that_pruning_has_ruined_is_not_the_one_that_predicts(smoke_run, tmp_path, pruned, expected):
    for name, accuracy in (("2-base", 0.95), ("4-pruned", pruned)):
        (tmp_path / name).mkdir()
        done = files.read_sealed(smoke_run.path / name / "done.json")
        metrics = {**done["metrics"], "val_accuracy": accuracy}
        if accuracy is None:
            del metrics["val_accuracy"]
        files.write_sealed(tmp_path / name / "done.json", {**done, "metrics": metrics})
    assert predicting.source.last_stage(tmp_path).name == expected
