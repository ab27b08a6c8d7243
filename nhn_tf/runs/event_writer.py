"""TensorBoard events without TensorFlow, through the `tensorboard` package: scalars, images, text, graphs and so on.

Event files are the one kind of file that grows by appending; TensorBoard itself leaves out a last record that is cut
off. Nothing of a run is read back from them.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tensorboard.compat.proto import attr_value_pb2, event_pb2, graph_pb2, summary_pb2, tensor_shape_pb2
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from nhn_tf.storage import files


class EventWriter:
    """Writes one event file into `directory`.

    Args:
      directory: where TensorBoard will look; made when missing.
      first_step: the step this process begins with. TensorBoard drops what an earlier, interrupted process wrote
        from this step on.

    Raises:
      files.WriteError: by `flush` and `close`, when the file cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str], *, first_step: int = 0):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path = Path(directory) / name
        self._pending = io.BytesIO()
        self._records = RecordWriter(self._pending)
        source = event_pb2.SourceMetadata(writer="nhn_tf")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add_event(event_pb2.Event(file_version="brain.Event:2", source_metadata=source))
        self._add_event(event_pb2.Event(step=first_step, session_log=start))
        self.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._add(step, summary_pb2.Summary.Value(tag=tag, simple_value=float(value)))

    def image(self, tag: str, png: bytes, step: int, *, height: int, width: int) -> None:
        """Adds an encoded PNG of `height` x `width` pixels."""
        image = summary_pb2.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(step, summary_pb2.Summary.Value(tag=tag, image=image))

    def histogram(self, tag: str, values: np.ndarray, step: int, *, bins: int = 30) -> None:
        """Adds a histogram of `values` of any shape; those that are not finite are left out."""
        values = np.asarray(values, np.float64)
        counts, edges = np.histogram(values[np.isfinite(values)], bins)
        table = np.stack([edges[:-1], edges[1:], counts], axis=1)
        metadata = histogram_metadata.create_summary_metadata(display_name="", description="")
        tensor = tensor_util.make_tensor_proto(table, dtype="float64")
        self._add(step, summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor))

    def text(self, tag: str, markdown: str, step: int) -> None:
        metadata = text_metadata.create_summary_metadata(display_name="", description="")
        tensor = tensor_util.make_tensor_proto([markdown])
        self._add(step, summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor))

    def graph(self, nodes: Iterable[tuple[str, str, Iterable[str], Iterable[int | None]]]) -> None:
        """Adds the graph of a network: of each node its name, its type, the names of those it reads, its shape.

        A name with slashes stands within boxes of what is in front of them; of a shape None is unknown.
        """
        definition = graph_pb2.GraphDef()
        for name, kind, parents, shape in nodes:
            node = definition.node.add(name=name, op=kind, input=parents)
            sizes = [tensor_shape_pb2.TensorShapeProto.Dim(size=-1 if n is None else n) for n in shape]
            shapes = attr_value_pb2.AttrValue.ListValue(shape=[tensor_shape_pb2.TensorShapeProto(dim=sizes)])
            node.attr["_output_shapes"].CopyFrom(attr_value_pb2.AttrValue(list=shapes))
        self._add_event(event_pb2.Event(graph_def=definition.SerializeToString()))

    def hparams(self, tag: str, data: plugin_data_pb2.HParamsPluginData) -> None:
        """Adds a message of the HParams plugin under a tag that it knows."""
        metadata = hparams_metadata.create_summary_metadata(data)
        self._add(0, summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR))

    def _add(self, step: int, value: summary_pb2.Summary.Value) -> None:
        self._add_event(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[value])))

    def _add_event(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Appends to the file what has been added since."""
        with files.writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab") as file:
                file.write(self._pending.getvalue())
        self._pending.seek(0)
        self._pending.truncate()

    def close(self) -> None:
        self.flush()
