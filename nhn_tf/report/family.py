"""What runs of one pipeline with several seeds have found: family.json and family.md beside the runs.

Every figure stands there with its mean, its standard deviation and its values by seed; every comparison with the
differences between runs of one seed and their standard error. Nothing is measured here: all of it is read from the
stages' done.json, as far as they are finished.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nhn_tf.errors import RunError
from nhn_tf.report import markdown
from nhn_tf.report.elements import Bullets, Page, Paragraph, Section, Table
from nhn_tf.runs import RunDirectory, StageRecord
from nhn_tf.settings.stages import CONTROLS, STAGES
from nhn_tf.storage import files
from nhn_tf.values.estimates import Estimate

SCHEMA: Final = 1
_DIRECTORY: Final = "seed_"

Runs = Mapping[int, RunDirectory]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of done.json.

    Attributes:
      title: what it is called in tables.
      stage: the stage's name.
      metric: the figure's name among the stage's metrics.
      error_of: whether it is an accuracy in [0, 1] that is shown as an error in percent.
      percent: whether it is a share in [0, 1] that is shown in percent.
    """

    title: str
    stage: str
    metric: str = "test_error"
    error_of: bool = False
    percent: bool = False

    def read(self, runs: Runs) -> Estimate:
        """The figure of each seed whose run has it."""
        found = {}
        for seed, run in runs.items():
            value = run.stage(self.stage).metrics.get(self.metric)
            if isinstance(value, (int, float)) and math.isfinite(value):
                found[seed] = 100 * (1 - value) if self.error_of else 100 * value if self.percent else float(value)
        return Estimate(found)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A table: figures, and which of them are compared.

    Attributes:
      title: of the table.
      unit: of its figures.
      figures: the rows, by a name of their own.
      pairs: (other, own): the difference other - own. Of errors it is above 0 where `own` is better.
    """

    title: str
    unit: str
    figures: Mapping[str, Figure]
    pairs: tuple[tuple[str, str], ...] = ()


_ERROR: Final = "test error, %"

EVIDENCE: Final = (
    Evidence(
        "Pruning",
        _ERROR,
        {
            "base": Figure("base", "base"),
            "base_longer": Figure("base, trained on for as long as the pruned", "base_longer"),
            "after_pruning": Figure("right after pruning", "prune"),
            "after_random_pruning": Figure(
                "right after random pruning", "random_pruning", "test_accuracy_before", True
            ),
            "pruned": Figure("pruned and trained again", "pruned"),
            "random_pruning": Figure("random kernels pruned and trained again", "random_pruning"),
        },
        (
            ("base_longer", "pruned"),
            ("base", "pruned"),
            ("after_random_pruning", "after_pruning"),
            ("random_pruning", "pruned"),
        ),
    ),
    Evidence(
        "What pruning keeps",
        "% of the kernels kept; e-folds",
        {
            "kept": Figure("kept as at initialisation", "prune", "kept_as_at_initialisation", percent=True),
            "chance": Figure("by chance", "prune", "kept_by_chance", percent=True),
            "e_folds": Figure("e-folds of decay", "prune", "decay_e_folds"),
            "sparsity": Figure("kernels pruned", "prune", "kernel_sparsity", percent=True),
        },
        (("kept", "chance"),),
    ),
    Evidence(
        "Add-ons",
        _ERROR,
        {
            "final": Figure("final", "final"),
            "pruned_longer": Figure("without add-ons, trained as long", "pruned_longer"),
            "random_addons": Figure("random add-ons", "random_addons"),
            "ablated": Figure("add-ons taken out", "final", "test_accuracy_without_addons", True),
            "perturbed": Figure("a gene changed, on average", "perturbed_addons", "perturbed_test_accuracy", True),
            "best_perturbed": Figure(
                "a gene changed, the best", "perturbed_addons", "best_perturbed_test_accuracy", True
            ),
        },
        (
            ("pruned_longer", "final"),
            ("random_addons", "final"),
            ("ablated", "final"),
            ("perturbed", "final"),
            ("best_perturbed", "final"),
        ),
    ),
    Evidence(
        "Perturbation",
        "as named",
        {
            "measured": Figure("genes changed, each alone", "perturbed_addons", "perturbations"),
            "hurts": Figure("of them worse than the final, %", "perturbed_addons", "share_that_hurts", percent=True),
        },
    ),
    Evidence(
        "Architecture search: validation error on shared weights",
        "validation error, %",
        {
            "controller": Figure("the controller's best", "enas", "val_accuracy", True),
            "random": Figure("the best of as many random ones", "enas", "random_search_val_accuracy", True),
        },
        (("random", "controller"),),
    ),
    Evidence(
        "Architecture search: trained fully",
        _ERROR,
        {
            "base": Figure("the controller's best", "base"),
            "random_search": Figure("random search's best", "random_search"),
            "random_architecture": Figure("a random architecture", "random_architecture"),
        },
        (("random_search", "base"), ("random_architecture", "base")),
    ),
    Evidence(
        "Beside other networks",
        _ERROR,
        {
            "final": Figure("final", "final"),
            "small_dense": Figure("dense, of as many parameters", "small_dense"),
            "resnet": Figure("ResNet-20, of as many parameters", "resnet"),
        },
        (("small_dense", "final"), ("resnet", "final")),
    ),
    Evidence(
        "Parts of the base",
        _ERROR,
        {
            "base": Figure("base", "base"),
            "average_pooling": Figure("global average pooling", "average_pooling"),
            "no_smoothing": Figure("kernels not smoothed", "no_smoothing"),
        },
        (("average_pooling", "base"), ("no_smoothing", "base")),
    ),
)
"""Every table of a family, in order."""

_STAGE_FIGURES: Final = ("test_error", "live_params", "live_flops")


def directory_of(path: Path, seed: int) -> Path:
    """Where the run of a seed lies within its family's directory."""
    return path / f"{_DIRECTORY}{seed}"


def runs_of(path: str | os.PathLike[str]) -> dict[int, RunDirectory]:
    """The runs of a family that have begun, by seed; none where `path` is none."""
    found = {}
    for child in sorted(Path(path).expanduser().glob(f"{_DIRECTORY}*")):
        if re.fullmatch(r"\d+", seed := child.name.removeprefix(_DIRECTORY)) and (child / "run.json").exists():
            found[int(seed)] = RunDirectory(child)
    return dict(sorted(found.items()))


def collect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The value of family.json.

    Raises:
      RunError: no run of a family is there.
      files.DamagedFileError: a done.json is damaged.
    """
    runs = runs_of(path)
    if not runs:
        raise RunError(f"{path} holds no runs of several seeds ({_DIRECTORY}0 and so on).")
    return {
        "schema": SCHEMA,
        "seeds": list(runs),
        "devices": sorted({record.done.device for run in runs.values() for record in _finished(run)}),
        "stages": {stage.name: figures for stage in (*STAGES, *CONTROLS) if (figures := _stage(stage.name, runs))},
        "tables": [table for evidence in EVIDENCE if (table := _table(evidence, runs))],
    }


def _finished(run: RunDirectory) -> list[StageRecord]:
    records = [run.stage(stage.name) for stage in (*STAGES, *CONTROLS)]
    return [record for record in records if record.is_done]


def _stage(name: str, runs: Runs) -> dict[str, Any]:
    """The figures of a stage or control over the seeds; {} where no run has finished it with such figures."""
    found = {metric: Figure(name, name, metric).read(runs) for metric in _STAGE_FIGURES}
    return {metric: estimate.to_json() for metric, estimate in found.items() if estimate.n}


def _table(evidence: Evidence, runs: Runs) -> dict[str, Any]:
    """A table's rows and differences; {} where none of them was measured."""
    found = {name: figure.read(runs) for name, figure in evidence.figures.items()}
    rows = [
        {"row": name, "title": evidence.figures[name].title, **estimate.to_json()}
        for name, estimate in found.items()
        if estimate.n
    ]
    differences = [
        {"of": other, "minus": own, **difference.to_json()}
        for other, own in evidence.pairs
        if (difference := found[other].minus(found[own])).n
    ]
    return {"title": evidence.title, "unit": evidence.unit, "rows": rows, "differences": differences} if rows else {}


def render(value: Mapping[str, Any]) -> str:
    """family.md of the value of family.json."""
    seeds = ", ".join(map(str, value["seeds"]))
    told = f"Seeds {seeds}; computed on {', '.join(value['devices']) or 'nothing yet'}."
    how = (
        "Mean ± standard deviation over the seeds; of differences, taken seed by seed, mean ± standard error, and "
        "how many standard errors the mean is from 0."
    )
    sections = [Section("The runs", [Bullets([told, how])]), Section("Stages and controls", [_stages_table(value)])]
    for table in value["tables"]:
        rows = [[row["title"], *_spread(row, "std"), _by_seed(row)] for row in table["rows"]]
        blocks: list[Any] = [Table(["", table["unit"], "n", "by seed"], rows)]
        titles = {row["row"]: row["title"] for row in table["rows"]}
        if table["differences"]:
            rows = [
                [f"{titles[d['of']]} − {titles[d['minus']]}", *_spread(d, "standard_error"), _number(d["errors"])]
                for d in table["differences"]
            ]
            blocks.append(Table(["difference", table["unit"], "n", "standard errors"], rows))
        sections.append(Section(table["title"], blocks))
    return markdown.render(Page("Report of several seeds", sections))


def _stages_table(value: Mapping[str, Any]) -> Table | Paragraph:
    rows = []
    for name, figures in value["stages"].items():
        cells = [_spread(figures[metric], "std")[0] if metric in figures else "" for metric in _STAGE_FIGURES]
        rows.append([name, *cells, str(max(figure["n"] for figure in figures.values()))])
    return Table(["stage", "test error, %", "live parameters", "live multiply-adds", "n"], rows)


def _spread(figure: Mapping[str, Any], of: str) -> list[str]:
    spread = "" if figure[of] is None else f" ± {_number(figure[of])}"
    return [f"{_number(figure['mean'])}{spread}", str(figure["n"])]


def _by_seed(figure: Mapping[str, Any]) -> str:
    return ", ".join(_number(value) for value in figure["values"].values())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def write_family(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes family.json and family.md into a family's directory.

    Returns:
      Their paths, under "family" and "report".

    Raises:
      UserError: as `collect`, or they cannot be written.
    """
    directory = Path(path).expanduser()
    value = collect(directory)
    with files.writing(directory):
        files.write_json(directory / "family.json", value)
        with files.atomic_write(directory / "family.md", "w") as file:
            file.write(render(value))
    return {"family": str(directory / "family.json"), "report": str(directory / "family.md")}
