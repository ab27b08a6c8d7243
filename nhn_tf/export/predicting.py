"""What a run's network makes of new pictures: from its best export, in under a second where that is the sparse one.

Letters: B batch, H W height and width, C channels, K classes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from nhn_tf.data.splits import DataError
from nhn_tf.errors import UserError
from nhn_tf.export import source
from nhn_tf.export.preprocessing import FILE, Preprocessing
from nhn_tf.export.source import ExportError
from nhn_tf.storage import files
from nhn_tf.storage.commands import typed

SPARSE: Final = "network.nhn"
KERAS: Final = "network.keras"
BATCH: Final = 64
"""Pictures that are read and predicted together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a network answers to one picture.

    Attributes:
      class_names: K of them.
      probabilities: float32 [K], in their order.
    """

    class_names: tuple[str, ...]
    probabilities: np.ndarray

    @property
    def class_name(self) -> str:
        """The most probable class."""
        return self.top(1)[0][0]

    def top(self, count: int | None = None) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, the first one first; all of them by default."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.class_names[label], float(self.probabilities[label])) for label in order]


class Predictor:
    """A network that is called with pictures.

    Args:
      network: normalised float32 [B, H, W, C] to logits [B, K].
      preprocessing: how its inputs are made.
      path: of the file that it was loaded from.
    """

    def __init__(self, network: Callable[[np.ndarray], np.ndarray], preprocessing: Preprocessing, path: Path):
        self.preprocessing = preprocessing
        self.path = path
        self._network = network

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.preprocessing.class_names

    def __call__(self, picture: str | os.PathLike[str] | np.ndarray) -> Prediction:
        """Predicts one picture.

        Args:
          picture: a file, or uint8 [H, W, C] as `read` returns it.

        Raises:
          DataError: the file cannot be read as a picture.
        """
        image = picture if isinstance(picture, np.ndarray) else self.read(picture)
        return self.predict(image[None])[0]

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """A picture as the network's training read it, uint8 [H, W, C]; see `Preprocessing.read`."""
        return self.preprocessing.read(path)

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """Predicts several pictures at once.

        Args:
          images: uint8 [B, H, W, C].

        Raises:
          ValueError: they are of another type or size.
        """
        expected = self.preprocessing.image_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"`images` must be uint8 [B, {', '.join(map(str, expected))}]. "
                f"Received: {images.dtype} {list(images.shape)}."
            )
        logits = self._network(self.preprocessing.normalization(images))
        return [Prediction(self.class_names, row) for row in self.preprocessing.probabilities(logits)]

    def stream(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[Path, Prediction | DataError]]:
        """Predicts any number of files, read on all cores, a batch in memory at a time.

        Yields:
          Each path in its turn, with what was predicted, or why it cannot be read.
        """
        with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            waiting = map(Path, paths)
            while chunk := list(itertools.islice(waiting, BATCH)):
                read = list(pool.map(self._try_to_read, chunk))
                images = [image for image in read if not isinstance(image, DataError)]
                predictions = iter(self.predict(np.stack(images)) if images else ())
                for path, image in zip(chunk, read, strict=True):
                    yield path, image if isinstance(image, DataError) else next(predictions)

    def _try_to_read(self, path: Path) -> np.ndarray | DataError:
        try:
            return self.read(path)
        except DataError as error:
            return error


def needs_keras(model_dir: str | os.PathLike[str]) -> bool:
    """Whether `load_predictor` will import Keras: there is no export for the sparse runtime, or no llvmlite."""
    found = _find(_place(model_dir))
    return found is None or found.name != SPARSE


def load_predictor(model_dir: str | os.PathLike[str], *, data_dir: str | None = None) -> Predictor:
    """Loads the network of a run, from the fastest of its exports that can be loaded here.

    That is network.nhn, which needs llvmlite and no Keras, or else network.keras. Where there is neither, or where the
    exports are of other weights than those of the run's last training stage, one is written first, and checked.

    Args:
      model_dir: the run's directory, or a copy of its directory `export`.
      data_dir: where the data set lies, if it has moved; for writing an export only.

    Raises:
      UserError: there is no such run, none of its training stages has finished, its export is damaged, or cannot be
        made; the message says what to do.
    """
    directory = _place(model_dir)
    found = _find(directory)
    if found is None:
        _write(model_dir, data_dir)
        found = _find(directory)
    if found is None:
        how = typed("pip install 'nhn-tf[sparse]'")
        raise ExportError(f"{directory} has no network that can be loaded here. Run: {how}")
    preprocessing = Preprocessing.load(directory / FILE)
    network = (_load_sparse if found.name == SPARSE else _load_keras)(found, preprocessing)
    return Predictor(network, preprocessing, found)


def _place(model_dir: str | os.PathLike[str]) -> Path:
    """The directory of the exports, which need not exist."""
    path = Path(os.path.expanduser(model_dir))
    if not source.is_run(path) and (path / FILE).exists():
        return path
    return source.run_at(path) / source.DIRECTORY


def _find(directory: Path) -> Path | None:
    """The best export that can be loaded here and is of the run's last network, if there is one."""
    if not (directory / FILE).exists() or _is_stale(directory):
        return None
    names = [SPARSE, KERAS] if importlib.util.find_spec("llvmlite") else [KERAS]
    return next((directory / name for name in names if (directory / name).exists()), None)


def _is_stale(directory: Path) -> bool:
    """Whether a run's exports are of other weights than its last training stage has left."""
    if not source.is_run(directory.parent):  # a copy stands for itself
        return False
    done = source.last_stage(directory.parent).done
    with contextlib.suppress(FileNotFoundError, files.DamagedFileError, KeyError, TypeError):
        value = files.read_json(directory / "export.json")
        return (value["weights"], value["genotype"]) != (done.weights, done.genotype)
    return True


def _write(model_dir: str | os.PathLike[str], data_dir: str | None) -> None:
    """Exports a run's network in the best format that can be loaded here."""
    run = source.run_at(model_dir)
    source.last_stage(run)  # before Keras is waited for
    print(f"{run} has no export of its last network that can be loaded here; one is written first.", file=sys.stderr)
    from nhn_tf.export.write import write_exports  # It needs Keras.

    with contextlib.redirect_stdout(sys.stderr):
        if importlib.util.find_spec("llvmlite"):
            try:
                write_exports(run, ["nhn"], data_dir=data_dir)
                return
            except ExportError as error:
                print(f"{error}\nnetwork.keras is written in its place.", file=sys.stderr)
        write_exports(run, ["keras"], data_dir=data_dir)


def _load_sparse(path: Path, preprocessing: Preprocessing) -> Callable[[np.ndarray], np.ndarray]:
    from nhn_tf import sparse

    runtime = sparse.load(path)
    _check_shapes(path, preprocessing, runtime.input_shapes, runtime.output_shapes)
    return lambda images: np.asarray(runtime(images))


def _load_keras(path: Path, preprocessing: Preprocessing) -> Callable[[np.ndarray], np.ndarray]:
    import keras

    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # of many types, by what is wrong with the file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise files.DamagedFileError(f"{path} cannot be loaded ({reason}). Export the network again.") from error
    _check_shapes(path, preprocessing, (model.input_shape[1:],), (model.output_shape[1:],))
    model.compile(jit_compile=keras.backend.backend() == "jax")  # XLA takes minutes on TensorFlow's side
    return lambda images: np.asarray(model.predict(images, verbose=0))


def _check_shapes(path: Path, preprocessing: Preprocessing, *shapes: tuple[tuple[int, ...], ...]) -> None:
    """Refuses a network that is not the one that preprocessing.json speaks of."""
    expected = ((preprocessing.image_shape,), ((len(preprocessing.class_names),),))
    if shapes != expected:
        raise UserError(f"{path} is not the network that {path.with_name(FILE)} belongs to. Export the network again.")
