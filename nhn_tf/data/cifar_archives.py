"""The official CIFAR-10 and CIFAR-100 archives (Krizhevsky 2009), unpacked, read without running them.

The Python version holds pickles, which can execute anything on loading, or take all memory: only the opcodes that
these files consist of are admitted, and the three names of a pickled NumPy array stand for classes of this module that
hold a matrix of bytes and nothing else. The binary version holds fixed-size records of label bytes and a 3 x 32 x 32
image. Source: cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nhn_tf.data.splits import DataError, Source, Split
from nhn_tf.storage import files

PIXELS = 3 * 32 * 32
# The largest file of the archives has 155 MB.
_MAX_BYTES = 2**28


@dataclass(frozen=True)
class Layout:
    """How one version of one archive is laid out.

    Attributes:
      directory: the folder that the archive unpacks to.
      train: file names of the training batches.
      test: file name of the test batch.
      train_records: images in each training file.
      test_records: images in the test file.
      num_classes: number of labels.
      names: file that holds the class names.
      python: whether this is the Python version.
      label_key: key of the labels in the Python version.
      names_key: key of the class names in the Python version.
      label_bytes: label bytes before each image in the binary version, the last of which counts.
    """

    directory: str
    train: tuple[str, ...]
    test: str
    train_records: int
    test_records: int
    num_classes: int
    names: str
    python: bool
    label_key: bytes = b""
    names_key: bytes = b""
    label_bytes: int = 1


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "cifar10": (
        Layout(
            directory="cifar-10-batches-py", train=_BATCHES, test="test_batch",
            train_records=10_000, test_records=10_000, num_classes=10, python=True,
            names="batches.meta", label_key=b"labels", names_key=b"label_names",
        ),
        Layout(
            directory="cifar-10-batches-bin", train=tuple(f"{name}.bin" for name in _BATCHES),
            test="test_batch.bin", train_records=10_000, test_records=10_000, num_classes=10,
            python=False, names="batches.meta.txt",
        ),
    ),
    "cifar100": (
        Layout(
            directory="cifar-100-python", train=("train",), test="test",
            train_records=50_000, test_records=10_000, num_classes=100, python=True,
            names="meta", label_key=b"fine_labels", names_key=b"fine_label_names",
        ),
        Layout(
            directory="cifar-100-binary", train=("train.bin",), test="test.bin",
            train_records=50_000, test_records=10_000, num_classes=100, python=False,
            names="fine_label_names.txt", label_bytes=2,
        ),
    ),
}  # fmt: skip


def find(name: str, data_dir: Path) -> tuple[Layout, Path] | None:
    """The unpacked archive of data set `name` in `data_dir`, or `data_dir` itself being one.

    Returns:
      Its layout and folder; None when there is none.

    Raises:
      DataError: the archive is there, but still packed.
    """
    for layout in LAYOUTS.get(name, ()):
        for folder in (data_dir / layout.directory, data_dir):
            if folder.name == layout.directory and folder.is_dir():
                return layout, folder
    stem = {"cifar10": "cifar-10", "cifar100": "cifar-100"}.get(name)
    for version in ("python", "binary"):
        packed = data_dir / f"{stem}-{version}.tar.gz"
        if stem and packed.is_file():
            raise DataError(f"{packed} must be unpacked first. Run: tar -C {data_dir} -xf {packed}")
    return None


def read(layout: Layout, folder: Path) -> Source:
    """Reads an unpacked archive.

    Raises:
      DataError: a file is missing or does not hold what the archive's description says.
    """
    read_file = _read_python if layout.python else _read_binary
    parts = [read_file(layout, folder / name, layout.train_records) for name in layout.train]
    train = Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    test = read_file(layout, folder / layout.test, layout.test_records)
    return Source(train, test, _read_class_names(layout, folder / layout.names), flip=True)


_ANEW = "Unpack the archive again, or download it anew."


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is damaged: {reason}.\n{_ANEW}")


def _read_bytes(path: Path) -> bytes:
    try:
        return files.read_bytes(path, limit=_MAX_BYTES)
    except FileNotFoundError:
        raise _damaged(path, "there is no such file") from None
    except files.DamagedFileError as error:
        raise DataError(f"{error}\n{_ANEW}") from None


def _read_class_names(layout: Layout, path: Path) -> tuple[str, ...]:
    if layout.python:
        listed = _unpickle(path).get(layout.names_key)
        lines = listed if isinstance(listed, list) else []
    else:
        lines = [line.strip() for line in _read_bytes(path).splitlines()]
    names = tuple(line.decode("utf-8", "replace") for line in lines if isinstance(line, bytes) and line)
    if len(set(names)) != layout.num_classes:
        raise _damaged(path, f"it names {len(set(names))} classes instead of {layout.num_classes}")
    return names


def _read_binary(layout: Layout, path: Path, records: int) -> Split:
    content = _read_bytes(path)
    size = records * (layout.label_bytes + PIXELS)
    if len(content) != size:
        raise _damaged(path, f"it has {len(content):,} bytes instead of {size:,}")
    rows = np.frombuffer(content, np.uint8).reshape(records, layout.label_bytes + PIXELS)
    labels = rows[:, layout.label_bytes - 1]
    return _split(layout, path, rows[:, layout.label_bytes :], labels)


def _read_python(layout: Layout, path: Path, records: int) -> Split:
    batch = _unpickle(path)
    matrix, labels = batch.get(b"data"), batch.get(layout.label_key)
    data = matrix.values if isinstance(matrix, _Matrix) else None
    if data is None:
        raise _damaged(path, "it holds no uint8 matrix under 'data'")
    if data.shape != (records, PIXELS):
        raise _damaged(path, f"'data' has shape {data.shape} instead of {(records, PIXELS)}")
    key = layout.label_key.decode()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _damaged(path, f"it holds no list of whole numbers under '{key}'")
    if len(labels) != records:
        raise _damaged(path, f"it has {len(labels):,} labels for {records:,} images")
    return _split(layout, path, data, labels)


def _split(layout: Layout, path: Path, rows: np.ndarray, labels: Any) -> Split:
    """A split from planar rows (uint8 [N, 3072], red first) and labels of any integer type."""
    labels = np.asarray(labels, np.int64)
    if labels.min() < 0 or labels.max() >= layout.num_classes:
        wrong = labels[(labels < 0) | (labels >= layout.num_classes)][0]
        raise _damaged(path, f"it holds label {wrong}; the last one is {layout.num_classes - 1}")
    images = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(images, labels.astype(np.int32))


# What Python 2 wrote a dictionary of numbers, byte strings and one array with. None of it takes memory without as many
# bytes in the file, but for memo indices: the unpickler's table is twice as long as the largest. Python numbers them in
# turn, from 0 or 1. Tuples of tuples that stand in several places would take for ever to hash: so there are no more of
# these opcodes than one array needs, about 13.
_OPCODES = {
    "PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "BININT", "BININT1", "BININT2", "BINSTRING", "SHORT_BINSTRING", "NONE", "NEWTRUE", "NEWFALSE",
}  # fmt: skip
_PUTS = {"BINPUT", "LONG_BINPUT"}
_FEW = {
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "REDUCE", "BUILD", "BINGET", "LONG_BINGET",
}  # fmt: skip
_MOST = 24


def _check_opcodes(content: bytes) -> None:
    """Looks through a pickle before it is loaded.

    Raises:
      pickle.UnpicklingError: it holds what the archives do not.
    """
    few = puts = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        few += opcode.name in _FEW
        if opcode.name == "GLOBAL" and tuple(argument.split(" ")) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {argument.replace(' ', '.')}")
        if opcode.name not in _OPCODES | _PUTS | _FEW or few > _MOST:
            raise pickle.UnpicklingError(f"it holds the opcode {opcode.name}")
        if opcode.name in _PUTS:
            if argument > puts + 1:
                raise pickle.UnpicklingError("it numbers more objects than it holds")
            puts += 1


class _Matrix:
    """Stands for a pickled array: uint8, two axes, rows one after the other."""

    def __init__(self, *_: Any):
        self.values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, content = state
        if isinstance(dtype, _Type) and len(shape) == 2 and fortran_order is False:
            self.values = np.frombuffer(content, np.uint8).reshape(shape)


class _Type:
    """Stands for the type of a pickled array, which must be uint8."""

    def __init__(self, name: bytes, *_: Any):
        if name != b"u1":
            raise pickle.UnpicklingError(f"it holds an array of {name!r}")

    def __setstate__(self, _: Any) -> None:
        """Byte order and alignment say nothing of single bytes."""


_ADMITTED: dict[tuple[str, ...], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Matrix,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Type,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles matrices of bytes in plain containers; refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _unpickle(path: Path) -> dict[bytes, Any]:
    """A pickled dictionary with byte strings for keys, as Python 2 wrote it."""
    content = _read_bytes(path)
    try:
        _check_opcodes(content)
        value = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises whatever its opcodes stumble over
        raise _damaged(path, f"it is no pickle of arrays ({str(error)[:100]})") from None
    if not isinstance(value, dict):
        raise _damaged(path, "it holds no dictionary")
    return value
