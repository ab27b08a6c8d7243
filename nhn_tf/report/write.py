"""Writes a run's report: report/report.html, report.md, results.json and the pictures, each file whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from nhn_tf.report import (
    best_locations,
    class_pictures,
    classes,
    curves,
    drawing,
    figures,
    html,
    markdown,
    page,
    pareto,
    placement,
    plots,
    results,
)
from nhn_tf.report.reading import Run, read
from nhn_tf.storage import files
from nhn_tf.values.genotype import Genotype

PICTURES: Final = (
    "network", "locations", "enas", "pareto", "training", "lds", "confusion", "confusions", "mistakes", "histograms",
    "timeline", "score_plane",
)  # fmt: skip
"""Every picture that a report may have."""

_PHOTOS: Final = ("confusions", "mistakes")


def write_report(model_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Reports on a finished or unfinished run, in its directory `report/`.

    The run is only read, so that it may be going on meanwhile.

    Args:
      model_dir: the run's directory.

    Returns:
      Paths of what was written under "report", "html", "results" and "pictures", the main measured row of Table 1
      under "main_row", None when no network has been trained yet, and the sentences of the verdict under "verdict".

    Raises:
      UserError: there is no run, it holds nothing to report, a file of it is damaged, or the report cannot be written.
    """
    run = read(model_dir)
    value = results.collect(run)
    drawn = _networks(run) | _figures(run, value)
    content = page.page(value, list(drawn))
    directory = run.path / "report"
    pictures = {name: (figures.png(figure), figures.svg(figure)) for name, figure in drawn.items()}
    web = html.render(content, _shown(run, value, {name: svg for name, (_, svg) in pictures.items()}))
    with files.writing(directory):
        files.remove_leftovers(directory, older_than_s=3600)
        written = [path for name, both in pictures.items() for path in _write_picture(directory, name, *both)]
        files.write_json(directory / "results.json", value)
        for name, text in (("report.md", markdown.render(content)), ("report.html", web)):
            with files.atomic_write(directory / name, "w") as file:
                file.write(text)
        _remove_others(directory, written)
    return {
        "report": str(directory / "report.md"),
        "html": str(directory / "report.html"),
        "results": str(directory / "results.json"),
        "pictures": [str(path) for path in written],
        "main_row": value["main_row"],
        "verdict": [sentence["text"] for sentence in value["verdict"]],
    }


def _networks(run: Run) -> dict[str, Figure]:
    """The drawings of the network and of the best sets of add-on locations."""
    if run.genotype is None:
        return {}
    base = run.stages["base"]
    as_dense = bool(base.has_begun and base.config["config"].get("separable_as_dense"))
    drawn = {"network": drawing.draw(run.genotype, title=_title(run.genotype), separable_as_dense=as_dense)}
    if sets := best_locations.best(run):
        without = run.genotype.without_addons()
        title = f"The best {len(sets)} sets of add-on locations" if len(sets) > 1 else "The best add-on locations"
        drawn["locations"] = drawing.draw(without, sets=sets, title=title, separable_as_dense=as_dense)
    return drawn


def _figures(run: Run, value: results.Json, *, narrow: bool = False) -> dict[str, Figure]:
    """The other pictures, as far as there is something to show."""
    drawn: dict[str, Figure | None] = {**curves.draw(run, narrow=narrow)}
    drawn["pareto"] = pareto.draw(run.stages["enas"], narrow=narrow)
    if answered := classes.last(run):
        _, answers = answered
        drawn["confusion"] = class_pictures.confusion(answers, narrow=narrow)
        drawn["confusions"] = class_pictures.confusions(answers, narrow=narrow)
        drawn["mistakes"] = class_pictures.mistakes(answers, narrow=narrow)
    drawn["histograms"] = plots.histograms(run, narrow=narrow)
    drawn["timeline"] = plots.timeline(value["stages"], narrow=narrow)
    if value["comparable"]:
        drawn["score_plane"] = plots.score_plane(value["table"], narrow=narrow)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _shown(run: Run, value: results.Json, wide: dict[str, bytes]) -> dict[str, html.Shown | placement.Layout]:
    """The pictures as the HTML page has them; `wide` are the SVG files."""
    narrow = {name: figures.svg(figure) for name, figure in _figures(run, value, narrow=True).items()}
    shown: dict[str, html.Shown | placement.Layout] = {
        name: html.Shown(html.SVG, wide[name], narrow[name], photo=name in _PHOTOS) for name in narrow
    }
    if run.genotype is not None:
        shown["network"] = placement.lay_out(run.genotype)
        if sets := best_locations.best(run):
            shown["locations"] = placement.lay_out(run.genotype.without_addons(), sets)
    if path := value["sensitivities"]:
        content = files.read_bytes(os.path.normpath(run.path / "report" / path), limit=2**24)
        shown[path.removesuffix(".png")] = html.Shown(html.PNG, content)
    return shown


def _title(genotype: Genotype) -> str:
    counts = {
        "layer": genotype.space.num_layers,
        "skip": sum(map(len, genotype.skips)),
        "add-on location": len(genotype.addons),
    }
    return ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count)


def _write_picture(directory: Path, name: str, png: bytes, svg: bytes) -> list[Path]:
    paths = []
    for ending, content in (("png", png), ("svg", svg)):
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
