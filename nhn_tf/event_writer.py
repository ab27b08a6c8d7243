"""TensorBoard events without TensorFlow: scalars, images, histograms and text through the `tensorboard` package."""

from __future__ import annotations

import os
import time

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util


class EventWriter:
    """Writes one event file into `directory`.

    Args:
      directory: where TensorBoard will look; made when missing.
      first_step: the step this process begins with. TensorBoard drops what an earlier, interrupted process wrote
        from this step on.
    """

    def __init__(self, directory: str | os.PathLike[str], *, first_step: int = 0):
        self._writer = EventFileWriter(os.fspath(directory))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=first_step, session_log=start))

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._add(step, summary_pb2.Summary.Value(tag=tag, simple_value=float(value)))

    def image(self, tag: str, png: bytes, step: int, *, height: int, width: int) -> None:
        """Adds an encoded PNG of `height` x `width` pixels."""
        image = summary_pb2.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(step, summary_pb2.Summary.Value(tag=tag, image=image))

    def histogram(self, tag: str, values: np.ndarray, step: int, *, bins: int = 30) -> None:
        """Adds a histogram of finite `values` of any shape."""
        counts, edges = np.histogram(np.asarray(values, np.float64).ravel(), bins)
        table = np.stack([edges[:-1], edges[1:], counts], axis=1)
        metadata = histogram_metadata.create_summary_metadata(display_name="", description="")
        tensor = tensor_util.make_tensor_proto(table, dtype="float64")
        self._add(step, summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor))

    def text(self, tag: str, markdown: str, step: int) -> None:
        metadata = text_metadata.create_summary_metadata(display_name="", description="")
        tensor = tensor_util.make_tensor_proto([markdown])
        self._add(step, summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor))

    def _add(self, step: int, value: summary_pb2.Summary.Value) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=[value]))
        self._writer.add_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
