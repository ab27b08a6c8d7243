"""Exports the network of a run's last finished training stage, compacted, for other programs.

    nhn-export --model_dir=runs/demo
    nhn-export --model_dir=runs/demo --format=keras,onnx

Writes runs/demo/export/: the files, preprocessing.json (how to make inputs), export.md (errors, sizes, latencies) and
export.json. Every file is loaded again in a fresh process and compared with the network before it takes its name.

Flags:
  --model_dir: the run's directory
  --format: keras, saved_model, onnx, litert, nhn (the kernel-sparse runtime), several with commas, or all: those whose
    packages are installed
  --float16: keep weights as float16 where the format allows it (nhn): half the size, rounded; export.md tells the error
  --data_dir: where the data set lies, if it has moved since the run
  --quiet: tell only warnings, errors and the result
  --own_ops: modules to import that register ops of your own, if the network has any
  --debug: show the traceback of an error
"""

from typing import Any

from absl import flags

from .. import entry

FLAGS = flags.FLAGS


def main() -> None:
    flags.DEFINE_list("format", ["all"], "keras, saved_model, onnx, litert, nhn, or all")
    flags.DEFINE_boolean("float16", False, "keep weights as float16 where the format allows it")
    flags.DEFINE_string("data_dir", None, "where the data set lies, if it has moved since the run")
    entry.define_reading()
    entry.guarded(lambda: (__doc__ or "").strip(), export)


def export() -> dict[str, Any]:
    """Exports the network of `--model_dir`."""
    model_dir = entry.run_to_read()
    entry.check_backend()
    entry.stay_on_the_processor()
    from nhn_tf.export import write_exports  # Keras loads only once the flags are known to be right

    names = [name.strip() for name in FLAGS.format]
    return write_exports(model_dir, names, data_dir=FLAGS.data_dir, float16=FLAGS.float16)
