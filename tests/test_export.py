"""Exports: the same answers, from ordinary Keras layers, in a process that has never seen this package."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from nhn_tf import pruning
from nhn_tf.export import FORMATS, ExportError, check, formats, load_predictor, markdown, write, write_exports
from nhn_tf.export.plain import plain
from nhn_tf.export.plain_path import plain_path
from nhn_tf.layers import BatchNorm, FactorizedReduction, GroupedGlobalPool, MaskedConv2D
from nhn_tf.models import network
from nhn_tf.storage import files, stopping
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.space import Space
from tests import events

ROOT = Path(__file__).resolve().parent.parent
GENOTYPE = Genotype(
    Space(6, 3),
    ("conv3x3", "sep_conv5x5", "max_pool3x3", "conv5x5", "avg_pool3x3", "sep_conv3x3"),
    ((), (0,), (), (0, 2), (1,), (0, 4)),
    addons=(Addon(1, 3, 1), Addon(5, 5, 0)),
)


def randomized(model, rng, *, density=0.4):
    """Every weight, statistic and mask at random."""
    for layer in model.layers:
        for variable in layer.variables:
            if variable.name == "mask":
                continue
            low = 0.5 if variable.name in ("moving_variance", "gamma") else -0.5
            variable.assign(rng.uniform(low, low + 1, variable.shape))
        if isinstance(layer, MaskedConv2D):
            layer.set_mask(rng.random(tuple(layer.mask.shape)) < density)
    return model


def small_network(*, separable_as_dense=False, dropout=0.5):
    model = network.build(
        GENOTYPE,
        input_shape=(8, 12, 3),
        num_classes=5,
        # An odd width: the two halves of a reduction differ.
        form=Form(filters=5, separable_as_dense=separable_as_dense),
        dropout=dropout,
    )
    return randomized(model, np.random.default_rng(0))


def answers(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def images_of(model, count=4):
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype("float32")


# Ordinary layers.


@pytest.mark.jax_slow
@pytest.mark.parametrize("separable_as_dense", [False, True])
@pytest.mark.parametrize("prepare", [lambda model: model, pruning.compact], ids=["masked", "compacted"])
def test_a_plain_network_answers_alike(prepare, separable_as_dense):
    model = small_network(separable_as_dense=separable_as_dense)
    expected = answers(model, images_of(model))
    found = answers(plain(prepare(model)), images_of(model))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.jax_slow
def test_a_plain_network_is_of_ordinary_float32_layers_for_inference():
    result = plain(small_network())
    assert {type(layer).__module__.split(".")[0] for layer in result.layers} == {"keras"}
    assert "nhn_tf" not in json.dumps(result.get_config())
    assert not [layer for layer in result.layers if isinstance(layer, keras.layers.Dropout)]
    assert {variable.dtype for variable in result.variables} == {"float32"}


@pytest.mark.jax_slow
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (MaskedConv2D(4, 3, strides=2, padding="valid", activation="relu", name="it"), (7, 5, 3)),
        (BatchNorm(name="it"), (4, 3)),
        (FactorizedReduction(5, name="it"), (6, 4, 3)),
        (FactorizedReduction(4, filters_a=0, name="it"), (6, 4, 3)),
        (FactorizedReduction(4, filters_a=4, name="it"), (6, 4, 3)),
        (GroupedGlobalPool(name="it"), (5, 3, 4)),
    ],
    ids=["masked_conv", "batch_norm", "reduction", "reduction_without_a", "reduction_without_b", "global_pool"],
)
def test_each_layer_has_an_ordinary_one(layer, shape):
    images = keras.Input(shape)
    model = randomized(keras.Model(images, layer(images)), np.random.default_rng(0))
    result = plain(model)
    np.testing.assert_allclose(answers(result, images_of(model)), answers(model, images_of(model)), atol=2e-6)
    assert "it" in [kept.name for kept in result.layers]


@pytest.mark.jax_slow
def test_a_reduction_by_hand():
    layer = FactorizedReduction(2, name="reduce")
    images = keras.Input((2, 2, 1))
    model = keras.Model(images, layer(images))
    layer.kernel_a.assign([[[[10.0]]]])
    layer.kernel_b.assign([[[[100.0]]]])
    found = answers(plain(model), np.arange(1, 5, dtype="float32").reshape(1, 2, 2, 1))
    assert found.ravel().tolist() == [10.0, 400.0]  # pixel (0, 0) is 1, pixel (1, 1) is 4


@pytest.mark.jax_slow
def test_a_plain_network_keeps_mixed_precision_out():
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 1, dtype="mixed_bfloat16")])
    assert plain(model).layers[-1].compute_dtype == "float32"


@pytest.mark.jax_slow
def test_what_has_no_ordinary_layer_is_named():
    images = keras.Input((4, 4, 2))
    with pytest.raises(ValueError, match="'normal'.*batch"):
        plain(keras.Model(images, BatchNorm(use_batch_statistics=True, name="normal")(images)))

    @keras.saving.register_keras_serializable("elsewhere")
    class Doubling(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    with pytest.raises(ValueError, match=r"'twice' \(Doubling\).*elsewhere>Doubling"):
        plain(keras.Model(images, Doubling(name="twice")(images)))


@pytest.mark.parametrize("call", [lambda it, x, s: it(x, s), lambda it, x, s: it(x, initial_state=s)])
def test_a_layer_that_reads_more_than_its_first_argument_is_named(call):
    series, state = keras.Input((5, 3)), keras.Input((4,))
    model = keras.Model([series, state], call(keras.layers.SimpleRNN(4, name="recurrent"), series, state))
    with pytest.raises(ValueError, match=r"'recurrent' \(SimpleRNN\).*first argument"):
        plain(model)


# Which formats.


@pytest.fixture
def without(monkeypatch):
    """Makes packages look as if they were not installed."""
    find = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else find(name))

    return hide


def test_all_passes_over_what_lacks_a_package_and_names_it(without):
    without("tf2onnx", "ai_edge_litert", "llvmlite")
    chosen, skipped = formats.choose(["all"])
    assert chosen == ["keras", "saved_model"]
    assert set(skipped) == {"onnx", "litert", "nhn"}
    assert "tf2onnx" in skipped["onnx"] and "pip install '.[onnx]'" in skipped["onnx"]


@pytest.mark.parametrize(("name", "package", "extra"), [("onnx", "onnxruntime", "onnx"), ("nhn", "llvmlite", "sparse")])
def test_a_format_asked_for_by_name_must_be_possible(without, name, package, extra):
    without(package)
    for asked in ([name], ["keras", name], ["all", name]):
        with pytest.raises(ExportError, match=rf"--format={name} .*{package}.*'\.\[{extra}\]'"):
            formats.choose(asked)


@pytest.mark.parametrize("name", ["saved_model", "onnx", "litert"])
def test_on_jax_the_message_says_which_backend_to_take(monkeypatch, name):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match=f"--format={name} .*KERAS_BACKEND=tensorflow"):
        formats.choose([name])
    assert name in formats.choose(["all"])[1]


def test_where_tensorflow_is_not_installed_the_message_says_how_to_get_it(monkeypatch, without):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    without("tensorflow")
    with pytest.raises(ExportError, match=r"not on jax: pip install '\.\[tensorflow\]', then .*KERAS_BACKEND"):
        formats.choose(["onnx"])


@pytest.mark.parametrize("asked", [[], ["tflite"], ["keras", ""]])
def test_an_unknown_format_is_refused(asked):
    with pytest.raises(ExportError, match="keras, saved_model, onnx, litert, nhn, all"):
        formats.choose(asked)


@pytest.mark.jax_slow
def test_the_extras_that_messages_name_exist():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for form in FORMATS.values():
        assert not form.extra or f"\n{form.extra} = [" in text


# A run's exports.


def stages_of(run):
    paths = [path for path in run.path.glob("[1-7]-*/*") if path.name != "tensorboard"]
    return {path.relative_to(run.path): path.stat().st_mtime_ns for path in paths}


@pytest.mark.jax_slow
def test_a_run_is_exported_and_loaded_again_in_a_fresh_process(exported_run, smoke_run):
    asked = ["keras", *(["nhn"] if importlib.util.find_spec("llvmlite") else [])]
    assert stages_of(exported_run) == stages_of(smoke_run)
    result = json.loads((exported_run.path / "export" / "export.json").read_text())
    assert result["stage"] == "final" and list(result["formats"]) == asked
    for row in result["formats"].values():
        assert row["max_abs_error"] < 1e-4
        assert row["same_top1"] == 1.0
        assert set(row["latency_ms"]) == {"1", "16"} and min(row["latency_ms"].values()) > 0
        assert row["bytes"] == (exported_run.path / "export" / row["file"]).stat().st_size
    fastest = min(row["latency_ms"]["1"] for row in result["formats"].values())
    [latency] = events.read(exported_run.stage("final") / "tensorboard")["export", "figures/latency_ms"][1]
    assert latency.value == pytest.approx(fastest)

    # What a user needs beside the file: normalisation and names. Straight from pixels to the run's own accuracy.
    told = json.loads((exported_run.path / "export" / "preprocessing.json").read_text())
    data = write._reference(exported_run.stage("final"), None).data
    images = (data.test.images / 255 - np.array(told["mean"])) / np.array(told["std"])
    model = keras.saving.load_model(exported_run.path / "export" / "network.keras", compile=False)
    accuracy = np.mean(answers(model, images.astype("float32")).argmax(1) == data.test.labels)
    assert accuracy == pytest.approx(exported_run.stage("final").done.metrics["test_accuracy"], abs=1e-6)
    assert told["class_names"] == [str(digit) for digit in range(10)]

    text = (exported_run.path / "export" / "export.md").read_text()
    assert "`network.keras`" in text and "preprocessing.json" in text and keras.__version__ in text
    names = {path.name for path in (exported_run.path / "export").iterdir()}
    assert names == {"preprocessing.json", "export.md", "export.json", *(FORMATS[name].file for name in asked)}


@pytest.fixture
def one_reference(monkeypatch):
    """Builds the network of each stage once."""
    known, reference = {}, write._reference

    def remembered(stage, data_dir):
        if stage.name not in known:
            known[stage.name] = reference(stage, data_dir)
        return known[stage.name]

    monkeypatch.setattr(write, "_reference", remembered)


@pytest.fixture
def unchecked(one_reference, monkeypatch):
    """Leaves out the fresh process, which other tests start."""
    row = {"bytes": 1, "max_abs_error": 0.0, "same_top1": 1.0, "load_s": 1.0, "latency_ms": {"1": 1.0, "16": 2.0}}
    monkeypatch.setattr(check, "check", lambda *arguments, **settings: {**row, "versions": {}})


def write_a_file(monkeypatch, name, content):
    """Has a format write some bytes only."""
    form = dataclasses.replace(FORMATS[name], write=lambda network, path: path.write_bytes(content), modules=())
    monkeypatch.setitem(FORMATS, name, form)


def exported(run):
    return json.loads((run.path / "export" / "export.json").read_text())["formats"]


def test_exports_of_the_same_network_stay_and_of_another_go(run_copy, unchecked, monkeypatch):
    write_a_file(monkeypatch, "keras", b"1")
    write_a_file(monkeypatch, "nhn", b"2")
    write_exports(run_copy.path, ["keras"])
    write_exports(run_copy.path, ["nhn"])
    assert set(exported(run_copy)) == {"keras", "nhn"}
    (run_copy.stage("final") / "done.json").unlink()  # now the network of stage 'pruned' is the last
    assert write_exports(run_copy.path, ["nhn"])["stage"] == "pruned"
    assert set(exported(run_copy)) == {"nhn"}
    assert not (run_copy.path / "export" / "network.keras").exists()


def test_an_export_that_answers_otherwise_never_takes_its_name(run_copy, one_reference, monkeypatch):
    def reload(shift):
        def save(name, path, work):
            np.save(work / "logits.npy", logits + np.float32(shift))
            return {"load_s": 1.0, "latency_ms": {"1": 1.0, "16": 2.0}, "versions": {}}

        monkeypatch.setattr(check, "_reload", save)

    logits = write._reference(run_copy.stage("final"), None).logits
    reload(shift=0)
    write_a_file(monkeypatch, "keras", b"good")
    write_exports(run_copy.path, ["keras"])
    reload(shift=1 + np.abs(logits).max())
    write_a_file(monkeypatch, "keras", b"bad")
    with pytest.raises(ExportError, match="differ"):
        write_exports(run_copy.path, ["keras"])
    directory = run_copy.path / "export"
    assert (directory / "network.keras").read_bytes() == b"good"
    assert not list(directory.glob(".*"))


class ConverterError(Exception):
    """As converters raise: no ValueError, several lines."""


def fails(monkeypatch, name, error):
    """Has a format's writer raise."""

    def save(network, path):
        raise error

    monkeypatch.setitem(FORMATS, name, dataclasses.replace(FORMATS[name], write=save, modules=(), tensorflow=False))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("the maps need 3 GiB."), "the onnx export cannot be written: the maps need 3 GiB."),
        (ConverterError("no op 'X'\n  at y"), "the onnx export cannot be written: ConverterError: no op 'X'."),
        (FileNotFoundError(2, "gone"), "the onnx export cannot be written: FileNotFoundError: [Errno 2] gone."),
        (AssertionError(), "the onnx export cannot be written: AssertionError."),
    ],
)
def test_what_a_writer_raises_is_told_in_one_line(tmp_path, monkeypatch, error, message):
    fails(monkeypatch, "onnx", error)
    with pytest.raises(ExportError) as caught:
        write._export("onnx", None, tmp_path, None)
    assert str(caught.value) == message
    assert caught.value.__cause__ is error  # which --debug shows
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), stopping.Stopped(15)])
def test_a_wish_to_stop_is_no_failure_of_a_writer(tmp_path, monkeypatch, error):
    fails(monkeypatch, "onnx", error)
    with pytest.raises(type(error)):
        write._export("onnx", None, tmp_path, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "full"), stopping.Stopped(15)])
def test_a_directory_that_cannot_be_replaced_keeps_its_name(tmp_path, unchecked, monkeypatch, error):
    def save(content):
        def make(network, path):
            path.mkdir()
            (path / "weights").write_text(content)

        form = dataclasses.replace(FORMATS["saved_model"], write=make)
        monkeypatch.setitem(FORMATS, "saved_model", form)
        nothing = write._Reference(None, None, None, np.zeros(0), np.zeros(0))
        write._export("saved_model", None, tmp_path, nothing)

    def refuse(*paths):
        raise error

    save("first")
    save("second")  # a directory takes the place of another
    with monkeypatch.context() as patch, pytest.raises((files.WriteError, stopping.Stopped)):
        patch.setattr(write.os, "replace", refuse)
        save("third")
    assert (tmp_path / "saved_model" / "weights").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model"]


def test_of_all_formats_one_that_fails_is_skipped_with_its_reason(run_copy, unchecked, without, monkeypatch):
    without("ai_edge_litert", "tf2onnx")
    write_a_file(monkeypatch, "keras", b"1")
    write_a_file(monkeypatch, "nhn", b"2")
    fails(monkeypatch, "saved_model", ConverterError("no op 'X'\nat y"))
    skipped = write_exports(run_copy.path, ["all"])["skipped"]
    assert skipped["saved_model"] == "the saved_model export cannot be written: ConverterError: no op 'X'"
    assert set(exported(run_copy)) == {"keras", "nhn"}
    text = (run_copy.path / "export" / "export.md").read_text()
    assert "- saved_model: the saved_model export cannot be written: ConverterError: no op 'X'.\n" in text

    # By name it ends the call, but the table has what was written before.
    (run_copy.path / "export" / "export.json").unlink()
    with pytest.raises(ExportError, match="the saved_model export cannot be written"):
        write_exports(run_copy.path, ["keras", "saved_model", "nhn"])
    assert set(exported(run_copy)) == {"keras"}

    for name in ("keras", "nhn"):
        fails(monkeypatch, name, ConverterError("no"))
    with pytest.raises(ExportError, match=r"^no format could be written\. The first, keras: .*: no\.$"):
        write_exports(run_copy.path, ["all"])


def test_a_layer_that_the_sparse_runtime_lacks_is_named_without_advice_for_programmers(tmp_path):
    pytest.importorskip("llvmlite")
    images = keras.Input((4, 4, 2))
    model = keras.Model(images, keras.layers.LayerNormalization(axis=1, name="odd")(images))
    with pytest.raises(ExportError, match=r"cannot be written: layer 'odd' \(LayerNorm.*") as caught:
        write._export("nhn", formats.Network(model), tmp_path, None)
    assert "fallback" not in str(caught.value)


@pytest.mark.parametrize(("found", "message"), [([[np.nan, 0]], "by nan"), ([[0, 0, 0]], "outputs")])
def test_neither_nan_nor_another_shape_passes(tmp_path, monkeypatch, found, message):
    monkeypatch.setattr(check, "_reload", lambda name, path, work: np.save(work / "logits.npy", np.array(found)))
    with pytest.raises(ExportError, match=message):
        check.check("keras", tmp_path, np.zeros((1, 8, 8, 1)), np.zeros((1, 2)), work=tmp_path)


def test_a_network_that_answers_nan_itself_is_not_blamed_on_an_export():
    check.check_reference("final", np.array([[0.0, -3.0]]))
    with pytest.raises(ExportError, match="stage 'final' itself answers with NaN or infinity to 2 of 3 test images"):
        check.check_reference("final", np.array([[0.0, np.nan], [0.0, 1.0], [-np.inf, np.nan]]))


def test_an_export_whose_loader_prints_no_utf8_is_told_in_one_line(tmp_path, monkeypatch):
    loader = tmp_path / "reload.py"
    loader.write_text("import sys\nsys.stderr.buffer.write(b'caf\\xe9')\nsys.exit(1)\n")
    monkeypatch.setattr(check, "_RELOAD", loader)
    with pytest.raises(ExportError, match="cannot be loaded again as Keras: caf\ufffd"):
        check.check("keras", tmp_path, np.zeros((1, 8, 8, 1)), np.zeros((1, 2)), work=tmp_path)


def test_a_damaged_file_is_told_in_one_line(tmp_path):
    pytest.importorskip("llvmlite")
    path = tmp_path / "network.nhn"
    path.write_bytes(b"no network")
    with pytest.raises(ExportError, match="cannot be loaded again as kernel-sparse") as caught:
        check.check("nhn", path, np.zeros((1, 8, 8, 1), "float32"), np.zeros((1, 2)), work=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_trained_network_is_told_what_to_do(tmp_path):
    with pytest.raises(ExportError, match=r"no run\.json"):
        write_exports(tmp_path / "nowhere", ["keras"])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ExportError, match=r"train\.py --stage=base"):
        write_exports(tmp_path, ["keras"])


def test_the_table_names_what_was_left_out():
    row = {"file": "network.keras", "bytes": 2048, "max_abs_error": 2e-6, "same_top1": 0.995, "load_s": 1.25}
    row |= {"latency_ms": {"1": 0.5, "16": 4.0}, "versions": {"keras": "3.15.1"}}
    value = {
        "run": "demo", "stage": "base", "dataset": "digits", "images": 360, "params": 1000, "compacted_params": 900,
        "live_params": 100, "written_with": {"keras": "3.15.1", "backend": "jax", "device": "cpu: x"},
        "formats": {"keras": row}, "skipped": {"onnx": "it needs onnx"},
    }  # fmt: skip
    text = markdown.render(value)
    assert "| Keras | `network.keras` | float32 | 2.0 | 2.0e-06 | 99.50 % | 0.5 | 4 | 1.25 |" in text
    assert "- onnx: it needs onnx." in text
    assert "all 1,000 parameters, 900 compacted" in text and "100 live" in text


def test_float16_halves_the_sparse_file_and_the_table_says_so(exported_run, run_copy):
    pytest.importorskip("llvmlite")
    exact = exported(exported_run)["nhn"]
    half = write_exports(run_copy.path, ["nhn"], float16=True)["formats"]["nhn"]
    assert (exact["weights"], half["weights"]) == ("float32", "float16")
    assert half["bytes"] < 0.75 * exact["bytes"]
    assert exact["max_abs_error"] < half["max_abs_error"] < 0.05
    assert "| `network.nhn` | float16 |" in (run_copy.path / "export" / "export.md").read_text()


def test_float16_is_refused_by_name_where_a_format_cannot_keep_it():
    with pytest.raises(ExportError, match=r"--float16 cannot be kept by --format=keras. Those that can: nhn"):
        formats.choose(["nhn", "keras"], float16=True)
    assert "keras" in formats.choose(["all"], float16=True)[0]


ODD = "run [1] *?{a}'\"#% \u00e9\\n~"
"""Every kind of character that some library takes for more than a part of a name."""


@pytest.mark.parametrize("name", [ODD, "plain-name_1 ~"])
def test_libraries_see_a_plain_path_to_any_directory(tmp_path, name):
    directory = tmp_path / name
    directory.mkdir()
    with plain_path(directory) as path:
        assert not set(str(path)) & set("[]*?{}'\"#%\\")
        (path / "network").mkdir()
        (path / "network" / "weights").write_text("1")
        assert (path == directory) == (name != ODD)
    assert not path.is_symlink()
    assert (directory / "network" / "weights").read_text() == "1"


@pytest.mark.slow
def test_exports_are_written_and_loaded_below_any_path(run_copy, tmp_path):
    (tmp_path / ODD).mkdir()
    run = run_copy.path.rename(tmp_path / ODD / "run [2]")
    asked = [name for name, form in FORMATS.items() if form.obstacle() is None]
    assert set(write_exports(run, asked)["formats"]) == set(asked)
    Image.new("L", (8, 8)).save(tmp_path / ODD / "new [1].png")
    assert len(load_predictor(run)(tmp_path / ODD / "new [1].png").probabilities) == 10


# The script.


def script(*arguments):
    return subprocess.run([sys.executable, "export.py", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_names_the_flags():
    done = script("--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--model_dir", "--format", "--data_dir", "--debug"))


def test_a_users_mistake_is_told_in_one_line():
    done = script("--format=keras")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --model_dir is missing. Give the directory of a run: --model_dir=runs/demo"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved_model", "onnx", "litert"])
def test_other_formats_answer_alike_without_this_package(run_copy, name):
    for module in FORMATS[name].modules:
        pytest.importorskip(module)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("written on TensorFlow only")
    done = script(f"--model_dir={run_copy.path}", f"--format={name}")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])["formats"][name]
    assert row["max_abs_error"] < 1e-4 and row["same_top1"] == 1.0
    assert row["bytes"] == check.size_of(run_copy.path / "export" / row["file"])
