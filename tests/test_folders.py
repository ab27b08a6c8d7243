"""Image folders and tables of pictures: what counts into which class, and that nothing is left out in silence."""

from __future__ import annotations

import dataclasses
import os
import pwd
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nhn_tf.data import DataError, decoding, folder_listing, listed_pictures, load, messages, pictures, skipped_files
from nhn_tf.data.skipped_files import LeftOut
from nhn_tf.settings import DataConfig
from tests.test_datasets import RED, folder_config, grey, save, write_folder


def read(root, image_size=0):
    return listed_pictures.read(folder_listing.read(root), image_size=image_size, cache_dir=root.parent / "cache")


def names_of(entries):
    return [(entry.name, entry.kind) for entry in entries]


# Splits and classes


def test_folder_with_train_and_test(tmp_path):
    root = write_folder(tmp_path / "d", {"train/cat": 10, "train/ant": 20, "test/cat": 3, "test/ant": 2})
    data = load(folder_config(root, val_fraction=0.2), seed=0)
    assert data.class_names == ("ant", "cat")
    assert data.image_shape == (8, 8, 1)
    assert np.bincount(data.train.labels).tolist() == [16, 8]
    assert np.bincount(data.val.labels).tolist() == [4, 2]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("prefix", ["train/", ""])
def test_folder_without_test_splits_it_off_the_same_for_every_seed(tmp_path, prefix):
    root = write_folder(tmp_path / "d", {f"{prefix}a": 20, f"{prefix}b": 10})
    first, second = (load(folder_config(root), seed=seed) for seed in (0, 1))
    assert np.bincount(first.test.labels).tolist() == [4, 2]
    np.testing.assert_array_equal(first.test.images, second.test.images)


@pytest.mark.parametrize(
    "names", ["train val test", "training valid testing", "Train Validation TEST", "TRAIN eval test"]
)
def test_splits_have_usual_names(tmp_path, names):
    train, val, test = names.split()
    root = write_folder(tmp_path / "d", {f"{s}/{c}": n for s, n in ((train, 5), (val, 3), (test, 2)) for c in "ab"})
    first, second = (load(folder_config(root), seed=seed) for seed in (0, 1))
    assert [len(split) for split in (first.train, first.val, first.test)] == [10, 6, 4]
    assert first.digest == second.digest  # nothing is held out by the seed


def test_validation_images_without_test_images_stay_validation_images(tmp_path):
    root = write_folder(tmp_path / "d", {"train/a": 10, "train/b": 10, "val/a": 3, "val/b": 3})
    data = load(folder_config(root), seed=0)
    assert [len(split) for split in (data.train, data.val, data.test)] == [16, 6, 4]


def test_subfolders_count_into_their_class(tmp_path):
    root = write_folder(tmp_path / "d", {"a": 2, "a/2019": 1, "a/2020/may": 3, "b/x": 4})
    assert np.bincount(read(root).train.labels).tolist() == [6, 4]


@pytest.mark.parametrize("folders", [("car", "plane", "train"), ("car/2019", "car/2020", "train/2019", "train/2020")])
def test_a_class_may_be_called_train(tmp_path, folders):
    source = read(write_folder(tmp_path / "d", dict.fromkeys(folders, 3)))
    assert source.class_names == tuple(sorted({name.split("/")[0] for name in folders}))
    assert len(source.train) == 3 * len(folders)
    assert source.left_out == ()


def test_pictures_beside_the_splits_are_named(tmp_path):
    root = write_folder(tmp_path / "d", {"train/a": 2, "train/b": 2, "masks/x": 1, "test": 1})
    save(root / "cover.png", grey(0))
    save(root / "train" / "stray.png", grey(0))
    source = read(root)
    assert source.class_names == ("a", "b")
    assert source.test is None  # test/ has no class folders
    loose = ["cover.png", "masks/x/000.png", "test/000.png", "train/stray.png"]
    assert names_of(source.left_out) == [(name, skipped_files.LOOSE) for name in loose]


def test_class_names_that_differ_in_their_unicode_form_are_one(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != apart
    root = write_folder(
        tmp_path / "d", {f"train/{composed}": 2, "train/tea": 2, f"train/{apart}": 1, f"test/{apart}": 3}
    )
    source = read(root)
    assert source.class_names == (composed, "tea")
    assert np.bincount(source.train.labels).tolist() == [3, 2]
    assert source.test.labels.tolist() == [0, 0, 0]


def test_a_test_split_may_lack_classes_and_that_is_said(tmp_path, capsys):
    root = write_folder(tmp_path / "d", {"train/ok": 8, "train/broken": 8, "test/ok": 5})
    assert load(folder_config(root), seed=0).test.labels.tolist() == [1] * 5
    assert "warning: the test images show 1 of 2 classes; none shows 'broken'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "There is no folder"),
        ({"a": 3}, "at least two classes of training images. Found: a"),
        ({"train/a": 3, "train/b": 0}, "at least two classes"),
        ({"test/a": 3, "test/b": 3}, "has test/ but no train/"),
        ({"val/a": 3, "test/b": 3}, "has test/, val/ but no train/"),
        ({"train/a": 3, "train/b": 3, "test/a": 1, "test/c": 1}, "test images .* class .* have not: 'c'"),
        ({"a": 3, "b": 1}, "Class 'b' has too few images"),
        ({"a": 3, "b": 2}, "Class 'b' has too few images"),  # one went into the test split
    ],
)
def test_unusable_folders_are_explained(tmp_path, counts, message):
    root = write_folder(tmp_path / "d", counts)
    with pytest.raises(DataError, match=message) as error:
        load(folder_config(root), seed=0)
    assert len(str(error.value).splitlines()) <= 3


def test_empty_class_folder_is_named_with_what_it_holds(tmp_path):
    root = write_folder(tmp_path / "d", {"a": 3, "b": 3})
    (root / "c").mkdir()
    with pytest.raises(DataError, match=r"Class folder .*c holds no image that can be read\."):
        load(folder_config(root), seed=0)
    for name in ("x.heic", "y.HEIC", "z.mp4"):
        (root / "c" / name).write_bytes(b"?")
    with pytest.raises(DataError, match=r"c holds no image that can be read \(3 files left out: 2 \.heic, 1 \.mp4\)"):
        load(folder_config(root), seed=0)


def test_a_class_of_unreadable_pictures_is_refused(tmp_path):
    root = write_folder(tmp_path / "d", {"a": 3, "b": 3})
    for number in range(2):
        save(root / "c" / f"{number}.png", grey(0)).write_bytes(b"text")
    with pytest.raises(DataError, match=r"None of the training images of class 'c'(.|\n)*c/0.png cannot be read"):
        load(folder_config(root), seed=0)


@pytest.mark.parametrize("dataset", ["folder", "csv"])
def test_data_of_ones_own_need_a_data_dir(dataset):
    with pytest.raises(DataError, match=f"`dataset`={dataset} needs `data_dir`"):
        load(DataConfig(dataset=dataset), seed=0)


# What is left out


def test_files_that_are_not_read_are_tallied_and_named(tmp_path, capsys):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4, ".thumbnails": 1, "__MACOSX": 1})
    for name in ("a/photo.HEIC", "a/other.heic", "b/notes.txt", "b/README", "a/._000.png", "b/.DS_Store", "a/half.jpg"):
        (root / name).write_bytes(b"no picture")
    data = load(folder_config(root), seed=0)
    expected = {"hidden": 4, ".heic": 2, ".txt": 1, skipped_files.NO_SUFFIX: 1, skipped_files.UNREADABLE: 1}
    assert skipped_files.tally(data.left_out) == expected == data.summary()["left_out"]
    shown = capsys.readouterr().err
    assert "warning: 9 files left out: 4 hidden, 2 .heic, 1 .txt, 1 unreadable, 1 without a suffix" in shown
    assert "a/half.jpg (unreadable: cannot be read as a picture" in shown
    assert all(entry.name in shown for entry in data.left_out)
    assert sum(map(len, (data.train, data.val, data.test))) == 8


def test_more_than_ten_are_named_in_a_file(tmp_path, capsys):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    for number in range(12):
        (root / "a" / f"{number}.heic").touch()
    load(folder_config(root), seed=0)
    (path,) = (tmp_path / "cache").glob("left-out-*.txt")
    assert f"and 2 more; {path} names them all" in capsys.readouterr().err
    assert path.read_text().splitlines() == sorted(f"a/{number}.heic (.heic)" for number in range(12))


def test_what_is_unreadable_is_known_from_the_cache_too(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    (root / "a" / "001.png").write_bytes(b"")
    first = load(folder_config(root), seed=0)
    monkeypatch.setattr(pictures, "decode", decode_nothing)
    again = load(folder_config(root), seed=0)
    reason = "cannot be read as a picture: it is empty"
    assert first.left_out == again.left_out == (LeftOut("a/001.png", skipped_files.UNREADABLE, reason),)
    assert first.digest == again.digest


SUFFIXES = (".png", ".JPG", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".Tiff")
NAMES = st.sampled_from(["a", "b", "train", "test", "Val", "ç", "c\u0327", ".git", "__x", "2020", "e f"])
FILES = st.tuples(
    st.lists(NAMES, max_size=3),
    st.sampled_from(["x", "y", ".z", "ü", "u\u0308"]),
    st.sampled_from([*SUFFIXES, ".heic", ".txt", ""]),
    st.sampled_from(["picture", "picture", "picture", "text", "nothing"]),
)


@settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(FILES, max_size=8))
def test_every_file_is_an_image_or_named(made):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "d")
        write_folder(root, {"train/a": 3, "train/b": 3} if len(made) % 2 else {"a": 3, "b": 3})
        for folders, stem, suffix, content in made:
            path = root.joinpath(*folders, stem + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PNG if content == "picture" else b"text" if content == "text" else b"")
        count = sum(path.is_file() for path in root.rglob("*"))
        try:
            source = read(root, image_size=4)
        except DataError as error:
            assert str(root) in str(error)
            return
        used = sum(len(split) for split in (source.train, source.val, source.test) if split)
        assert used + len(source.left_out) == count
        there = [skipped_files.readable(str(path.relative_to(root))) for path in root.rglob("*")]
        assert {entry.name for entry in source.left_out} <= set(there)


PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q"
    b"\0\0\0\0IEND\xaeB`\x82"
)  # one grey pixel


# Sizes and channels


def test_one_colour_image_makes_all_of_them_rgb(tmp_path):
    root = write_folder(tmp_path / "d", {"a": 3, "b": 3})
    save(root / "b" / "red.png", Image.new("RGB", (8, 8), RED))
    source = read(root)
    assert source.train.images.shape == (7, 8, 8, 3)
    assert source.train.images[2, 0, 0].tolist() == [2, 2, 2]
    assert source.train.images[6, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("sizes", "shape", "chosen"),
    [
        ([(8, 8)] * 3, (8, 8), 0),
        ([(8, 12)] * 3, (8, 12), 0),  # one size that fits is kept, square or not
        ([(10, 10)] * 3, (8, 8), 8),
        ([(250, 300)] * 3, (248, 248), 248),
        ([(4, 1028)] * 3, (8, 8), 8),
        ([(3000, 4000)] * 3, (64, 64), 64),
        ([(20, 30), (25, 22), (40, 80)], (20, 20), 20),  # shorter sides 20, 22, 40: the middle one, down to 4s
        ([(480, 640), (640, 480), (3000, 4000)], (64, 64), 64),
        ([(5, 5), (6, 5)], (8, 8), 8),
        ([], (0, 0), 0),
    ],
)
def test_sizes_chosen_by_hand(sizes, shape, chosen):
    found, choice = decoding.choose_size(sizes)
    assert (found, choice.value) == (shape, chosen)


def test_pictures_of_different_sizes_get_one_that_is_said_and_recorded(tmp_path, capsys):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4}, shape=(13, 12))
    save(root / "b" / "x.png", grey(0, (12, 40)))
    save(root / "b" / "y.png", grey(0, (5, 4)))
    data = load(folder_config(root), seed=0)
    assert data.image_shape == (12, 12, 1)
    why = "the pictures differ in size, from 4 x 5 to 40 x 12"  # by pixels
    assert data.summary()["choices"]["image_size"] == {"value": 12, "why": why}
    assert f"`image_size`=12: {why}" in capsys.readouterr().err
    again = load(folder_config(root), seed=0)  # from the cache
    assert (again.digest, again.choices) == (data.digest, data.choices)
    asked = load(folder_config(root, image_size=4), seed=0)
    assert asked.image_shape == (4, 4, 1)
    assert load(folder_config(root, image_size=12), seed=0).digest == data.digest


def test_classes_and_counts_are_said(tmp_path, capsys):
    root = write_folder(tmp_path / "d", {"train/ant": 10, "train/cat": 20, "test/ant": 2, "test/cat": 3})
    load(folder_config(root), seed=0)
    shown = capsys.readouterr().err
    assert f"{root}: 35 images of 2 classes, 8 x 8, grey (27 training, 3 validation, 5 test)" in shown
    assert "classes: ant 12, cat 23" in shown


def test_of_many_classes_the_first_thirty_are_said(tmp_path, capsys):
    root = write_folder(tmp_path / "d", {f"{number:02}": 3 for number in range(32)})
    load(folder_config(root), seed=0)
    assert "28 3, 29 3, and 2 more" in capsys.readouterr().err
    assert messages.LISTED == 30


# The cache


def decode_nothing(*_, **__):
    raise AssertionError("decoded again")


def test_second_load_comes_from_the_cache(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    first = load(folder_config(root), seed=0)
    monkeypatch.setattr(pictures, "decode", decode_nothing)
    second = load(folder_config(root), seed=0)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    with pytest.raises(AssertionError, match="decoded again"):  # other options, other cache
        load(folder_config(root, image_size=4), seed=0)


def test_a_folder_elsewhere_is_decoded_by_itself_to_the_same_images(tmp_path):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    first = load(folder_config(root), seed=0)
    second = load(folder_config(root.rename(tmp_path / "elsewhere")), seed=0)
    assert first.digest == second.digest
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_files_of_one_size_and_time_are_told_apart_by_their_root_and_their_writing(tmp_path):
    """As archives unpack with the times that they were packed with."""

    def fill(root, level):
        for name in ("a", "b"):
            for number in range(4):
                os.utime(save(root / name / f"{number}.bmp", grey(level)), (1.6e9, 1.6e9))
        return load(folder_config(root), seed=0).train.images.max()

    assert [fill(tmp_path / "one", 1), fill(tmp_path / "two", 2), fill(tmp_path / "one", 3)] == [1, 2, 3]


@pytest.mark.parametrize("change", ["rewrite", "touch", "add", "rename"])
def test_changed_folder_is_decoded_again(tmp_path, change):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    load(folder_config(root), seed=0)
    path = root / "a" / "003.png"
    if change == "rewrite":
        save(path, np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    elif change == "add":
        save(root / "a" / "004.png", grey(77))
    else:
        path.rename(root / "a" / "zzz.png")
    load(folder_config(root), seed=0)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_damaged_cache_is_replaced(tmp_path):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    first = load(folder_config(root), seed=0)
    (cache,) = (tmp_path / "cache").iterdir()
    content = cache.read_bytes()
    cache.write_bytes(content[: len(content) // 2])
    second = load(folder_config(root), seed=0)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert cache.read_bytes() == content


def test_cache_that_cannot_be_written_is_no_error(tmp_path):
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    (tmp_path / "file").write_text("in the way")
    config = folder_config(root, cache_dir=str(tmp_path / "file" / "cache"))
    assert load(config, seed=0).num_classes == 2


def test_cache_respects_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    load(folder_config(root, cache_dir=""), seed=0)
    assert len(list((tmp_path / "xdg" / "nhn_tf").glob("folder-*.npz"))) == 1


def test_without_a_home_the_cache_is_temporary_and_said(tmp_path, monkeypatch, capsys):
    """As in a container that runs under a number without a name."""

    def unknown(number):
        raise KeyError(number)

    root = write_folder(tmp_path / "d", {"a": 4, "b": 4})
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    load(folder_config(root, cache_dir=""), seed=0)
    (cache,) = temporary.glob("*/.cache/nhn_tf/folder-*.npz")
    assert list(work.iterdir()) == []
    assert f"has no home directory; {cache.parent} is used" in capsys.readouterr().err


# Locales


def test_the_same_images_have_one_digest_in_every_locale(tmp_path):
    root = write_folder(tmp_path / "d", {"tea": 3, "café": 3, "Ñandú": 3, "z": 3})
    save(root / "z" / "ü.png", grey(9))
    os.rename(save(root / "z" / "x.png", grey(8)), os.fsencode(root / "z") + b"/\xff.png")
    table = tmp_path / "labels.csv"
    table.write_bytes("\n".join(f"d/{n}/{i:03}.png,{n}" for n in ("tea", "café", "Ñandú") for i in range(3)).encode())
    code = (
        "import sys; from nhn_tf.data import load; from nhn_tf.settings import DataConfig\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "for kind, path in (('folder', sys.argv[1]), ('csv', sys.argv[2])):\n"
        "    data = load(DataConfig(dataset=kind, data_dir=path, cache_dir=sys.argv[3]), seed=0)\n"
        "    print(data.digest, ascii(data.class_names))\n"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, root, table, tmp_path / "cache0"],
        env={**os.environ, **locale}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sys.getfilesystemencoding() == "utf-8"
    here = [
        load(DataConfig(dataset=kind, data_dir=str(path), cache_dir=str(tmp_path / "cache1")), seed=0)
        for kind, path in (("folder", root), ("csv", table))
    ]
    assert done.stdout.splitlines() == [f"{data.digest} {data.class_names!a}" for data in here]
    assert here[0].class_names == ("café", "tea", "z", "Ñandú")


# Tables


def table_config(path, **settings):
    return DataConfig(dataset="csv", data_dir=str(path), cache_dir=str(path.parent / "cache"), **settings)


def write_table(tmp_path, text, count=12):
    for number in range(count):
        save(tmp_path / "images" / f"{number}.png", grey(number))
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("head", ["", "path,label\n", "label;ignored;filename\n", "Image\tClass\n"])
def test_a_table_names_pictures_and_classes(tmp_path, head):
    rows = [(f"images/{number}.png", "odd" if number % 2 else "even") for number in range(12)]
    if head.startswith("label"):
        text = "".join(f"{label};?;{path}\n" for path, label in rows)
    else:
        text = "".join(("\t" if "\t" in head else ",").join(row) + "\n" for row in rows)
    data = load(table_config(write_table(tmp_path, "\ufeff" + head + text)), seed=0)
    assert data.class_names == ("even", "odd")
    for split in (data.train, data.val, data.test):
        assert (split.images[:, 0, 0, 0] % 2).tolist() == split.labels.tolist()
    assert sum(map(len, (data.train, data.val, data.test))) == 12


def test_a_table_may_name_the_splits_and_paths_anywhere(tmp_path):
    rows = [f"{tmp_path}/images/{n}.png,{'ab'[n % 2]},{('train', 'valid', 'test')[n // 4]}\n" for n in range(12)]
    data = load(table_config(write_table(tmp_path, "".join(rows))), seed=0)
    splits = [split.images[:, 0, 0, 0].tolist() for split in (data.train, data.val, data.test)]
    assert splits == [[0, 2, 1, 3], [4, 6, 5, 7], [10, 8, 11, 9]]  # by class, then by path


def test_rows_that_are_no_pictures_are_named(tmp_path):
    text = "".join(f"images/{n}.png,{'ab'[n % 2]}\n" for n in range(12))
    data = load(table_config(write_table(tmp_path, text + "images/0.png,a\nimages/1.png,\n,b\nnone.png,a\n\n")), seed=0)
    assert [str(entry) for entry in data.left_out] == [
        "images/0.png (rows that name a picture again: row 13)",
        "images/1.png (rows without a path or a label)",
        "row 15 (rows without a path or a label)",
        "none.png (unreadable: cannot be read as a picture: there is no such file)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have rows of path,label"),
        ("images/0.png\n", "must have rows of path,label"),
        ("a,b,c,d\n", "its first row must name them"),
        ("images/0.png,a\nimages/0.png,b\n", "row 2: images/0.png is 'b', and 'a' before"),
        ("images/0.png,a,training\nimages/1.png,b,dream\n", "row 2: a split must be among .*Received: 'dream'"),
        ("images/0.png,a\nimages/1.png,a\n", "at least two classes"),
        ('images/0.png,"a\n', "no table of cells parted by commas"),
    ],
)
def test_tables_of_something_else_are_explained(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(table_config(write_table(tmp_path, text)), seed=0)


def test_a_table_that_is_none_is_explained(tmp_path):
    with pytest.raises(DataError, match=r"There is no file .*labels.csv"):
        load(table_config(tmp_path / "labels.csv"), seed=0)
    with pytest.raises(DataError, match=r"is a folder, no table"):
        load(dataclasses.replace(table_config(tmp_path / "x"), data_dir=str(tmp_path)), seed=0)
    (tmp_path / "labels.csv").write_bytes(b"caf\xe9.png,a\n")
    with pytest.raises(DataError, match="is no table in UTF-8"):
        load(table_config(tmp_path / "labels.csv"), seed=0)
