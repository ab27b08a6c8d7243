"""Reports on a run, finished or not: its figures beside the paper's, pictures of its network and its convergence.

    nhn-report --model_dir=runs/demo

Writes runs/demo/report/: report.md, results.json and pictures (PNG and SVG). The run is only read. Of runs of
several seeds (`nhn-pipeline --seeds`) it writes family.md and family.json into their directory.

Flags:
  --model_dir: the run's directory
  --quiet: tell only warnings, errors and the result
  --own_ops: modules to import that register ops of your own, if the network has any
  --debug: show the traceback of an error
"""

from typing import Any

from .. import entry


def main() -> None:
    entry.define_reading()
    entry.guarded(lambda: (__doc__ or "").strip(), report)


def report() -> dict[str, Any]:
    """Writes the report of `--model_dir`."""
    model_dir = entry.run_to_read()
    entry.check_backend()
    from nhn_tf.report import family, write_report  # Keras loads only once the flags are known to be right

    if family.runs_of(model_dir):
        return family.write_family(model_dir)
    return write_report(model_dir)
