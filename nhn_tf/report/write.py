"""Writes a run's report: report/report.md, report/results.json and the pictures, each file whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from nhn_tf.report import class_pictures, classes, curves, drawing, figures, markdown, page, results
from nhn_tf.report.reading import Run, read
from nhn_tf.storage import files
from nhn_tf.values.genotype import Genotype

PICTURES: Final = ("network", "enas", "training", "lds", "confusion", "confusions", "mistakes")
"""Every picture that a report may have."""


def write_report(model_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reports on a finished or unfinished run, in its directory `report/`.

    The run is only read, so that it may be going on meanwhile.

    Args:
      model_dir: the run's directory.

    Returns:
      Paths of what was written under "report", "results" and "pictures", and the main measured row of Table 1 under
      "main_row", None when no network has been trained yet.

    Raises:
      UserError: there is no run, it holds nothing to report, a file of it is damaged, or the report cannot be written.
    """
    run = read(model_dir)
    value = results.collect(run)
    figures = _figures(run)
    directory = run.path / "report"
    with files.writing(directory):
        files.remove_leftovers(directory, older_than_s=3600)
        written = [path for name, figure in figures.items() for path in _write_picture(directory, name, figure)]
        files.write_json(directory / "results.json", value)
        with files.atomic_write(directory / "report.md", "w") as file:
            file.write(markdown.render(page.page(value, list(figures))))
        _remove_others(directory, written)
    return {
        "report": str(directory / "report.md"),
        "results": str(directory / "results.json"),
        "pictures": [str(path) for path in written],
        "main_row": value["main_row"],
    }


def _figures(run: Run) -> dict[str, Figure]:
    figures = {}
    if run.genotype is not None:
        base = run.stages["base"]
        as_dense = bool(base.has_begun and base.config["config"].get("separable_as_dense"))
        figures["network"] = drawing.draw(run.genotype, title=_title(run.genotype), separable_as_dense=as_dense)
    figures |= curves.draw(run)
    if answered := classes.last(run):
        _, answers = answered
        figures["confusion"] = class_pictures.confusion(answers)
        for name, sheet in (("confusions", class_pictures.confusions), ("mistakes", class_pictures.mistakes)):
            if drawn := sheet(answers):
                figures[name] = drawn
    return figures


def _title(genotype: Genotype) -> str:
    counts = {
        "layer": genotype.space.num_layers,
        "skip": sum(map(len, genotype.skips)),
        "add-on location": len(genotype.addons),
    }
    return ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count)


def _write_picture(directory: Path, name: str, figure: Figure) -> list[Path]:
    paths = []
    for ending, content in (("png", figures.png(figure)), ("svg", figures.svg(figure))):
        path = directory / f"{name}.{ending}"
        with files.atomic_write(path) as file:
            file.write(content)
        paths.append(path)
    return paths


def _remove_others(directory: Path, written: list[Path]) -> None:
    """Removes pictures of an earlier report that this one does not have."""
    for name in PICTURES:
        for path in (directory / f"{name}.png", directory / f"{name}.svg"):
            if path not in written:
                path.unlink(missing_ok=True)
