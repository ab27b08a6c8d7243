"""What a run was exported to, as `export/export.json` notes it: files, sizes, latencies."""

from __future__ import annotations

from typing import Any, Final

from nhn_tf.report.reading import Run
from nhn_tf.storage import files

SOURCE: Final = "export/export.json"
_FIGURES: Final = ("file", "bytes", "latency_ms", "max_abs_error", "same_top1")


def collect(run: Run) -> dict[str, Any] | None:
    """The exported files; None where nothing was exported.

    `current` says whether they are of the weights that the stage holds now.

    Raises:
      DamagedFileError: the note is not what an export leaves.
    """
    path = run.path / SOURCE
    try:
        value = files.read_json(path)
        stage = run.stages[value["stage"]]
        rows = [{"format": name, **{key: row[key] for key in _FIGURES}} for name, row in value["formats"].items()]
        return {
            "source": SOURCE,
            "stage": stage.name,
            "current": stage.is_done and value["weights"] == stage.done.weights,
            "device": value["written_with"]["device"],
            "files": rows,
        }
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError) as error:
        raise files.DamagedFileError(f"{path} is damaged (no usable {error}). Export the run again.") from None
