"""Image-classification data sets of tensorflow-datasets, which is imported only when one is asked for."""

from __future__ import annotations

import difflib
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from nhn_tf.data import pictures
from nhn_tf.data.paths import home
from nhn_tf.data.splits import DataError, Source, Split
from nhn_tf.storage import terminal

# Handwriting and house numbers: a mirrored 3 is no 3. (Clothes of fashion_mnist may be mirrored.)
_NOT_FLIPPED = ("mnist", "svhn", "digits", "omniglot", "cmaterdb")
_CONNECT_SECONDS = 5.0
_MIRROR = "https://storage.googleapis.com/tfds-data"


def flips(name: str) -> bool:
    """Whether images of the TFDS data set `name` may be mirrored."""
    return "fashion" in name or not any(part in name.lower() for part in _NOT_FLIPPED)


def read(name: str, *, data_dir: str, image_size: int, others: Sequence[str]) -> Source:
    """Reads a data set from disk, downloading it on first use.

    Args:
      name: TFDS name, with its configuration if any: "cifar10", "emnist/letters".
      data_dir: TFDS directory; "" is TFDS's own default.
      image_size: side of the images, scaled and cropped to a square; 0 keeps them as they are.
      others: names outside TFDS, to suggest for a misspelt one.

    Raises:
      DataError: no such data set, not one of labelled images, or it cannot be downloaded.
    """
    tfds = _import_tfds(name, others)
    builder = _builder(tfds, name, data_dir, others)
    _check_features(tfds, name, builder)
    if not builder.is_prepared():
        _download(name, builder)
    splits = builder.info.splits
    if "train" not in splits:
        raise DataError(f"TFDS data set '{name}' has no split 'train'. It has: {', '.join(splits)}.")
    train = _read_split(tfds, builder, name, "train", image_size)
    if train is None:
        raise DataError(f"Split 'train' of TFDS data set '{name}' is empty or has no labels.")
    tests = (_read_split(tfds, builder, name, split, image_size) for split in ("test", "validation") if split in splits)
    return Source(
        train=train,
        test=next((split for split in tests if split), None),
        class_names=tuple(builder.info.features[builder.info.supervised_keys[1]].names),
        flip=flips(name),
    )


def _import_tfds(name: str, others: Sequence[str]) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.75)
        hint = f" Did you mean '{close[0]}'?" if close and close[0] != name else ""
        raise DataError(
            f"Data set '{name}' comes from tensorflow-datasets, which cannot be imported ({error}).{hint}\n"
            "Run: pip install tensorflow tensorflow-datasets\n"
            "Or use `dataset`=digits, `dataset`=folder, or `data_dir` with a CIFAR archive unpacked."
        ) from None
    if keras.backend.backend() != "tensorflow":
        _leave_accelerators_alone()
    return tfds


def _leave_accelerators_alone() -> None:
    """TensorFlow would otherwise reserve all memory of a GPU that another backend trains on."""
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:  # already initialised: whoever did so decided
        return


def _builder(tfds: Any, name: str, data_dir: str, others: Sequence[str]) -> Any:
    try:
        return tfds.builder(name, data_dir=_data_dir(data_dir))
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        known = tfds.list_builders(with_community_datasets=False)
        if _base_name(name) not in known:
            raise _unknown(name, [*others, *known]) from None
        raise DataError(f"TFDS cannot build '{name}': {_first_line(error)}") from None


def _data_dir(asked: str) -> str | None:
    """The directory asked for; None for TFDS's own default, which is in the user's home, and must be in one."""
    if asked or os.path.isabs(os.path.expanduser("~")):
        return os.path.expanduser(asked) or None
    return str(home("tensorflow_datasets"))


def _base_name(name: str) -> str:
    """A TFDS name without its configuration and version: "emnist/letters:3.1.0" is "emnist"."""
    return name.split("/")[0].split(":")[0]


def _unknown(name: str, known: Sequence[str]) -> DataError:
    close = difflib.get_close_matches(_base_name(name).lower(), dict.fromkeys(known), n=3, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(repr(match) for match in close)}?"
        if close
        else (
            "Known are cifar10, cifar100, digits, folder and the image-classification names of "
            "tensorflow.org/datasets/catalog."
        )
    )
    return DataError(f"There is no data set '{name}'.\n{hint}")


def _check_features(tfds: Any, name: str, builder: Any) -> None:
    features, keys = builder.info.features, builder.info.supervised_keys
    if (
        not keys
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise DataError(
            f"TFDS data set '{name}' is no image-classification data set: it must pair an image with one class label."
        )


def _download(name: str, builder: Any) -> None:
    """Downloads and prepares a data set, saying so first; fails at once where there is no network."""
    urls = dict(getattr(builder, "url_infos", None) or {})
    size = f" ({sum(info.size for info in urls.values()) / 2**20:,.0f} MiB)" if urls else ""
    terminal.note(f"Downloading data set '{name}'{size} to {builder.data_dir}, once.")
    # TFDS itself would retry for minutes. It asks the original host, or its own mirror.
    if urls and not any(_reachable(url) for url in (next(iter(urls)), _MIRROR)):
        host = urllib.parse.urlsplit(next(iter(urls))).hostname
        raise _download_error(name, f"host {host} cannot be reached")
    try:
        builder.download_and_prepare()
    except Exception as error:  # network, checksums, disk, manual downloads: TFDS has no common base
        raise _download_error(name, _first_line(error)) from error


def _reachable(url: str) -> bool:
    """Whether a connection to the URL's host can be made; True where a proxy would make it."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or parts.scheme in urllib.request.getproxies():
        return True
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _download_error(name: str, reason: str) -> DataError:
    official = ", or unpack the official archive there" if name in ("cifar10", "cifar100") else ""
    return DataError(
        f"Data set '{name}' cannot be downloaded: {reason}.\n"
        f"Copy a prepared TFDS folder to `data_dir`{official}; or use `dataset`=digits (no download)."
    )


def _read_split(tfds: Any, builder: Any, name: str, split: str, image_size: int) -> Split | None:
    """Reads one split whole, in the order of its files; None where it has no labels, as tests of competitions."""
    images, labels = [], []
    examples = builder.as_dataset(split=split, as_supervised=True, shuffle_files=False)
    for image, label in tfds.as_numpy(examples):
        if label < 0:
            print(f"warning: split '{split}' of TFDS data set '{name}' has no labels; it is not used.", file=sys.stderr)
            return None
        if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
            raise DataError(
                f"TFDS data set '{name}' holds {image.dtype} images of {image.shape[2]} channels; "
                "uint8 of 1 or 3 is needed."
            )
        images.append(pictures.resize(image[None], image_size)[0])
        if images[-1].shape != images[0].shape:
            (h0, w0), (h1, w1) = images[0].shape[:2], images[-1].shape[:2]
            raise DataError(
                f"The images of TFDS data set '{name}' differ in size: {w0} x {h0}, {w1} x {h1}.\n"
                "Pass `image_size`=N to scale and crop all of them to N x N pixels."
            )
        labels.append(label)
    return Split(np.stack(images), np.array(labels, np.int32)) if images else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
