"""Sources of images, their splits, and what is said when they cannot be used."""

from __future__ import annotations

import dataclasses
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from nhn_tf.data import DataError, Split, cifar_archives, digits, load, pictures, splits, tfds_source
from nhn_tf.data.datasets import from_arrays
from nhn_tf.settings import DataConfig

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def save(path: Path, array: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def grey(level: int, shape: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.full(shape, level, np.uint8)


def write_folder(root: Path, counts: dict[str, int], shape: tuple[int, int] = (8, 8)) -> Path:
    """`counts[path]` grey PNGs in each class folder; image i is filled with level i."""
    for path, count in counts.items():
        for i in range(count):
            save(root / path / f"{i:03}.png", grey(i, shape))
    return root


def folder_config(root: Path, **settings) -> DataConfig:
    cache = str(root.parent / "cache")
    return DataConfig(**{"dataset": "folder", "data_dir": str(root), "cache_dir": cache, **settings})


# Splits


@pytest.mark.parametrize(
    ("counts", "total", "leave", "expected"),
    [
        ([50, 50], 10, 0, [5, 5]),
        ([90, 10], 10, 0, [9, 1]),
        ([98, 1, 1], 10, 0, [8, 1, 1]),  # the rare classes get their one; the common one pays
        ([3, 3, 3], 4, 0, [2, 1, 1]),  # equal claims: the first class goes first
        ([2, 2, 20], 12, 1, [1, 1, 10]),
        ([2, 2, 2], 3, 1, [1, 1, 1]),
        ([5, 0, 5], 4, 1, [2, 0, 2]),  # a class without images stays without
    ],
)
def test_apportion_by_hand(counts, total, leave, expected):
    assert splits.apportion(np.array(counts), total, leave=leave).tolist() == expected


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.data())
def test_apportion_is_exact_and_near_proportion(counts, data):
    counts = np.array(counts)
    low, high = np.count_nonzero(counts), counts.sum()
    if high == 0:
        return
    total = data.draw(st.integers(low, high))
    chosen = splits.apportion(counts, total)
    assert chosen.sum() == total
    assert np.all(chosen <= counts)
    assert np.all((chosen > 0) == (counts > 0))
    quota = counts * total / high
    if np.all(quota[counts > 0] >= 1):
        assert np.all(np.abs(chosen - quota) < 1)


@pytest.mark.parametrize(("total", "leave"), [(1, 0), (11, 0), (9, 1)])
def test_apportion_refuses_what_cannot_be(total, leave):
    with pytest.raises(ValueError, match="`total` must lie between"):
        splits.apportion(np.array([5, 5]), total, leave=leave)


def numbered(labels: list[int]) -> Split:
    """A split whose image i is filled with level i."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split(np.broadcast_to(images, (len(labels), 4, 4, 1)), np.array(labels, np.int32))


def test_hold_out_divides_every_image_once_and_keeps_the_order():
    split = numbered([0] * 60 + [1] * 40)
    rest, held = splits.hold_out(split, 0.1, np.random.default_rng(0), ("a", "b"))
    assert np.bincount(held.labels).tolist() == [6, 4]
    assert np.bincount(rest.labels).tolist() == [54, 36]
    numbers = [part.images[:, 0, 0, 0].tolist() for part in (rest, held)]
    assert sorted(numbers[0] + numbers[1]) == list(range(100))
    assert all(part == sorted(part) for part in numbers)


def test_hold_out_names_the_class_that_is_too_small():
    with pytest.raises(DataError, match="Class 'b' has too few images"):
        splits.hold_out(numbered([0, 0, 0, 1]), 0.5, np.random.default_rng(0), ("a", "b"))


def test_limit_of_zero_or_more_than_all_changes_nothing():
    split, rng = numbered([0, 1] * 5), np.random.default_rng(0)
    assert splits.limit(split, 0, rng, setting="x") is split
    assert splits.limit(split, 11, rng, setting="x") is split


def test_limit_below_the_number_of_classes_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="--eval_limit must be 0 or at least the number of classes, 2"):
        splits.limit(numbered([0, 1] * 5), 1, rng, setting="eval_limit")


def test_joined_splits_keep_all_images_in_order():
    both = numbered([0, 1]).joined(numbered([1, 0, 1]))
    assert both.labels.tolist() == [0, 1, 1, 0, 1]
    assert both.images[:, 0, 0, 0].tolist() == [0, 1, 0, 1, 2]


def test_split_refuses_other_types_and_shapes():
    images, labels = np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="`images` must be uint8"):
        Split(images.astype(np.float32), labels)
    with pytest.raises(ValueError, match="`images` must be uint8"):
        Split(images[..., 0], labels)
    with pytest.raises(ValueError, match=r"`labels` must be int32 of shape .2"):
        Split(images, labels[:1])
    with pytest.raises(ValueError, match="`labels` must be int32"):
        Split(images, labels.astype(np.int64))


# Digits


def test_digits_are_1797_grey_images_that_must_not_be_flipped():
    data = load(DataConfig(dataset="digits"), seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 144, 359)
    assert data.image_shape == (8, 8, 1)
    assert data.num_classes == 10
    assert data.class_names[3] == "3"
    assert data.flip is False
    assert data.train.images.max() == 255
    assert data.train.images.min() == 0
    assert np.bincount(data.val.labels).min() >= 14


def test_the_digits_that_come_along_are_those_of_scikit_learn():
    theirs, ours = load_digits(), digits.read()
    assert np.array_equal(ours.train.images[..., 0], np.rint(theirs.images * (255 / 16)))
    assert np.array_equal(ours.train.labels, theirs.target)
    assert ours.class_names == tuple(str(name) for name in theirs.target_names)


def test_the_seed_moves_the_validation_split_only():
    first, again, other = (load(DataConfig(dataset="digits"), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.val.images, again.val.images)
    assert not np.array_equal(first.val.images, other.val.images)
    np.testing.assert_array_equal(first.test.images, other.test.images)


def test_limits_choose_stratified_subsets_of_the_same_splits():
    whole = load(DataConfig(dataset="digits"), seed=3)
    small = load(DataConfig(dataset="digits", train_limit=200, eval_limit=50), seed=3)
    for name, count in (("train", 200), ("val", 50), ("test", 50)):
        part, full = getattr(small, name), getattr(whole, name)
        known = {image.tobytes() for image in full.images}
        assert len(part) == count
        assert np.ptp(np.bincount(part.labels)) <= 2
        assert all(image.tobytes() in known for image in part.images)


def test_a_limited_test_split_is_the_same_for_every_seed():
    first, other = (load(DataConfig(dataset="digits", eval_limit=50), seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(first.test.images, other.test.images)
    assert not np.array_equal(first.val.images, other.val.images)


def test_image_size_resizes_every_source():
    assert load(DataConfig(dataset="digits", image_size=16), seed=0).image_shape == (16, 16, 1)


def test_sizes_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(DataError, match=r"divisible by 4(.|\n)*10 x 10(.|\n)*`image_size`=8"):
        load(DataConfig(dataset="digits", image_size=10), seed=0)


# Arrays at hand


def test_arrays_become_a_data_set():
    x = np.linspace(0, 1, 40 * 64, dtype=np.float32).reshape(40, 8, 8)
    y = ["pear", "apple"] * 20
    data = from_arrays(x, y, DataConfig(dataset="fruit", val_fraction=0.25), seed=0)
    assert data.class_names == ("apple", "pear")
    assert (data.name, data.image_shape) == ("fruit", (8, 8, 1))
    assert (len(data.train), len(data.val), len(data.test)) == (24, 8, 8)
    assert data.train.images[0, 0, 0, 0] in np.rint(x[:, 0, 0] * 255)
    assert data.flip is False  # and nothing to tell by


def test_arrays_with_splits_of_their_own_are_left_as_they_are():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    data = from_arrays(images, labels, DataConfig(), seed=0, val=(images[:2], [1, 0]), test=(images[4:], [1, 1]))
    np.testing.assert_array_equal(data.train.images, images)
    assert (data.val.labels.tolist(), data.test.labels.tolist()) == ([1, 0], [1, 1])
    assert data.class_names == ("0", "1")


IMAGES = np.zeros((4, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IMAGES[0, 0], [0, 1, 0, 1], "must be images .N, H, W"),
        (np.zeros((4, 8, 8, 4), np.uint8), [0, 1, 0, 1], "must be images .N, H, W"),
        (IMAGES.astype(np.int64), [0, 1, 0, 1], "must be uint8, or floating-point"),
        (IMAGES + np.float32(2), [0, 1, 0, 1], "must be uint8, or floating-point"),
        (IMAGES + np.float32("nan"), [0, 1, 0, 1], "must be uint8, or floating-point"),
        (IMAGES, [0, 1, 0], "a label for each of 4 images"),
        (IMAGES, [0, -1, 0, 1], "none of the 2 classes: .*-1"),
        (IMAGES, [0, 0, 0, 0], "at least two classes"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(x, y, message):
    with pytest.raises(DataError, match=message):
        from_arrays(x, y, DataConfig(), seed=0)


# Pictures


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    levels = np.array([[0, 255, 256, 65535]] * 4, np.uint16)
    decoded = pictures.decode(save(tmp_path / "x.png", levels))
    assert decoded.shape == (4, 4, 1)
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 255]


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (*RED, 255))
    image.putpixel((1, 0), (*GREEN, 0))
    decoded = pictures.decode(save(tmp_path / "x.png", image))
    assert decoded[0, :2].tolist() == [list(RED), list(WHITE)]
    shade = pictures.decode(save(tmp_path / "y.png", Image.new("LA", (4, 4), (9, 0))))
    assert shade.shape == (4, 4, 1)
    assert shade[0, 0, 0] == 255


def test_one_bit_and_cmyk_and_palettes(tmp_path):
    bits = pictures.decode(save(tmp_path / "bits.png", Image.new("1", (4, 4), 1)))
    assert bits.shape == (4, 4, 1)
    assert np.all(bits == 255)
    inks = pictures.decode(save(tmp_path / "inks.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0))))
    assert inks.shape == (8, 8, 3)
    assert np.abs(inks[0, 0].astype(int) - RED).max() < 4
    colours = Image.new("RGB", (4, 4), RED).quantize(4)
    assert pictures.decode(save(tmp_path / "p.png", colours))[0, 0].tolist() == list(RED)
    greys = Image.fromarray(grey(100)).convert("P")
    assert pictures.decode(save(tmp_path / "g.png", greys)).shape == (8, 8, 1)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image = np.zeros((8, 16), np.uint8)
    image[:, :8] = 255
    decoded = pictures.decode(save(tmp_path / "x.png", image, exif=exif))
    assert decoded.shape == (16, 8, 1)
    assert np.all(decoded[:8] == 255)
    assert np.all(decoded[8:] == 0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_the_head_of_a_file_tells_the_size_that_it_is_decoded_to(tmp_path, suffix):
    exif = Image.Exif()
    for orientation in (1, 3, 6, 8):
        exif[0x0112] = orientation
        path = save(tmp_path / f"{orientation}.{suffix}", np.zeros((8, 16, 3), np.uint8), exif=exif)
        turned = orientation in (6, 8)
        assert pictures.upright_size(path) == pictures.decode(path).shape[:2] == ((16, 8) if turned else (8, 16))


@pytest.mark.parametrize("suffix", ["png", "jpg", "jfif", "webp", "bmp", "gif", "tif", "TIFF"])
def test_every_usual_format_is_decoded_to_the_same_picture(tmp_path, suffix):
    image = np.full((8, 12, 3), (200, 40, 40), np.uint8)
    image[:, :6] = 40
    options = {"quality": 100} if suffix in ("jpg", "jfif", "webp") else {}
    form = {"jfif": "JPEG"}.get(suffix)
    decoded = pictures.decode(save(tmp_path / f"x.{suffix}", image, format=form, **options))
    assert decoded.shape == (8, 12, 3)
    assert np.abs(decoded.astype(int) - image)[:, [0, 11]].max() < 12


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    assert np.abs(pictures.decode(path)[0, 0].astype(int) - RED).max() < 4


def test_a_photo_is_read_with_the_size_and_channels_of_the_network_it_goes_into(tmp_path):
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 4:12] = (10, 200, 90)
    path = str(save(tmp_path / "x.png", image))
    assert pictures.decode(path, image_size=(8, 8), channels=3)[0, 0].tolist() == [10, 200, 90]
    grey_level = round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)  # ITU-R 601
    assert pictures.decode(path, image_size=(8, 8), channels=1)[:, :, 0].tolist() == [[grey_level] * 8] * 8
    assert pictures.decode(path, image_size=(4, 8)).shape == (4, 8, 3)
    shades = str(save(tmp_path / "y.png", grey(7)))
    assert pictures.decode(shades, channels=3).tolist() == [[[7, 7, 7]] * 8] * 8


def test_pixels_without_a_known_range_are_refused(tmp_path):
    path = save(tmp_path / "x.tiff", Image.fromarray(np.ones((8, 8), np.float32)))
    with pytest.raises(DataError, match="x.tiff cannot be read as a picture: its pixels are floating-point"):
        pictures.decode(path)


def test_pictures_are_read_without_keras():
    code = (
        "import sys; from nhn_tf.data.pictures import decode; print({'keras', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_resizing_crops_the_centre_square(tmp_path):
    image = np.zeros((8, 16), np.uint8)
    image[:, 4:12] = 200
    assert np.all(pictures.decode(save(tmp_path / "x.png", image), image_size=8) == 200)
    resized = pictures.resize(image[None, :, :, None], 8)
    assert resized.shape == (1, 8, 8, 1)
    assert np.all(resized == 200)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and has nearly no pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b"\x78\x9c")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


# The official CIFAR archives


def python2_string(value: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(value)) + value


def python2_ints(values) -> bytes:
    return b"".join(b"J" + struct.pack("<i", value) for value in values)


def python2_array(array: np.ndarray) -> bytes:
    """A uint8 matrix as Python 2's cPickle with protocol 2 wrote NumPy arrays."""
    new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + python2_ints([-1, -1]) + b"K\x00tb"
    shape = python2_ints(array.shape) + b"\x86"
    return new + b"(K\x01" + shape + dtype + b"\x89" + python2_string(array.tobytes()) + b"tb"


def python2_pickle(value: dict) -> bytes:
    """The dictionaries of the archives, in the bytes that the original files are made of."""
    body = b""
    for key, item in value.items():
        body += python2_string(key)
        if isinstance(item, np.ndarray):
            body += python2_array(item)
        elif item and isinstance(item[0], bytes):
            body += b"](" + b"".join(map(python2_string, item)) + b"e"
        else:
            body += b"](" + python2_ints(item) + b"e"
        body += b"s"
    return b"\x80\x02}" + body + b"."


def write_archive(folder: Path, layout: cifar_archives.Layout) -> dict[str, np.ndarray]:
    """A random archive in the real format; returns its images as planar rows, by file name."""
    rng, rows = np.random.default_rng(0), {}
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"class {number}".encode() for number in range(layout.num_classes)]
    for name in (*layout.train, layout.test):
        records = layout.test_records if name == layout.test else layout.train_records
        rows[name] = rng.integers(0, 256, (records, cifar_archives.PIXELS), dtype=np.uint8)
        labels = np.arange(records) % layout.num_classes
        if layout.python:
            content = python2_pickle({b"data": rows[name], layout.label_key: labels.tolist()})
        else:
            coarse = [labels // 5] * (layout.label_bytes - 1)
            columns = np.stack([*coarse, labels], axis=1).astype(np.uint8)
            content = np.concatenate([columns, rows[name]], axis=1).tobytes()
        (folder / name).write_bytes(content)
    content = b"\n".join(names) + b"\n\n"
    if layout.python:
        content = python2_pickle({layout.names_key: names})
    (folder / layout.names).write_bytes(content)
    return rows


SMALL = [
    dataclasses.replace(layout, train_records=2 * layout.num_classes, test_records=layout.num_classes)
    for layouts in cifar_archives.LAYOUTS.values()
    for layout in layouts
]


@pytest.mark.parametrize("layout", SMALL, ids=lambda layout: layout.directory)
def test_archives_are_read_as_they_were_written(tmp_path, layout):
    rows = write_archive(tmp_path, layout)
    source = cifar_archives.read(layout, tmp_path)
    assert source.train.images.shape == (len(layout.train) * layout.train_records, 32, 32, 3)
    assert source.test.labels.tolist() == list(range(layout.num_classes))
    assert source.class_names[7] == "class 7"
    assert source.flip
    # Planes of red, green and blue in the file, row by row; the last image of the last train file.
    red, green, blue = rows[layout.train[-1]][-1].reshape(3, 32, 32)
    np.testing.assert_array_equal(source.train.images[-1], np.stack([red, green, blue], axis=-1))


def test_load_finds_the_full_size_archive_in_data_dir(tmp_path):
    layout = cifar_archives.LAYOUTS["cifar10"][1]
    folder = tmp_path / layout.directory
    write_archive(folder, dataclasses.replace(layout, train=layout.train[:1]))
    for name in layout.train[1:]:
        os.link(folder / layout.train[0], folder / name)
    data = load(DataConfig(dataset="cifar10", data_dir=str(tmp_path)), seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (45_000, 5_000, 10_000)
    assert np.bincount(data.val.labels).tolist() == [500] * 10
    assert cifar_archives.find("cifar10", folder) == (layout, folder)
    assert cifar_archives.find("cifar100", tmp_path) is None


def test_packed_archive_gives_the_command_that_unpacks_it(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(DataError, match="Run: tar -C"):
        load(DataConfig(dataset="cifar10", data_dir=str(tmp_path)), seed=0)


PYTHON = SMALL[0]
GOOD = {b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 20}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "no pickle of arrays"),
        (python2_pickle(GOOD)[:-100], "no pickle of arrays"),
        (b"\x80\x02]q\x00.", "holds no dictionary"),
        (python2_pickle({**GOOD, b"labels": [0] * 19 + [10]}), "holds label 10"),
        (python2_pickle({**GOOD, b"labels": [0] * 19 + [-1]}), "holds label -1"),
        (python2_pickle({**GOOD, b"labels": [0] * 19}), "19 labels for 20 images"),
        (python2_pickle({**GOOD, b"labels": [b"0"] * 20}), "no list of whole numbers"),
        (python2_pickle({b"labels": [0] * 20}), "no uint8 matrix"),
        (python2_pickle({**GOOD, b"data": GOOD[b"data"][:19]}), "instead of .20, 3072"),
    ],
)
def test_damaged_python_archives_are_named(tmp_path, content, reason):
    write_archive(tmp_path, PYTHON)
    path = tmp_path / "data_batch_3"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        cifar_archives.read(PYTHON, tmp_path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


def test_truncated_binary_archive_is_named(tmp_path):
    layout = SMALL[1]
    write_archive(tmp_path, layout)
    path = tmp_path / layout.test
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="30,729 bytes instead of 30,730"):
        cifar_archives.read(layout, tmp_path)


@pytest.mark.parametrize("layout", SMALL, ids=lambda layout: layout.directory)
def test_missing_class_names_are_refused(tmp_path, layout):
    write_archive(tmp_path, layout)
    names = python2_pickle({layout.names_key: [b"a", b"b"]}) if layout.python else b"a\nb\n"
    (tmp_path / layout.names).write_bytes(names)
    with pytest.raises(DataError, match="names 2 classes instead of"):
        cifar_archives.read(layout, tmp_path)


class _Touch:
    """Unpickling an instance would create the file `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused_before_it_does(tmp_path, protocol):
    write_archive(tmp_path, PYTHON)
    trap = tmp_path / "sprung"
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": _Touch(trap)}, protocol))
    with pytest.raises(DataError, match="no pickle of arrays .it (asks for|holds the opcode)"):
        cifar_archives.read(PYTHON, tmp_path)
    assert not trap.exists()


# tensorflow-datasets


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", True), ("stl10", True), ("fashion_mnist", True), ("oxford_flowers102", True),
        ("mnist", False), ("emnist/letters", False), ("kmnist", False), ("svhn_cropped", False),
        ("binary_alpha_digits", False), ("omniglot", False),
    ],
)  # fmt: skip
def test_writing_is_not_mirrored(name, expected):
    assert tfds_source.flips(name) is expected


def test_without_tfds_the_message_says_how_to_go_on(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"(?s)Did you mean 'cifar10'.*pip install.*`dataset`=digits"):
        load(DataConfig(dataset="cifar_10"), seed=0)


@pytest.fixture(scope="module")
def tfds():
    pytest.importorskip("tensorflow")
    return pytest.importorskip("tensorflow_datasets")


@pytest.mark.parametrize("name", ["cifar11", "CIFAR10", "cifar-10", "cifr10/x"])
def test_unknown_names_are_met_with_close_ones(tfds, tmp_path, name):
    with pytest.raises(DataError, match=rf"There is no data set '{name}'.\nDid you mean .*'cifar10'"):
        load(DataConfig(dataset=name, data_dir=str(tmp_path)), seed=0)


@pytest.mark.parametrize("name", ["mnist/", "mnist:9.9.9", "mnist/no_such_config"])
def test_names_that_tfds_cannot_parse_are_refused(tfds, tmp_path, name):
    with pytest.raises(DataError, match="TFDS cannot build"):
        load(DataConfig(dataset=name, data_dir=str(tmp_path)), seed=0)


@pytest.mark.parametrize("name", ["", "../data", "zzzzzzzzz"])
def test_names_near_to_none_are_met_with_the_catalog(tfds, tmp_path, name):
    with pytest.raises(DataError, match=r"There is no data set .*\n(Known are cifar10|Did you mean)"):
        load(DataConfig(dataset=name, data_dir=str(tmp_path)), seed=0)


def test_data_sets_of_text_are_refused(tfds, tmp_path):
    with pytest.raises(DataError, match="no image-classification data set"):
        load(DataConfig(dataset="imdb_reviews", data_dir=str(tmp_path)), seed=0)


def test_unreachable_host_is_named_before_anything_is_tried(tfds, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError

    monkeypatch.setattr(tfds_source.socket, "create_connection", refuse)
    monkeypatch.setattr(tfds_source.urllib.request, "getproxies", dict)
    with pytest.raises(DataError, match=r"(?s)host .*toronto.edu cannot be reached.*official archive"):
        load(DataConfig(dataset="cifar10", data_dir=str(tmp_path)), seed=0)
    assert "Downloading data set 'cifar10'" in capsys.readouterr().err


def prepare(tfds, data_dir: Path, name: str, sizes: list[int], splits: dict[str, int]) -> None:
    """Writes a TFDS data set of 3 classes: image i of a split is filled with level i."""

    def build(_):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 1)),
                "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
            }
        )
        return tfds.core.DatasetInfo(builder=_, features=features, supervised_keys=("image", "label"))

    def generate(_, count):
        for i in range(count):
            yield i, {"image": grey(i, (sizes[i % len(sizes)],) * 2)[..., None], "label": i % 3}

    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "name": name,
        "pkg_dir_path": data_dir,
        "_info": build,
        "_split_generators": lambda self, _: {k: generate(self, n) for k, n in splits.items()},
        "_generate_examples": generate,
    }
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)
    builder(data_dir=data_dir).download_and_prepare()


def test_prepared_tfds_data_is_read_without_a_network(tfds, tmp_path):
    prepare(tfds, tmp_path, "tiny_squares", [8], {"train": 60, "test": 12})
    data = load(DataConfig(dataset="tiny_squares", data_dir=str(tmp_path)), seed=0)
    assert data.class_names == ("x", "y", "z")
    assert data.image_shape == (8, 8, 1)
    assert data.flip
    assert (len(data.train), len(data.val), len(data.test)) == (54, 6, 12)
    np.testing.assert_array_equal(data.test.images[:, 0, 0, 0] % 3, data.test.labels)


def test_tfds_images_of_different_sizes_need_image_size(tfds, tmp_path):
    prepare(tfds, tmp_path, "uneven_squares", [8, 12], {"train": 60})
    config = DataConfig(dataset="uneven_squares", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"differ in size(.|\n)*`image_size`"):
        load(config, seed=0)
    data = load(dataclasses.replace(config, image_size=8), seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (43, 5, 12)


@pytest.mark.parametrize(("splits", "expected"), [(("train", "validation", "test"), 6), (("train", "test"), None)])
def test_a_tfds_test_split_without_labels_is_passed_over(tfds, monkeypatch, capsys, splits, expected):
    class Builder:
        """As of competitions, whose test labels are all -1."""

        info = SimpleNamespace(
            features={"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=2)},
            supervised_keys=("image", "label"),
            splits=dict.fromkeys(splits),
        )

        def is_prepared(self):
            return True

        def as_dataset(self, split, **_):
            image = np.zeros((8, 8, 3), np.uint8)
            return [(image, -1 if split == "test" else number % 2) for number in range(6)]

    monkeypatch.setattr(tfds_source, "_builder", lambda *_: Builder())
    monkeypatch.setattr(tfds, "as_numpy", lambda examples: examples)
    source = tfds_source.read("places365_small", data_dir="", image_size=0, others=())
    assert (source.test and len(source.test)) == expected
    assert "split 'test' of TFDS data set 'places365_small' has no labels" in capsys.readouterr().err
