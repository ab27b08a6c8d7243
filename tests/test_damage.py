"""Damaged files: whatever happened to one, it gives its former value or is named; never another value, no traceback."""

import ast
import io
import json
import os
import pickle
import random
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nhn_tf.data import DataError, cifar_archives
from nhn_tf.errors import UserError
from nhn_tf.runs import Checkpoint, RunDirectory, RunError, journal
from nhn_tf.runs.settings import config_digest
from nhn_tf.storage import checkpoints, files, lock
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import Space
from tests.conftest import newest_checkpoint, smoke_settings
from tests.test_datasets import GOOD, PYTHON, python2_array, python2_pickle, write_archive

SETTINGS = smoke_settings("enas")
GENOTYPE = Genotype(
    Space(3, 3),
    ("conv3x3", "conv5x5", "conv3x3"),
    ((), (0,), ()),
    masks=Masks({"layer0_op": np.eye(4, dtype=bool), "addon0_conv": np.ones((2, 3), bool)}),
    addons=(Addon(0, 3, 0),),
)
WEIGHTS = {
    "stem/kernel": np.arange(36, dtype=np.float32).reshape(3, 3, 1, 4),
    "stem/bias": np.zeros(0),
    "n": np.array(3),
}


def checkpoint(epoch):
    return Checkpoint(epoch, {"w/kernel": np.full(50, epoch, np.float32)}, {"history": [{"loss": 0.5}] * epoch})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a finished stage and one that has saved two checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_git_commit", lambda: None)
        run = RunDirectory(tmp_path_factory.mktemp("damage") / "run")
        with run.hold(preset="smoke"):
            enas, base = (run.ready(name, SETTINGS).begin("images", {"train": 256}) for name in ("enas", "base"))
            for epoch in (1, 2):
                base.save_checkpoint(checkpoint(epoch))
            enas.finish({"val_accuracy": 0.53125, "rewards": [1, 2]}, genotype=GENOTYPE, weights=WEIGHTS)
    return run


def numbers(arrays):
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def newest(run):
    return max((run.path / "2-base" / "checkpoint").iterdir())


# file -> where it lies, and how it is read into a value that can be compared
FILES = {
    "genotype.json": (lambda run: run.path / "1-enas" / "genotype.json", lambda run: run.stage("enas").genotype()),
    "masks.npz": (lambda run: run.path / "1-enas" / "masks.npz", lambda run: run.stage("enas").genotype()),
    "weights.npz": (lambda run: run.path / "1-enas" / "weights.npz", lambda run: numbers(run.stage("enas").weights())),
    "config.json": (lambda run: run.path / "1-enas" / "config.json", lambda run: run.stage("enas").config),
    "done.json": (lambda run: run.path / "1-enas" / "done.json", lambda run: run.stage("enas").done.to_json()),
    "run.json": (
        lambda run: run.path / "run.json",
        lambda run: journal.read(run.path / "run.json"),
    ),
    "checkpoint": (newest, lambda run: checkpoints.read_checkpoint(newest(run), digest(run))),
}
JSON = [name for name in FILES if name.endswith(".json")]
NPZ = [name for name in FILES if name not in JSON]


def digest(run):
    return config_digest(run.stage("base").config)


def value_of(run, name):
    value = FILES[name][1](run)
    return (value.epoch, numbers(value.arrays), value.values) if isinstance(value, Checkpoint) else value


def survives(run, name, contents):
    """Reads the file with each of some contents in place of its own.

    Returns:
      How many were refused, and how many gave the former value.
    """
    path, value = FILES[name][0](run), value_of(run, name)
    whole, refused, kept = path.read_bytes(), 0, 0
    try:
        for content in contents:
            path.write_bytes(content)
            try:
                found = value_of(run, name)
            except UserError as error:
                assert path.name in str(error)
                assert len(str(error)) < 1000
                refused += 1
            else:
                assert found == value
                kept += 1
    finally:
        path.write_bytes(whole)
    print(f"\n{name}, {len(whole)} bytes: {refused} refused, {kept} read as before")
    return refused, kept


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


some_or_all = pytest.mark.parametrize("count", [300, pytest.param(10**6, marks=pytest.mark.slow)])


def places(name, length, count):
    """`count` places in a file, or all."""
    return random.Random(name).sample(range(length), min(count, length))


@pytest.mark.parametrize("name", FILES)
@some_or_all
def test_a_file_cut_short_anywhere_is_named(run, name, count):
    content = FILES[name][0](run).read_bytes()
    cuts = places(name, len(content) - 1, count // 4)
    refused, _ = survives(run, name, (content[:cut] for cut in cuts))
    assert refused == len(cuts)


@pytest.mark.parametrize("name", JSON)
@some_or_all
def test_no_flipped_bit_of_a_record_goes_unseen(run, name, count):
    """A digit of a metric, too."""
    content = FILES[name][0](run).read_bytes()
    bits = places(name, 8 * len(content), count)
    refused, _ = survives(run, name, (flipped(content, bit) for bit in bits))
    assert refused == len(bits)


@pytest.mark.parametrize("name", NPZ)
@some_or_all
def test_no_flipped_bit_of_an_array_file_gives_other_arrays(run, name, count):
    content = FILES[name][0](run).read_bytes()
    bits = places(name, 8 * len(content), count)
    refused, kept = survives(run, name, (flipped(content, bit) for bit in bits))
    assert refused > kept  # dates and the like are not looked at


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_random_damage_of_every_kind_is_survived(run, name):
    """Stretches zeroed, repeated, moved, cut out or made random, several at once."""
    content, rng = FILES[name][0](run).read_bytes(), random.Random(name)

    def damaged():
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(changed) + 1)
            stretch = changed[start : start + rng.choice((1, 4, 32, 512))]
            other = rng.choice((bytes(len(stretch)), stretch * 2, rng.randbytes(len(stretch)), b""))
            changed[start : start + len(stretch)] = other
        return bytes(changed)

    survives(run, name, (damaged() for _ in range(3000)))


def npz(*members, compress=zipfile.ZIP_STORED):
    """A zip file of (name, content)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compress) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name, content in members:
            with archive.open(name, "w") as file:
                file.write(content)
    return buffer.getvalue()


def npy(header, body=b"", version=b"\x01\x00"):
    """An array file with a header of one's choice."""
    text = header.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def array_header(descr="'<f4'", shape="(1,)", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


HOSTILE_ARRAYS = {
    "a shape of 4 TB": npz(("a.npy", npy(array_header(shape="(1099511627776,)")))),
    "a shape beyond 64 bits": npz(("a.npy", npy(array_header(shape="(10**30,)".replace("10**30", "1" + "0" * 30))))),
    "no side, and one beyond 64 bits": npz(("a.npy", npy(array_header(shape=f"(0, {10**30})")))),
    "a negative side": npz(("a.npy", npy(array_header(shape="(-1,)"), bytes(4)))),
    "a hundred axes": npz(("a.npy", npy(array_header(shape="(" + "1," * 100 + ")"), bytes(4)))),
    "a shape of text": npz(("a.npy", npy(array_header(shape="('a',)"), bytes(4)))),
    "objects": npz(("a.npy", npy(array_header("'|O'"), pickle.dumps(print)))),
    "numbers without bytes": npz(("a.npy", npy(array_header("'|V0'", "(1099511627776,)")))),
    "text without bytes": npz(("a.npy", npy(array_header("'<U0'", "(1099511627776,)")))),
    "records": npz(("a.npy", npy(array_header("[('x', '<f4')]"), bytes(4)))),
    "an array as a type": npz(("a.npy", npy(array_header("('<f4', (1000000000,))"), bytes(4)))),
    "a header that is code": npz(("a.npy", npy("__import__('os').abort()"))),
    "a header of a thousand brackets": npz(("a.npy", npy("(" * 5000 + ")" * 5000))),
    "a later version": npz(("a.npy", npy(array_header(), bytes(4), version=b"\x03\x00"))),
    "64 MiB of zeros in 64 KiB": npz(
        ("a.npy", npy(array_header(shape="(16777216,)"), bytes(2**26))), compress=zipfile.ZIP_DEFLATED
    ),
    "a name twice": npz(("a.npy", npy(array_header(), bytes(4))), ("a.npy", npy(array_header(), bytes(4)))),
    "a name twice, once without its ending": npz(
        ("a.npy", npy(array_header(), bytes(4))), ("a", npy(array_header(), bytes(4)))
    ),
    "a path out of the directory": npz(("../../a.npy", b"x")),
    "no array": npz(("a.npy", b"hello")),
    "nothing": npz(),
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_hostile_arrays_are_refused_without_taking_memory(run, tmp_path, name):
    path = tmp_path / "w.npz"
    path.write_bytes(HOSTILE_ARRAYS[name])
    tracemalloc.start()
    try:
        if name == "nothing":
            assert files.load_npz(path) == {}
        else:
            with pytest.raises(files.DamagedFileError, match=r"w\.npz"):
                files.load_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(HOSTILE_ARRAYS[name]) + 2**20
    finally:
        tracemalloc.stop()
    for file in NPZ:
        refused, _ = survives(run, file, [HOSTILE_ARRAYS[name]])
        assert refused == 1


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 8), (8, 99), (24, 2**32 - 1), (20, 2**31 - 1)])
def test_a_directory_of_members_that_lies_is_refused(tmp_path, offset, value):
    """Bytes of the zip file's central directory: flags, method, lengths."""
    path = tmp_path / "w.npz"
    files.save_npz(path, {"a": np.arange(10)})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<H" if offset < 16 else "<I", content, entry + offset + (2 if offset < 16 else 0), value)
    path.write_bytes(content)
    with pytest.raises(files.DamagedFileError, match=r"w\.npz"):
        files.load_npz(path)


HOSTILE_JSON = {
    "nothing": b"",
    "a hundred thousand brackets": b"[" * 100_000,
    "as many, closed": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"digest":' * 100_000,
    "a number of 5,000 digits": b'{"schema": ' + b"9" * 5000 + b"}",
    "no number": b'{"schema": NaN, "digest": Infinity}',
    "another encoding": '{"schema": 1}'.encode("utf-16"),
    "no text": bytes(range(256)),
    "a null": b"null",
    "a list": b"[]",
    "a name twice": b'{"digest": "0", "digest": "1"}',
    "a digest that is a list": b'{"digest": [1]}',
    "half a character": b'{"digest": "\xe2\x82"}',
    "a surrogate": b'{"digest": "\\ud800"}',
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing that belongs there": b'{"digest": "44136fa355b3678a"}',  # the right one of {}
}


@pytest.mark.parametrize("name", JSON)
def test_foreign_content_of_a_record_is_named(run, name):
    others = [FILES[other][0](run).read_bytes() for other in FILES if other != name]
    sealed = [json.dumps(files.seal(value)).encode() for value in ({"stage": 1}, {"schema": {}, "masks_digest": None})]
    _, kept = survives(run, name, [*HOSTILE_JSON.values(), *others, *sealed])
    assert kept == 0


@pytest.mark.parametrize("name", NPZ)
def test_foreign_content_of_an_array_file_is_named(run, name):
    others = [FILES[other][0](run).read_bytes() for other in FILES if other != name]
    _, kept = survives(run, name, [*HOSTILE_JSON.values(), *others])
    assert kept == 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["directory", "pipe", "link to itself", "device"])
def test_what_is_no_file_is_named_and_not_waited_for(run, name, kind):
    path = FILES[name][0](run)
    content = path.read_bytes()
    path.unlink()
    make = {
        "directory": lambda: path.mkdir(),
        "pipe": lambda: os.mkfifo(path),
        "link to itself": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()
    try:
        with pytest.raises(UserError, match=path.name):
            value_of(run, name)
    finally:
        path.rmdir() if kind == "directory" else path.unlink()
        path.write_bytes(content)


def test_a_file_too_large_to_be_a_record_is_not_read(tmp_path):
    path = tmp_path / "done.json"
    path.touch()
    os.truncate(path, 2**40)  # a terabyte of nothing
    with pytest.raises(files.DamagedFileError, match="done.json is larger than"):
        files.read_json(path)


def test_the_checkpoint_before_is_used_when_the_newest_is_damaged(run, capsys):
    path = newest(run)
    content = path.read_bytes()
    for damage in (b"", content[:-1], flipped(content, 999), FILES["weights.npz"][0](run).read_bytes(), npz()):
        path.write_bytes(damage)
        loaded = newest_checkpoint(run.stage("base"))
        assert (loaded.epoch, loaded.arrays["w/kernel"][0]) == (1, 1.0)
        assert path.name in capsys.readouterr().err
    path.write_bytes(content)
    assert newest_checkpoint(run.stage("base")).epoch == 2


def test_a_stage_whose_checkpoints_are_all_damaged_is_refused_and_keeps_them(run):
    both = sorted(newest(run).parent.iterdir())
    contents = [path.read_bytes() for path in both]
    for path, content in zip(both, contents, strict=True):
        path.write_bytes(content[:-10])
    with pytest.raises(files.DamagedFileError) as error:
        newest_checkpoint(run.stage("base"))
    assert all(str(path) in str(error.value) for path in both)
    assert "`overwrite`" in str(error.value)
    assert [path.stat().st_size for path in both] == [len(content) - 10 for content in contents]
    for path, content in zip(both, contents, strict=True):
        path.write_bytes(content)


def test_a_damaged_lock_stops_nobody_for_ever(tmp_path, monkeypatch):
    """It is taken over, or the message says what to delete."""
    monkeypatch.setattr(lock.time, "sleep", lambda _: None)
    monkeypatch.setattr(lock, "_LOOKS", 1)
    path, host = tmp_path / "lock", lock.socket.gethostname()
    near = {"host": host, "began": lock._began(os.getpid()), "place": lock._place()}
    held = json.dumps({**near, "pid": os.getpid()}).encode()
    contents = [*HOSTILE_JSON.values(), *(flipped(held, bit) for bit in range(8 * len(held)))]
    pids = (-1, 0, 2**31, 10**30, "x", None, 1.5)
    contents += [json.dumps({**near, "pid": pid}).encode() for pid in pids]
    refused = 0
    for content in contents:
        path.write_bytes(content)
        try:
            lock.take(path)
        except RunError as error:
            assert f"delete {path}" in str(error)
            refused += 1
        lock.release(path)
        path.unlink(missing_ok=True)
    assert 0 < refused < len(contents)


# The CIFAR pickles.

BOMBS = {
    "a call of os.system": b"\x80\x02cos\nsystem\n(U\x08touch /xtR.",
    "posix, as Python 3 pickles it": pickle.dumps(os.system),
    "an import by a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
    "eval": b"\x80\x02c__builtin__\neval\nU\x011\x85R.",
    "an extension code": b"\x80\x02\x82\x01.",
    "an object by a persistent name": b"\x80\x02U\x01xQ.",
    "a persistent name in text": b"\x80\x02Px\n.",
    "a class to be built": b"\x80\x02(i__main__\nExploit\n.",
    "an object of 2**40 bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "text of 2**40 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "a negative length": b"\x80\x02T" + struct.pack("<i", -1) + b".",
    "a memo of 2**31 places": b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".",
    "a number of a million digits": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".",
    "an array of objects": python2_pickle({}).replace(
        b"}", b"}U\x04data" + python2_array(np.zeros((1, 8), np.uint8)).replace(b"u1", b"O8") + b"s", 1
    ),
    "an array built with a shape of 2**39": (b"\x80\x02cnumpy\nndarray\n\x8a\x05\x00\x00\x00\x00\x80\x85R."),
    "twenty thousand lists in lists": b"\x80\x02" + b"](" * 20_000 + b"e" * 20_000 + b".",
    "tuples that take for ever to hash": b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
    "tuples of many places": b"\x80\x02}K\x01"
    + b"".join(b"q\x00(" + b"h\x00" * 200 + b"t" for _ in range(10))
    + b"K\x01s.",
    "its own state": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x08__init__NsbK\x01.",
    "a state that is none": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)RNb.",
    "no end": b"\x80\x02}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_are_no_cifar_batch_are_refused_without_taking_memory_or_time(tmp_path, name):
    write_archive(tmp_path, PYTHON)
    path = tmp_path / "data_batch_1"
    path.write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="data_batch_1 is damaged"):
            cifar_archives.read(PYTHON, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(BOMBS[name]) + 2**22
    finally:
        tracemalloc.stop()


def test_a_batch_with_flipped_bits_is_read_or_named(tmp_path):
    """Pixels and labels carry no digest; structure, and labels out of range, are seen."""
    write_archive(tmp_path, PYTHON)
    path = tmp_path / "data_batch_1"
    content = python2_pickle({**GOOD, b"filenames": [b"a.png"] * 20}).replace(
        b"\x80\x02}", b"\x80\x02}q\x01r\x02\x00\x00\x00", 1
    )
    path.write_bytes(content)
    assert len(cifar_archives.read(PYTHON, tmp_path).train) == 100
    pixels = content.index(bytes(3072))
    structure = [*range(pixels), *range(pixels + 20 * 3072, len(content))]
    rng, refused = random.Random(0), 0
    for position in rng.sample(structure, 150):
        path.write_bytes(flipped(content, 8 * position + rng.randrange(8)))
        try:
            source = cifar_archives.read(PYTHON, tmp_path)
        except DataError as error:
            assert "data_batch_1" in str(error)
            refused += 1
        else:
            assert source.train.labels.max() < 10
    assert refused > 50


def numbered(put, index):
    """A good batch whose dictionary has a place in the memo."""
    return python2_pickle(GOOD).replace(b"}", b"}" + put + index, 1)


@pytest.mark.parametrize(
    "content",
    [
        numbered(b"q", b"\x02"),
        numbered(b"q", b"\xff"),
        numbered(b"r", struct.pack("<I", 2)),
        numbered(b"r", struct.pack("<I", 60_000)),  # less than the file has bytes
        numbered(b"q", b"\x01q\x03"),
    ],
)
def test_places_in_the_memo_that_are_left_out_are_refused_before_they_take_memory(tmp_path, monkeypatch, content):
    """The unpickler takes 16 bytes for each place up to the largest."""
    assert len(content) > 60_000
    monkeypatch.delattr(cifar_archives, "_ArrayUnpickler")
    write_archive(tmp_path, PYTHON)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match="it numbers more objects than it holds"):
        cifar_archives.read(PYTHON, tmp_path)


@pytest.mark.parametrize("first", [0, 1])  # Python's pickle begins with 0, C's of Python 2 with 1
def test_places_in_the_memo_one_after_the_other_are_read(tmp_path, first):
    write_archive(tmp_path, PYTHON)
    puts = b"".join(b"r" + struct.pack("<I", first + number) for number in range(300))
    (tmp_path / "data_batch_1").write_bytes(python2_pickle(GOOD).replace(b"}", b"}" + puts, 1))
    assert len(cifar_archives.read(PYTHON, tmp_path).train) == 100


@pytest.mark.parametrize(("kind", "reason"), [("large", "is larger than"), ("pipe", "is no regular file")])
def test_a_batch_that_cannot_be_read_is_named_once(tmp_path, kind, reason):
    write_archive(tmp_path, PYTHON)
    path = tmp_path / "data_batch_1"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(DataError) as error:
        cifar_archives.read(PYTHON, tmp_path)
    fault, advice = str(error.value).rsplit("\n", 1)
    assert fault.startswith(f"{path} {reason}")
    assert fault.count(str(path)) == 1 and fault.endswith(".") and not fault.endswith("..")
    assert advice == "Unpack the archive again, or download it anew."


def test_nothing_but_these_files_unpickles_or_opens_archives():
    """And nothing unpacks one, so that no member can escape its directory."""
    root = Path(files.__file__).parent.parent
    importers = {"pickle": set(), "zipfile": set(), "tarfile": set(), "shelve": set(), "marshal": set(), "dill": set()}
    for path in root.rglob("*.py"):
        code = path.read_text()
        assert "unpack_archive" not in code and "extractall" not in code and "allow_pickle=True" not in code
        for node in ast.walk(ast.parse(code)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in set(names) & set(importers):
                importers[name].add(str(path.relative_to(root)))
    assert {name: found for name, found in importers.items() if found} == {
        "pickle": {"data/cifar_archives.py"},
        "zipfile": {"storage/files.py"},
    }
