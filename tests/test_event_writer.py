"""Events are what TensorBoard reads, and a process that goes on leaves the earlier one's alone."""

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from nhn_tf.runs.event_writer import EventWriter
from nhn_tf.storage import files

pytestmark = pytest.mark.jax


def test_tensorboard_reads_what_was_written_by_two_processes(tmp_path):
    first = EventWriter(tmp_path)
    for step in (1, 2, 3):
        first.scalar("loss", 1.0 / step, step)
    first.histogram("weights", np.arange(10), 1)
    first.flush()  # and is killed
    second = EventWriter(tmp_path, first_step=3)
    second.scalar("loss", 9.0, 3)
    second.close()
    assert len(list(tmp_path.iterdir())) == 2
    read = event_accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert read.Tags()["tensors"] == ["weights"]


def test_a_histogram_leaves_out_what_is_not_finite(tmp_path):
    writer = EventWriter(tmp_path)
    writer.histogram("weights", np.array([[0.0, np.nan], [3.0, np.inf]]), 1, bins=3)
    writer.close()
    read = event_accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    [event] = read.Tensors("weights")
    # Left edge, right edge, count.
    np.testing.assert_array_equal(tensor_util.make_ndarray(event.tensor_proto), [[0, 1, 1], [1, 2, 0], [2, 3, 1]])


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(files.WriteError, match="tensorboard/events.* cannot be written"):
        EventWriter(tmp_path / "tensorboard")
