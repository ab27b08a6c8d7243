"""Machine code in the user's cache: found again, and passed over where anything about it is odd."""

import errno
import os
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import sparse_reference as reference

pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

import nhn_tf.sparse
from nhn_tf.sparse import code_cache, compiler
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.plan import dtypes
from nhn_tf.sparse.program import file_format
from nhn_tf.sparse.program import operations as ops

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of the test's own, which is not there yet."""
    monkeypatch.setenv(code_cache.SWITCH, "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nhn_tf" / "sparse-code"


@pytest.fixture
def plans(monkeypatch):
    """The programs that were planned."""
    planned = []

    def lower(program, *args, **options):
        planned.append(program)
        return real(program, *args, **options)

    real = compiler.lower
    monkeypatch.setattr(compiler, "lower", lower)
    return planned


def network(seed=0):
    """A max pool, whose copy is filled with -infinity, between convolutions."""
    rng = np.random.default_rng(seed)
    conv = reference.random_conv(rng, (8, 8, 3), 6, window=(3, 3), density=0.5, activation="relu")
    pool = ops.Pool(inputs=(1,), kind="max", window=(3, 3), strides=(2, 2), pads=(0, 0), size=(4, 4))
    last = reference.random_conv(rng, (4, 4, 6), 5, window=(1, 1), value=2)
    return ops.Program((ops.Input(inputs=(), size=(8, 8, 3)), conv, pool, last), (3,))


@pytest.fixture
def saved(tmp_path):
    file_format.save(tmp_path / "net.nhn", network())
    return tmp_path / "net.nhn"


def bits(runtime):
    rng = np.random.default_rng(1)
    made = runtime(*(rng.standard_normal((3, *shape)).astype(np.float32) for shape in runtime.input_shapes))
    return [array.tobytes() for array in (made if isinstance(made, tuple) else (made,))]


def test_a_network_is_planned_and_compiled_once(saved, plans, folder):
    first, second = nhn_tf.sparse.load(saved), nhn_tf.sparse.load(saved)
    assert len(plans) == 1
    assert bits(first) == bits(second)
    assert first.summary() == second.summary()
    assert oct(folder.stat().st_mode)[-3:] == "700"
    (file,) = folder.iterdir()
    assert oct(file.stat().st_mode)[-3:] == "600"


def test_a_file_has_the_code_of_the_network_that_it_was_saved_from(tmp_path, plans):
    runtime = compile_program(network())
    runtime.save(tmp_path / "net.nhn")
    runtime.save(tmp_path / "half.nhn", dtype="float16")
    again = nhn_tf.sparse.load(tmp_path / "net.nhn")
    assert len(plans) == 1 and bits(again) == bits(runtime)
    nhn_tf.sparse.load(tmp_path / "half.nhn")  # Has rounded weights.
    assert len(plans) == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("host", [*machine.HOSTS.values(), machine.EMULATED, machine.EMULATED_QUADS], ids=str)
def test_random_programs_keep_their_bits(seed, host, plans, monkeypatch):
    monkeypatch.setattr(dtypes, "LEAST_FILLED", 0.0)
    monkeypatch.setattr(dtypes, "CONVERSION", 0.0)
    program = reference.random_program(np.random.default_rng(seed), length=5)
    options = {"host": host, "threads": 1}
    if host.narrow == "int8":
        options["calibrate"] = reference.images_of(program)
    kept = [compile_program(program, **options) for _ in range(2)]
    assert len(plans) == 1
    assert bits(kept[0]) == bits(kept[1]) == bits(compile_program(program, **options, cache=False))
    assert kept[1].summary() == kept[0].summary()


def test_another_process_finds_it(saved, plans):
    expected = bits(nhn_tf.sparse.load(saved))
    script = """
import sys
import numpy as np
import nhn_tf.sparse
from nhn_tf.sparse import compiler
compiler.lower = compiler.assemble = None
runtime = nhn_tf.sparse.load(sys.argv[1])
images = np.random.default_rng(1).standard_normal((3, *runtime.input_shapes[0])).astype(np.float32)
sys.stdout.buffer.write(runtime(images).tobytes())
assert "keras" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script, saved], capture_output=True, check=True)
    assert [done.stdout] == expected


def test_a_program_is_read_when_it_is_needed(saved, tmp_path):
    nhn_tf.sparse.load(saved)
    runtime = nhn_tf.sparse.load(saved)
    again = pickle.loads(pickle.dumps(runtime))
    for number, one in enumerate((runtime, again)):
        one.save(tmp_path / f"{number}.nhn")
        assert (tmp_path / f"{number}.nhn").read_bytes() == saved.read_bytes()
    assert bits(again) == bits(runtime)


@pytest.mark.parametrize("off", ["argument", "environment"])
def test_it_can_be_switched_off(off, saved, folder, monkeypatch):
    if off == "environment":
        monkeypatch.setenv("NHN_SPARSE_CACHE", "0")
    nhn_tf.sparse.load(saved, cache=off == "environment")
    assert not folder.exists()


def test_timed_code_is_not_kept(folder):
    compile_program(network(), timed=True)
    assert not folder.exists()


def test_what_decides_the_code_is_in_the_name(monkeypatch):
    host, identity = machine.host(), machine.identity()
    names = {code_cache.key(digest, one) for digest in (b"a", b"b") for one in (host, machine.EMULATED)}
    for place in range(len(identity)):  # System, processor, features, llvmlite, LLVM.
        changed = [*identity]
        changed[place] += "+"
        monkeypatch.setattr(machine, "identity", lambda changed=changed: changed)
        names.add(code_cache.key(b"a", host))
    monkeypatch.setattr(machine, "identity", lambda: identity)
    monkeypatch.setattr(code_cache, "SOURCES", "others")
    names.add(code_cache.key(b"a", host))
    assert len(names) == 4 + len(identity) + 1


def others_may_write(file):
    file.chmod(0o622)


def a_link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def a_directory(file):
    file.unlink()
    file.mkdir()


def truncated(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def longer(file):
    file.write_bytes(file.read_bytes() + b"\0")


def others_may_read_the_folder(file):
    file.parent.chmod(0o750)


def the_folder_is_a_link(file):
    file.parent.rename(file.parent.with_name("elsewhere"))
    file.parent.symlink_to("elsewhere")


ODD = [
    others_may_write, a_link, a_pipe, a_directory, truncated, empty, longer, others_may_read_the_folder,
    the_folder_is_a_link,
]  # fmt: skip


@pytest.mark.parametrize("change", ODD)
def test_what_is_odd_is_passed_over(change, saved, folder, plans):
    expected = bits(nhn_tf.sparse.load(saved))
    (file,) = folder.iterdir()
    change(file)
    assert bits(nhn_tf.sparse.load(saved)) == expected
    assert len(plans) == 2


def test_a_strangers_file_is_passed_over(saved, folder, plans, monkeypatch):
    nhn_tf.sparse.load(saved)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    nhn_tf.sparse.load(saved)
    assert len(plans) == 2


@pytest.mark.parametrize("seed", range(40))
def test_an_altered_byte_is_passed_over(seed, saved, folder, plans):
    """Anywhere: in the prefix, the header, the code, the tables."""
    nhn_tf.sparse.load(saved)
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    place = int(rng.integers(len(data) if seed % 2 else 200))
    data[place] ^= int(rng.integers(1, 256))
    file.write_bytes(data)
    nhn_tf.sparse.load(saved)
    assert len(plans) == 2


def test_code_of_another_network_is_passed_over(saved, folder, plans):
    nhn_tf.sparse.load(saved)
    (own,) = folder.iterdir()
    compile_program(network(1))
    (other,) = set(folder.iterdir()) - {own}
    other.replace(own)
    expected = bits(compile_program(network(), cache=False))
    assert bits(nhn_tf.sparse.load(saved)) == expected
    assert len(plans) == 4


@pytest.mark.parametrize("text", [b"1", b"{}", b'{"sizes": [-4, 2, 2]}', b'{"sizes": ["a"]}', b"[" * 10_000, b"\xff"])
def test_a_header_of_something_else_is_passed_over(text, saved, folder, plans):
    """With a checksum that is right."""
    nhn_tf.sparse.load(saved)
    (file,) = folder.iterdir()
    prefix = code_cache.PREFIX.pack(code_cache.MAGIC, code_cache._digest(file.name, [text]), len(text))
    file.write_bytes(prefix + text)
    nhn_tf.sparse.load(saved)
    assert len(plans) == 2


def test_those_not_used_for_longest_go(folder, monkeypatch):
    compile_program(network(0))
    (first,) = folder.iterdir()
    monkeypatch.setattr(code_cache, "MAX_BYTES", 2.5 * first.stat().st_size)
    os.utime(first, (1, 1))
    compile_program(network(1))
    compile_program(network(0))  # Is used: now it is the newest.
    (second,) = set(folder.iterdir()) - {first}
    os.utime(second, (2, 2))
    compile_program(network(2))
    assert first in folder.iterdir() and second not in folder.iterdir() and len(list(folder.iterdir())) == 2


def test_a_directory_among_the_files_stays_and_others_go(folder, monkeypatch):
    compile_program(network(0))
    (file,) = folder.iterdir()
    os.utime(file, (1, 1))
    (folder / "own").mkdir()
    monkeypatch.setattr(code_cache, "MAX_BYTES", 0)
    code_cache._bound(folder)
    assert list(folder.iterdir()) == [folder / "own"]


def test_code_that_has_no_room_drives_out_none(folder, monkeypatch):
    compile_program(network(0))
    before = list(folder.iterdir())
    monkeypatch.setattr(code_cache, "MAX_BYTES", before[0].stat().st_size // 2)
    compile_program(network(1))
    assert list(folder.iterdir()) == before


def test_a_cache_that_can_only_be_read_is_read(saved, plans, monkeypatch):
    expected = bits(nhn_tf.sparse.load(saved))

    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert bits(nhn_tf.sparse.load(saved)) == expected
    assert len(plans) == 1


def test_a_user_without_a_home_does_without(saved, monkeypatch, tmp_path, capfd):
    """Rather than be told at each network that one in the directory for temporary files takes its place."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # Of a user without a name.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    nhn_tf.sparse.load(saved)
    assert capfd.readouterr().err == "" and not any((tmp_path / "temporary").iterdir())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are not listed here")
def test_what_is_odd_is_closed(saved, folder):
    nhn_tf.sparse.load(saved)
    (file,) = folder.iterdir()
    a_directory(file)
    before = len(os.listdir("/proc/self/fd"))
    assert code_cache.find(file.name, machine.host()) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_cache_that_cannot_be_written_is_done_without(saved, folder):
    folder.parent.mkdir(parents=True)
    folder.write_bytes(b"")
    assert bits(nhn_tf.sparse.load(saved)) == bits(compile_program(network(), cache=False))


def test_a_damaged_file_is_refused_although_its_code_is_kept(saved):
    nhn_tf.sparse.load(saved)
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(nhn_tf.sparse.DamagedFileError, match="checksum"):
        nhn_tf.sparse.load(saved)
