"""Writes a run's network in other formats into its directory `export/`, each checked before it takes its name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nhn_tf import pruning
from nhn_tf.data import datasets
from nhn_tf.data.normalization import Normalization
from nhn_tf.errors import UserError
from nhn_tf.export import check, markdown, source
from nhn_tf.export.formats import FORMATS, Network, choose
from nhn_tf.export.plain_path import is_plain, plain_path
from nhn_tf.export.preprocessing import FILE, Preprocessing
from nhn_tf.export.source import ExportError
from nhn_tf.models import complexity
from nhn_tf.runs import StageRecord
from nhn_tf.runs.board import TENSORBOARD
from nhn_tf.runs.event_writer import EventWriter
from nhn_tf.runs.journal import device
from nhn_tf.runs.session import EXPORT, LATENCY
from nhn_tf.settings import DataConfig
from nhn_tf.stages import networks
from nhn_tf.storage import files

IMAGES = 1000
"""Test images that every export is compared on, at most."""


@dataclasses.dataclass(frozen=True)
class _Reference:
    """The run's network and its answers.

    Attributes:
      model: as the stage left it.
      data: of the run.
      preprocessing: how its inputs are made.
      images: float32 [N, H, W, C], normalised test images.
      logits: float32 [N, classes].
    """

    model: keras.Model
    data: datasets.Dataset
    preprocessing: Preprocessing
    images: np.ndarray
    logits: np.ndarray


def write_exports(
    model_dir: str | os.PathLike[str],
    asked: Sequence[str] = ("all",),
    *,
    data_dir: str | None = None,
    float16: bool = False,
) -> dict[str, Any]:
    """Exports the network of a run's last finished training stage, compacted.

    Every file is loaded again in a fresh process and compared with the run's own network on test images before it
    takes its name. A format of "all" that fails is skipped; one that was asked for by name ends the call, and the table
    has those before it. Exports of the same weights by an earlier call stay and keep their rows in the table; those of
    other weights are removed. Stages of the run are only read, but for the latencies that TensorBoard finds there.

    Args:
      model_dir: the run's directory.
      asked: names of `FORMATS`, or "all" for those that can be written here.
      data_dir: where the data set lies, if it has moved.
      float16: keep weights as float16 where the format allows it: half the size, rounded. Otherwise every export is
        exact but for the order of sums.

    Returns:
      Paths of the table ("export") and its figures ("results"), the "stage", "formats" written by this call with their
      figures, and those "skipped" with the reasons.

    Raises:
      UserError: no training stage has finished, a format is unknown or lacks a package, files of the run or the data
        are damaged or others, or a format asked for by name, or every one of "all", cannot be written or does not do
        what the network does.
    """
    names, skipped = choose(asked, float16=float16)
    stage = source.last_stage(source.run_at(model_dir))
    with _float32():
        reference = _reference(stage, data_dir)
        compacted = pruning.compact(reference.model)
        network = Network(compacted, float16)
        directory = stage.run / source.DIRECTORY
        value = _facts(stage, reference, compacted)
        files.remove_leftovers(directory, older_than_s=3600)
        with files.writing(directory):
            before = _earlier(directory, value)
            files.write_json(directory / FILE, reference.preprocessing.to_json())
        written: dict[str, Any] = {}
        for name in names:
            try:
                written[name] = _export(name, network, directory, reference)
            except UserError as error:
                if name in asked:
                    raise
                skipped[name] = " ".join(str(error).split()).rstrip(".")
                print(f"{name}: not written: {skipped[name]}")
            _tell(directory, value, before | written, skipped)
    if not written:
        name, reason = next((name, skipped[name]) for name in names)
        raise ExportError(f"no format could be written. The first, {name}: {reason}.")
    _show(stage, before | written)
    return {
        "export": str(directory / "export.md"),
        "results": str(directory / "export.json"),
        "stage": stage.name,
        "formats": written,
        "skipped": skipped,
    }


def _show(stage: StageRecord, exports: Mapping[str, Any]) -> None:
    """Tells TensorBoard how long exports take for an image, and the fastest, in place of what it was told before."""
    events = EventWriter(stage / TENSORBOARD / EXPORT)
    latencies = {name: row["latency_ms"]["1"] for name, row in exports.items()}
    for name, latency in latencies.items():
        events.scalar(f"{LATENCY}/{name}", latency, 0)
    events.scalar(LATENCY, min(latencies.values()), 0)
    events.close()


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Builds networks in float32, whatever the precision of the training was."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _reference(stage: StageRecord, data_dir: str | None) -> _Reference:
    record = stage.config
    config = DataConfig.from_json(record["data"])
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=data_dir)
    data = datasets.load(config, seed=record["seed"])
    stage.check_data(data.digest)
    model = networks.inherited(stage, data)
    how = Preprocessing(data.name, data.image_shape, Normalization.of(data.train), data.class_names)
    images = how.normalization(data.test.images[:IMAGES])
    model.compile(jit_compile=keras.backend.backend() == "jax")
    logits = np.asarray(model.predict(images, batch_size=100, verbose=0))
    check.check_reference(stage.name, logits)
    return _Reference(model, data, how, images, logits)


def _facts(stage: StageRecord, reference: _Reference, compacted: keras.Model) -> dict[str, Any]:
    done = stage.done
    return {
        "schema": 1,
        "run": stage.run.name,
        "stage": stage.name,
        "genotype": done.genotype,
        "weights": done.weights,
        "dataset": reference.data.name,
        "images": len(reference.images),
        "params": complexity.model_cost(reference.model).params,
        "compacted_params": complexity.model_cost(compacted).params,
        "live_params": pruning.live_parameters(reference.model),
        "written_with": {"keras": keras.__version__, "backend": keras.backend.backend(), "device": device()},
    }


def _earlier(directory: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Rows of earlier exports of the same weights; exports of others are removed, their table first."""
    path = directory / "export.json"
    with contextlib.suppress(FileNotFoundError, files.DamagedFileError, KeyError, TypeError):
        before = files.read_json(path)
        if (before["weights"], before["genotype"]) == (value["weights"], value["genotype"]):
            return {name: row for name, row in before["formats"].items() if (directory / row["file"]).exists()}
    for name in ("export.md", "export.json", FILE, *(form.file for form in FORMATS.values())):
        _remove(directory / name)
    return {}


def _tell(directory: Path, value: Mapping[str, Any], rows: Mapping[str, Any], skipped: Mapping[str, str]) -> None:
    """Writes the table and its figures; after every format, so that a later failure does not take them along."""
    value = {**value, "formats": {name: rows[name] for name in FORMATS if name in rows}, "skipped": dict(skipped)}
    files.write_json(directory / "export.json", value)
    with files.atomic_write(directory / "export.md", "w") as file:
        file.write(markdown.render(value))


def _export(name: str, network: Network, directory: Path, reference: _Reference) -> dict[str, Any]:
    """Writes and checks one format under a temporary name, then gives it its own."""
    form = FORMATS[name]
    target = directory / form.file
    with files.writing(directory):
        work = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=directory))
    try:
        with plain_path(work) as plain:
            _write(name, network, plain / form.file)
            float16 = form.float16 and network.float16
            row = check.check(name, plain / form.file, reference.images, reference.logits, work=work, float16=float16)
        with files.writing(target):
            _put(work / form.file, target, aside=work / "before")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{name}: {target}, {row['bytes']} bytes, largest error of a logit {row['max_abs_error']:.2g}")
    if name == "saved_model" and not is_plain(target):
        print("  TensorFlow takes this path for a pattern: copy the directory to one without brackets to load it.")
    return {"file": form.file, **row}


def _write(name: str, network: Network, path: Path) -> None:
    """Writes one format; whatever its writer raises becomes an ExportError that names the format and the reason."""
    try:
        FORMATS[name].write(network, path)
    except ExportError:
        raise
    except Exception as error:  # converters raise types of their own
        lines = str(error).strip().splitlines()
        parts = [] if lines and isinstance(error, ValueError) else [type(error).__name__]
        reason = ": ".join([*parts, *lines[:1]]).rstrip(".")
        raise ExportError(f"the {name} export cannot be written: {reason}.") from error


def _put(path: Path, target: Path, *, aside: Path) -> None:
    """Gives an export its name; what had the name before keeps it if that fails, or is interrupted."""
    try:
        if target.is_dir():  # a directory cannot be replaced in one step
            target.rename(aside)
        os.replace(path, target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
