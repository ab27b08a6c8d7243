"""The table of where a compiled network's time goes."""

import numpy as np
import pytest
import sparse_reference as reference

pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

import nhn_tf.sparse
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.native.peaks import multiply_adds
from nhn_tf.sparse.program import operations as ops

IMAGES = np.random.default_rng(0).standard_normal((2, 20, 20, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def profile():
    """Of a strided 3x3 with half its kernels, a concatenation, a pool and class scores."""
    rng = np.random.default_rng(0)
    first = ops.Input(inputs=(), size=(20, 20, 8))
    conv = reference.random_conv(rng, (20, 20, 8), 6, window=(3, 3), strides=(2, 2), density=0.5)
    joined = ops.Concatenate(inputs=(1, 1))
    pool = ops.GlobalPool(inputs=(2,), kind="average")
    head = ops.Dense(inputs=(3,), kernel=np.ones((12, 5), np.float32), bias=np.zeros(5, np.float32))
    runtime = compile_program(ops.Program((first, conv, joined, pool, head), (4,)), threads=1)
    return runtime, nhn_tf.sparse.profile(runtime, IMAGES, seconds=0.05)


def test_it_has_a_row_for_each_operation_that_takes_a_step(profile):
    assert [(row.op, row.name) for row in profile[1].rows] == [
        (0, "Input"), (1, "Conv 3x3/2"), (3, "GlobalPool"), (4, "Dense")
    ]  # fmt: skip
    assert profile[1].rows[1].shapes == "(20, 20, 8) -> (10, 10, 6)"


def test_only_live_kernels_count_as_work(profile):
    live = int(profile[0].program.ops[1].mask.sum())
    assert 0 < live < 48
    # A multiply-add is two operations; the 3x3 makes 10 x 10 outputs; Dense has 12 x 5 weights.
    assert [row.flops for row in profile[1].rows] == [0, 2 * live * 9 * 100, 0, 2 * 60]


def test_times_add_up_and_copies_are_part_of_them(profile):
    rows = profile[1].rows
    assert profile[1].seconds == pytest.approx(sum(row.seconds for row in rows))
    assert all(0 <= row.copy_seconds <= row.seconds for row in rows)
    assert rows[0].copy_seconds == rows[0].seconds > 0  # An image is copied into planes, no more.
    assert rows[1].copy_seconds > 0  # For its stride.
    assert rows[2].copy_seconds == 0


def test_the_text_has_a_line_for_each_row_and_the_picture_is_one(profile, tmp_path):
    text = str(profile[1])
    assert len(text.splitlines()) == 2 + 4
    assert "Conv 3x3/2" in text and "GFLOP/s" in text
    profile[1].draw(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_no_row_is_faster_than_the_peak(profile):
    assert all(row.flops <= 1.2 * row.seconds * profile[1].peak for row in profile[1].rows)


@pytest.mark.parametrize("lanes", [4, 16])
def test_the_peak_is_that_of_a_processor(lanes):
    assert 5e8 < multiply_adds(machine.HOSTS[lanes]) < 5e11


def test_profiling_changes_no_result(profile):
    expected = profile[0](IMAGES)
    np.testing.assert_array_equal(compile_program(profile[0].program, threads=1, timed=True)(IMAGES), expected)


def test_what_cannot_be_profiled_is_refused(profile):
    with pytest.raises(ValueError, match="must hold an image or more"):
        nhn_tf.sparse.profile(profile[0], IMAGES[:0])
    with pytest.raises(ValueError, match="the images must have the shape"):
        nhn_tf.sparse.profile(profile[0], IMAGES[:, 1:])
    with pytest.raises(ValueError, match="`runtime` must be a SparseRuntime"):
        nhn_tf.sparse.profile("network.nhn", IMAGES)
