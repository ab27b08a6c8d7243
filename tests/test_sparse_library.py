"""A network as a library: C programs, threads, other processors."""

import ctypes
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import sparse_reference as reference

pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

from nhn_tf.errors import UserError
from nhn_tf.sparse import library
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.plan.lower import lower
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.optimize import merge

IMAGES = np.random.default_rng(0).standard_normal((9, 12, 12, 3)).astype(np.float32)
LINKS = pytest.mark.skipif(not any(map(shutil.which, library.LINKERS)), reason="no linker is installed")
COMPILES = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler is installed")

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "network.h"

enum { IMAGES = 9, TURNS = 200 };
static float images[IMAGES * NHN_INPUT_0_SIZE];
static nhn_network *network;

static void *work(void *first) {
  float scores[IMAGES * NHN_OUTPUT_0_SIZE];
  const float *inputs[NHN_INPUTS] = {images};
  float *outputs[NHN_OUTPUTS] = {scores};
  for (int turn = 0; turn < TURNS; turn++)
    if (nhn_run(network, inputs, outputs, IMAGES)) exit(3);
  for (int i = 0; i < IMAGES * NHN_OUTPUT_0_SIZE; i++) ((float *)first)[i] = scores[i];
  return NULL;
}

int main(void) {
  static float results[4][IMAGES * NHN_OUTPUT_0_SIZE];
  pthread_t threads[4];
  if (fread(images, sizeof(float), IMAGES * NHN_INPUT_0_SIZE, stdin) != IMAGES * NHN_INPUT_0_SIZE) return 2;
  if (!(network = nhn_load())) return 3;
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, results[i]);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  nhn_free(network);
  nhn_free(NULL);
  fwrite(results, sizeof(float), 4 * IMAGES * NHN_OUTPUT_0_SIZE, stdout);
  return 0;
}
"""


@pytest.fixture(scope="module")
def runtime():
    """A pruned 3x3, a strided max pool, whose halo is not zero, a 1x1 and class scores."""
    rng = np.random.default_rng(1)
    first = ops.Input(inputs=(), size=(12, 12, 3))
    conv = reference.random_conv(rng, (12, 12, 3), 16, window=(3, 3), density=0.4, activation="leaky_relu", slope=0.1)
    pool = ops.Pool(inputs=(1,), kind="max", window=(3, 3), strides=(2, 2), pads=(0, 0), size=(6, 6))
    mixed = reference.random_conv(rng, (6, 6, 16), 64, window=(1, 1), value=2)
    whole = ops.GlobalPool(inputs=(3,), kind="average")
    head = ops.Dense(inputs=(4,), kernel=rng.standard_normal((64, 5)).astype(np.float32), bias=np.ones(5, np.float32))
    return compile_program(ops.Program((first, conv, pool, mixed, whole, head), (5,)), threads=1)


@COMPILES
def test_a_c_program_whose_threads_share_a_network_computes_the_same_bits(runtime, tmp_path):
    runtime.export_library(tmp_path / "network.so")
    (tmp_path / "program.c").write_text(PROGRAM)
    built = ["cc", "-Wall", "-Werror", "-pthread", "program.c", "./network.so", "-o", "program"]
    subprocess.run(built, cwd=tmp_path, check=True)
    done = subprocess.run(["./program"], cwd=tmp_path, input=IMAGES.tobytes(), capture_output=True, check=True)
    results = np.frombuffer(done.stdout, np.float32).reshape(4, 9, 5)
    assert all(np.array_equal(result, runtime(IMAGES)) for result in results)


@COMPILES
def test_two_networks_are_linked_into_one_program(runtime, tmp_path):
    for prefix in ("first", "second"):
        runtime.export_library(tmp_path / f"{prefix}.o", prefix=prefix)
    (tmp_path / "program.c").write_text(
        '#include "first.h"\n#include "second.h"\nint main(void) {\n'
        "  first_free(first_load()); second_free(second_load());\n"
        "  return FIRST_INPUT_0_SIZE != 432 || SECOND_OUTPUT_0_SIZE != 5;\n}\n"
    )
    subprocess.run(["cc", "program.c", "first.o", "second.o", "-o", "program"], cwd=tmp_path, check=True)
    subprocess.run(["./program"], cwd=tmp_path, check=True)


@LINKS
def test_ctypes_calls_it_without_llvmlite(runtime, tmp_path):
    runtime.export_library(tmp_path / "network.so")
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import ctypes, numpy as np, sys\n"
        "sys.modules['llvmlite'] = sys.modules['nhn_tf'] = None\n"
        "library = ctypes.CDLL('./network.so')\n"
        "library.nhn_load.restype = ctypes.c_void_p\n"
        "images, scores = np.load('images.npy'), np.empty((9, 5), np.float32)\n"
        "pointers = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (images, scores)]\n"
        "network = ctypes.c_void_p(library.nhn_load())\n"
        "assert library.nhn_run(network, *pointers, ctypes.c_int64(9)) == 0\n"
        "assert library.nhn_run(network, *pointers, ctypes.c_int64(0)) == 0\n"
        "library.nhn_free(network)\n"
        "np.save('scores.npy', scores)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert np.array_equal(np.load(tmp_path / "scores.npy"), runtime(IMAGES))


@LINKS
def test_images_that_run_side_by_side_have_the_same_bits(tmp_path):
    rng = np.random.default_rng(2)
    kernel = rng.standard_normal((40, 1000)).astype(np.float32)
    dense = ops.Dense(inputs=(0,), kernel=kernel, bias=np.ones(1000, np.float32))
    runtime = compile_program(ops.Program((ops.Input(inputs=(), size=(40,)), dense), (1,)), threads=1)
    runtime.export_library(tmp_path / "network.so")
    made = ctypes.CDLL(str(tmp_path / "network.so"))
    made.nhn_load.restype = ctypes.c_void_p
    network = ctypes.c_void_p(made.nhn_load())
    count = 2 * runtime.plan.group + 3
    images, scores = rng.standard_normal((count, 40)).astype(np.float32), np.empty((count, 1000), np.float32)
    pointers = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (images, scores)]
    assert runtime.plan.group > 1
    assert made.nhn_run(network, *pointers, ctypes.c_int64(count)) == 0
    made.nhn_free(network)
    np.testing.assert_array_equal(scores, runtime(images))
    np.testing.assert_allclose(scores, images @ kernel + 1, atol=1e-4)


@LINKS
def test_only_the_three_functions_are_seen(runtime, tmp_path):
    runtime.export_library(tmp_path / "network.so")
    seen = ctypes.CDLL(str(tmp_path / "network.so"))
    assert seen.nhn_load and seen.nhn_run and seen.nhn_free
    for name in ("run", "new_arena", "nhn_constants", "nhn_indices"):
        with pytest.raises(AttributeError):
            getattr(seen, name)


@pytest.mark.parametrize("processor", machine.PROCESSORS)
def test_objects_are_made_for_every_processor(runtime, tmp_path, processor):
    runtime.export_library(tmp_path / "network.o", processor=processor)
    code = (tmp_path / "network.o").read_bytes()
    assert code.startswith(b"\x7fELF")
    assert int.from_bytes(code[18:20], "little") == (183 if processor == "aarch64" else 62)  # e_machine
    assert processor in (tmp_path / "network.h").read_text()


def test_code_for_arm_has_its_vector_instructions(runtime):
    plan = lower(merge(runtime.program), machine.HOSTS[4])
    target = machine._machine_for(machine.PROCESSORS["aarch64"])
    text = target.emit_assembly(machine._module(plan.ir, target))
    assert "fmla\tv" in text and ".4s" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "network.dll"}, "must end in .so"),
        ({"path": "network.o", "processor": "z80"}, "must be one of x86-64-v4, x86-64-v3"),
        ({"path": "network.o", "prefix": "two words"}, "beginning of a name in C"),
        ({"path": "network.o", "prefix": 3}, "beginning of a name in C"),
    ],
)
def test_what_cannot_be_made_is_refused(runtime, tmp_path, options, message):
    options["path"] = tmp_path / options["path"]
    with pytest.raises(ValueError, match=message):
        runtime.export_library(**options)
    assert not list(tmp_path.iterdir())


def test_without_a_linker_it_says_what_to_do(runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no linker was found.*object file"):
        runtime.export_library(tmp_path / "network.so")
    assert not list(tmp_path.iterdir())


@LINKS
def test_a_linker_of_another_processor_is_named(runtime, tmp_path):
    with pytest.raises(UserError, match="does not link the library.*\n.*object file"):
        runtime.export_library(tmp_path / "network.so", processor="aarch64")
    assert not list(tmp_path.iterdir())


@LINKS
def test_a_temporary_directory_may_have_any_name(runtime, tmp_path, monkeypatch):
    for name in ('a "word"', "back\\slash"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        runtime.export_library(tmp_path / "network.so")
        assert ctypes.CDLL(str(tmp_path / "network.so")).nhn_load
