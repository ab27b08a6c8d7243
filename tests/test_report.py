"""The report: the paper's table as it stands, measured figures that trace back to a done.json, pictures that fit."""

import csv
import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nhn_tf.errors import UserError
from nhn_tf.models import complexity
from nhn_tf.report import (
    cells,
    curves,
    drawing,
    markdown,
    page,
    published,
    reading,
    results,
    write,
    write_report,
)
from nhn_tf.report.placement import LAYER, lay_out
from nhn_tf.runs import NAMES, RunDirectory, RunError, Settings
from nhn_tf.settings import PRESETS
from nhn_tf.storage import files
from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.intervals import wilson
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import OP_NAMES, Space, op_named
from tests import commands

pytestmark = pytest.mark.jax_slow

ROOT = Path(__file__).resolve().parent.parent
SPACE = Space(6, 3)
SEARCHED = Genotype(
    SPACE,
    ("conv3x3", "conv5x5", "sep_conv3x3", "max_pool3x3", "conv3x3", "avg_pool3x3"),
    ((), (0,), (), (0, 2), (1,), (0, 4)),
)
PRUNED = dataclasses.replace(SEARCHED, masks=Masks({"layer0_op": np.eye(4, dtype=bool)}))
GROWN = dataclasses.replace(PRUNED, addons=(Addon(0, 3, 0), Addon(1, 5, 1), Addon(5, 3, 1), Addon(5, 5, 0)))
GENOTYPES = {
    "enas": SEARCHED, "base": SEARCHED, "prune": PRUNED, "pruned": PRUNED,
    "lds_location": GROWN, "lds_direction": GROWN, "final": GROWN,
}  # fmt: skip

TRAINED = {"test_accuracy": 0.9876, "test_error": 1.2345, "val_accuracy": 0.9765, "params": 123_457, "score": 0.617}
METRICS = {
    "enas": {
        "val_accuracy": 0.7123, "random_search_val_accuracy": 0.7234, "mean_val_accuracy": 0.5432,
        "random_search_mean_val_accuracy": 0.4321, "architectures_evaluated": 41, "random_architectures_evaluated": 42,
    },
    "base": {**TRAINED, "live_params": 123_457},
    "prune": {
        "test_accuracy_before": 0.9811, "test_accuracy": 0.1517, "random_test_accuracy": 0.1212,
        "kernel_sparsity": 0.8511, "live_params": 34_561,
    },
    "pruned": {**TRAINED, "test_accuracy": 0.9782, "test_error": 2.1817, "live_params": 34_567},
    "lds_location": {"val_accuracy": 0.9123, "random_search_val_accuracy": 0.9034, "no_addons_val_accuracy": 0.89},
    "lds_direction": {
        "val_accuracy": 0.9234, "no_addons_val_accuracy": 0.891, "note": "text", "nothing": None, "diverged": math.nan,
    },
    "final": {**TRAINED, "test_error": 1.1111, "live_params": 45_678, "test_accuracy_without_addons": 0.9555},
}  # fmt: skip
LAYERS = [
    {"layer": "layer0_op", "kernels": 16, "kernels_kept": 4, "params": 144, "live_params": 36},
    {"layer": "layer1_op", "kernels": 20, "kernels_kept": 3, "params": 400, "live_params": 75},
]
LAYERS_CSV = """layer,prunable,kernels,kernels_kept,params,live_params
stem_conv,0,12,11,108,99
layer0_op,1,16,4,144,36
layer1_op,1,20,3,400,75
layer1_mix_conv,0,32,30,32,30
"""


def history(stage):
    if stage == "enas":
        return "epoch,reward,baseline,train_loss\n1,0.1,0.12,2.3\n2,0.2,,nan\n3,0.4,0.2,1.5\n"
    if stage.startswith("lds"):
        return "cycle,best_fitness,mean_fitness,train_loss\n1,0.81,0.7,2\n2,0.9,0.8,1\n"
    if stage == "prune":
        return None
    return "epoch,accuracy,loss,val_accuracy\n1,0.5,2.0,0.4\n2,0.9,1.0,0.8\n"


def make_run(path, stages=NAMES, *, unfinished=(), preset="demo", **data):
    """A run directory as the stages write it, with figures that are all different."""
    chosen = PRESETS[preset]
    run = RunDirectory(path)
    with run.hold(preset=preset, seed=5):
        before = None
        for name in (*stages, *unfinished):
            config = chosen.stage(name)
            replaced = dataclasses.replace(chosen.data, **data)
            asked = Settings(config=config, data=replaced, compute=chosen.compute, seed=5, preset=preset)
            ready = run.ready(name, asked, input_genotype=before)
            stage = ready.begin("digest of the images", {"train": 500, "val": 96, "test": 97, "classes": 10})
            if history(name):
                (stage / "metrics.csv").write_text(history(name))
            if name in stages:
                if name == "prune":
                    (stage / "layers.csv").write_text(LAYERS_CSV)
                stage.finish(METRICS[name], genotype=GENOTYPES[name], weights={})
                before = GENOTYPES[name]
    return Path(path)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A finished run and what `write_report` returned for it."""
    path = make_run(tmp_path_factory.mktemp("runs") / "whole")
    return path, write_report(path)


def value_of(path):
    return results.collect(reading.read(path))


def page_of(path, pictures=()):
    return markdown.render(page.page(value_of(path), pictures))


# What the paper states.


def test_table_1_has_every_row_in_three_blocks():
    blocks = [row.block for row in published.TABLE_1]
    assert [(block, len(list(rows))) for block, rows in itertools.groupby(blocks)] == [
        (published.HANDCRAFTED, 7),
        (published.RANDOM_SEARCH, 13),
        (published.EVOLUTIONARY, 7),
    ]


@pytest.mark.parametrize("row", published.TABLE_1, ids=lambda row: row.method)
def test_the_printed_score_is_that_of_the_printed_figures(row):
    if row.params_m is None:
        assert row.score is None
    else:
        assert complexity.score(row.error, row.params_m) == pytest.approx(row.score, abs=0.0051)


def test_every_stage_has_the_papers_time():
    assert list(published.HOURS) == list(NAMES)


# Figures.


def numbers(value, *, skip=("paper", "computed", "run", "settings", "addons", "schema")):
    """Every number of a JSON value outside what is not measured."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in skip:
                yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def done_files(path):
    return {str(file.relative_to(path)): files.read_json(file) for file in sorted(path.glob("*/done.json"))}


def test_every_measured_figure_is_found_in_a_file_of_the_run(complete):
    path, _ = complete
    found = list(numbers(files.read_json(path / "report" / "results.json")))
    known = {number for done in done_files(path).values() for number in numbers(done)} | set(numbers(LAYERS))
    assert len(set(found)) > 30
    assert set(found) <= known


def test_a_row_is_traced_to_the_very_file_it_names(complete):
    path, _ = complete
    value = files.read_json(path / "report" / "results.json")
    for row in value["table"]["measured"]:
        metrics = done_files(path)[row["source"]]["metrics"]
        assert (row["live_params"], row["test_error"]) == (metrics["live_params"], metrics["test_error"])
        expected = complexity.score(row["test_error"], row["live_params"] / 1e6)
        assert row["computed"]["score"] == pytest.approx(expected)
    for stage in value["stages"]:
        assert stage["wall_s"] == done_files(path)[stage["source"]]["wall_s"]
    for row in value["ablations"]:
        assert row["value"] == METRICS[row["stage"]][row["figure"]] == metrics_of(path, row)[row["figure"]]
    for row in value["controls"]:
        pair = metrics_of(path, row)[row["figure"]], metrics_of(path, row)[row["control_figure"]]
        assert (row["found"], row["control_value"]) == pair


def metrics_of(path, row):
    return done_files(path)[row["source"]]["metrics"]


def test_every_table_and_picture_of_the_page_names_its_files(complete):
    path, _ = complete
    text = (path / "report" / "report.md").read_text()
    for heading in (
        "Accuracy and size",
        "Stages",
        "Ablations",
        "The searches beside",
        "Convergence",
        "Pruning by",
        "All figures",
    ):
        section = text.split(f"## {heading}")[1].split("\n## ")[0]
        sources = re.findall(r"`(\d-\w+/\w+\.(?:json|csv))`", section)
        assert sources, heading
        assert all((path / source).is_file() for source in sources)
    for figure in re.findall(r"!\[.*\]\((?:enas|training|lds)\.png\)\n\n(.*)", text):
        assert re.search(r"Curves: `\d-\w+/metrics\.csv`.*Level lines: `\d-\w+/done\.json`", figure)


def test_every_measured_number_on_the_page_is_one_of_results_json(complete):
    """Accuracies, errors, counts and scores in the page's measured cells, as a reader sees them."""
    path, _ = complete
    text = (path / "report" / "report.md").read_text()
    value = files.read_json(path / "report" / "results.json")
    shown = set()
    for done in done_files(path).values():
        for name, number in results.finite(done["metrics"]).items():
            shown |= {cells.figure(name, number), repr(number)}
            if "test_accuracy" in name:
                shown.add(f"{100 * wilson(round(number * 97), 97)[1]:.2f}%")
        error = done["metrics"].get("test_error")
        if error is not None:  # of rows that name an error: the accuracy that goes with it
            upper = wilson(round((1 - error / 100) * 97), 97)[1]
            shown |= {f"{100 - error:.2f}%", f"{100 * upper:.2f}%"}
        shown |= {f"{done['metrics'].get('test_error', 0):.2f}%"}
        shown |= {f"{cell:,}" for row in LAYERS for cell in row.values() if isinstance(cell, int)}
    told = {row["paper"]["value"] for row in value["ablations"]}
    told |= {"95%"}  # what an interval is of
    told |= {"90.00%"}  # the accuracy of the last epoch in metrics.csv
    percentages = set(re.findall(r"(?<![\d.+-])\d+(?:\.\d+)?%", text))
    assert percentages
    assert percentages <= shown | told
    assert set(re.findall(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?![\w.])", text)) <= shown


def test_the_main_row_is_the_last_network_trained(complete, tmp_path):
    _, told = complete
    assert told["main_row"]["stage"] == "final"
    assert told["main_row"]["live_params"] == 45_678
    assert value_of(make_run(tmp_path / "a", ("enas", "base")))["main_row"]["method"] == "ENAS base network"
    assert value_of(make_run(tmp_path / "b", ("enas",)))["main_row"] is None


def test_a_row_says_whether_cutout_was_on(tmp_path):
    demo = value_of(make_run(tmp_path / "demo", ("enas", "base")))  # cutout 0
    smoke = value_of(make_run(tmp_path / "smoke", ("enas", "base"), preset="smoke"))  # cutout 2
    assert demo["main_row"]["method"] == "ENAS base network"
    assert smoke["main_row"]["method"] == "ENAS base network + c/o"


def test_searches_stand_beside_their_controls(complete):
    value = value_of(complete[0])
    rows = [(row["stage"], row["figure"], row["control_figure"], row["control"]) for row in value["controls"]]
    assert rows == [
        ("enas", "mean_val_accuracy", "random_search_mean_val_accuracy", "random search"),
        ("enas", "val_accuracy", "random_search_val_accuracy", "random search"),
        ("lds_location", "val_accuracy", "no_addons_val_accuracy", "no add-ons"),
        ("lds_location", "val_accuracy", "random_search_val_accuracy", "random search"),
        ("lds_direction", "val_accuracy", "no_addons_val_accuracy", "no add-ons"),
    ]
    assert value["controls"][1]["computed"]["gain"] == pytest.approx(0.7123 - 0.7234)


def test_settings_that_differ_from_the_paper_are_listed_and_no_others(tmp_path):
    paper = value_of(make_run(tmp_path / "paper", ("enas", "base"), preset="paper"))
    assert paper["settings"] == []
    demo = value_of(make_run(tmp_path / "demo", ("enas", "base")))
    rows = {(row["section"], row["setting"]): (row["here"], row["paper"]["value"]) for row in demo["settings"]}
    assert rows["data", "dataset"] == ("digits", "cifar10")
    assert rows["base", "filters"] == (16, 96)
    assert ("base", "momentum") not in rows
    assert len(rows) == len(demo["settings"])


@pytest.mark.parametrize(
    ("preset", "data"),
    [("demo", {}), ("paper", {"dataset": "folder", "data_dir": "/data"}), ("paper", {"dataset": "cifar100"})],
)
def test_nothing_that_was_published_stands_in_a_report_on_other_data(tmp_path, preset, data):
    path = make_run(tmp_path / "run", preset=preset, **data)
    value, text = value_of(path), page_of(path)
    assert not value["comparable"]
    assert value["table"]["paper"] == []
    assert "Table 1" not in text and "CIFAR-10" not in text
    told = [published.DEVICE, *published.HOURS.values(), *published.ACCURACY.values()]
    assert not [words for words in told if words != "—" and words in text]


def test_a_report_on_cifar10_ends_with_the_published_rows(tmp_path):
    path = make_run(tmp_path / "run", preset="paper")
    value, text = value_of(path), page_of(path)
    assert value["comparable"]
    assert re.findall(r"^## (.*)", text, re.MULTILINE)[-1] == "Table 1"
    table = text.split("## Table 1")[1]
    for row in published.TABLE_1:
        assert f"| {row.method}" in table
    # 1.2345% of 97 test images are 1: 95.77 of 97 are right, 96 in whole images, with an interval of 94.39 to 99.82%.
    assert "| **ENAS base network + c/o** | 0.123M | 1.23% (0.18–5.61%) |" in table
    assert "| 96.55% |" in text.split("## Ablations")[1]
    assert value["caveats"] == [
        "500 training, 96 validation and 97 test images of 10 classes.",
        "Every measured figure is of a single run with a single seed.",
    ]


def test_fewer_images_selection_on_test_and_missing_stages_are_told(tmp_path):
    path = make_run(tmp_path / "run", ("enas",), unfinished=("lds_location",), train_limit=500, eval_limit=96)
    config = files.read_sealed(path / "5-lds_location" / "config.json")
    config["config"]["eval_split"] = "test"
    files.write_sealed(path / "5-lds_location" / "config.json", config)
    told = " ".join(value_of(path)["caveats"])
    for words in (
        "500 training, 96 validation and 97 test images of 10 classes (at most",
        "lds_location selected on test",
        "Without a result: base",
    ):
        assert words in told


def test_captions_name_the_networks_that_were_trained(complete, tmp_path):
    named = "Training of the base network, the pruned network, the final network."
    assert named in page_of(complete[0], ["training"])
    path = make_run(tmp_path / "run", ("enas", "base"))
    assert "\n\nTraining of the base network. Curves: `2-base/metrics.csv`." in page_of(path, ["training"])


def test_a_stage_whose_predecessor_was_run_again_is_told(tmp_path):
    path = make_run(tmp_path / "run", ("enas", "base"))
    done = files.read_sealed(path / "1-enas" / "done.json")
    files.write_sealed(path / "1-enas" / "done.json", {**done, "genotype": "another"})
    assert "Stage base began from another network than stage enas now holds." in value_of(path)["caveats"]


def test_a_stage_whose_weights_are_gone_is_told(tmp_path):
    path = make_run(tmp_path / "run", ("enas", "base"))
    assert not any("weights" in caveat for caveat in value_of(path)["caveats"])
    config = files.read_sealed(path / "2-base" / "config.json")
    files.write_sealed(path / "2-base" / "config.json", {**config, "input_weights": "gone"})
    assert "Stage base began from weights that no stage holds any more." in value_of(path)["caveats"]


def test_the_histogram_of_pruning_is_shown_where_it_was_drawn(tmp_path):
    path = make_run(tmp_path / "run", ("prune",))
    assert "sensitivities.png" not in page_of(path)
    (path / "3-prune" / "sensitivities.png").write_bytes(b"")
    assert "](../3-prune/sensitivities.png)" in page_of(path)


def test_addons_are_named_by_what_they_join(complete):
    rows = [(row["source"], row["target"], row["kernel_size"]) for row in value_of(complete[0])["genotype"]["addons"]]
    # Two layers a segment: the input of layers 0, 1 is the stem, that of layers 4, 5 the second pooling.
    assert rows == [("stem", "layer 0", 3), ("layer 0", "layer 1", 5), ("layer 4", "layer 5", 3),
                    ("pool 2", "layer 5", 5)]  # fmt: skip


def test_the_genotype_on_the_page_can_be_read_back(complete):
    text = (complete[0] / "report" / "report.md").read_text()
    assert Genotype.from_enas_text(text.split("```")[1], SPACE) == SEARCHED


def test_pruning_by_layer_is_of_the_layers_with_masks_and_their_sums(complete, tmp_path):
    found = value_of(complete[0])["pruning"]
    assert found["source"] == "3-prune/layers.csv"
    assert found["layers"] == LAYERS
    sums = {"kernels": 36, "kernels_kept": 7, "params": 544, "live_params": 111}
    assert found["computed"]["sums"] == sums
    text = (complete[0] / "report" / "report.md").read_text()
    assert "| **all of them** | 36 | 7 | 544 | 111 |" in text
    assert "stem_conv" not in text
    path = make_run(tmp_path / "run", ("prune",))
    (path / "3-prune" / "layers.csv").write_text("layer,kernels,threshold\nlayer0_op,16,0.02\n")
    found = value_of(path)["pruning"]
    assert found["layers"] == [{"layer": "layer0_op", "kernels": 16, "threshold": 0.02}]
    assert found["computed"]["sums"] == {"kernels": 16}
    (path / "3-prune" / "layers.csv").unlink()
    assert value_of(path)["pruning"] is None


# A run that the stages made.


def test_a_real_run_is_reported_with_every_figure_that_its_stages_wrote(reported_run):
    path = reported_run.path
    value = files.read_json(path / "report" / "results.json")
    assert [row["stage"] for row in value["table"]["measured"]] == ["base", "pruned", "final"]
    assert [(row["stage"], row["figure"]) for row in value["ablations"]] == [
        ("base", "test_accuracy"),
        ("prune", "test_accuracy_before"),
        ("prune", "test_accuracy"),
        ("pruned", "test_accuracy"),
        ("final", "test_accuracy"),
        ("final", "test_accuracy_without_addons"),
    ]
    controls = {(row["stage"], row["figure"], row["control"]) for row in value["controls"]}
    assert controls == {
        ("enas", "val_accuracy", "random search"),
        ("enas", "mean_val_accuracy", "random search"),
        ("lds_location", "val_accuracy", "random search"),
        ("lds_location", "mean_val_accuracy", "random search"),
        ("lds_location", "val_accuracy", "no add-ons"),
        ("lds_direction", "val_accuracy", "no add-ons"),
    }
    known = {number for done in done_files(path).values() for number in numbers(done)}
    with open(path / "3-prune" / "layers.csv", newline="") as file:
        cells = [cell for row in csv.DictReader(file) for name, cell in row.items() if name != "layer" and cell]
    known |= {float(cell) if "." in cell else int(cell) for cell in cells}
    assert set(numbers(value)) <= known
    sums, metrics = value["pruning"]["computed"]["sums"], done_files(path)["3-prune/done.json"]["metrics"]
    assert sums["kernels"] > sums["kernels_kept"]
    assert metrics["kxk_params_removed"] == pytest.approx(1 - sums["live_params"] / sums["params"])
    # A mask keeps what leads to a dead neuron, too.
    assert 1 - sums["kernels_kept"] / sums["kernels"] >= metrics["kernel_sparsity"] - 1e-9
    assert {picture.stem for picture in path.glob("report/*.png")} == set(write.PICTURES) - {"score_plane"}
    assert (path / "report" / "../3-prune/sensitivities.png").is_file()
    panels = curves.draw(reading.read(path))["lds"].axes
    for panel in panels:
        labels = {line.get_label() for line in panel.lines}
        assert {"best fitness", "mean fitness"} <= labels
        assert "nan fitness" not in labels
        told = {part.strip() for label in labels for part in label.split("=")}
        assert {"found", "no add-ons"} <= told
        assert all(legend.get_text() in labels for legend in panel.get_legend().get_texts())


# Files.


def test_a_complete_run_has_a_page_figures_and_pictures(complete):
    path, told = complete
    names = {file.name for file in (path / "report").iterdir()}
    drawn = ("network", "enas", "training", "lds", "timeline")  # no answers, no trials, no weights
    pictures = {f"{name}.{ending}" for name in drawn for ending in ("png", "svg")}
    assert names == {"report.md", "report.html", "results.json"} | pictures
    assert {Path(picture).name for picture in told["pictures"]} == pictures
    text = (path / "report" / "report.md").read_text()
    linked = re.findall(r"\]\((\S+\.png)\)", text)
    assert sorted(linked) == sorted(f"{name}.png" for name in drawn)
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables(text))


def tables(page):
    """The lines of each table, escaped bars left out of the count."""
    lines = [line.replace("\\|", "") for line in page.splitlines()]
    for is_table, rows in itertools.groupby(lines, key=lambda line: line.startswith("|")):
        if is_table:
            yield list(rows)


def test_results_json_is_json_for_every_reader(complete):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (complete[0] / "report" / "results.json").read_text()
    assert json.loads(text, parse_constant=refuse)["schema"] == 1


def test_reporting_again_writes_the_same_bytes(complete):
    directory = complete[0] / "report"
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    write_report(complete[0])
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


@pytest.mark.parametrize("count", range(1, len(NAMES)))
def test_a_run_that_stopped_anywhere_is_reported(tmp_path, count):
    names = NAMES
    path = make_run(tmp_path / "run", names[: count - 1], unfinished=names[count - 1 : count])
    value = value_of(path)
    states = [stage["state"] for stage in value["stages"]]
    assert states == ["finished"] * (count - 1) + ["unfinished"] + ["not begun"] * (len(names) - count)
    figures = curves.draw(reading.read(path))
    assert "enas" in figures  # the epochs of an unfinished search are drawn too
    assert page_of(path, figures).startswith("# Report of the run run\n\n## Verdict\n")


def test_reporting_changes_nothing_of_the_run_and_no_picture_of_an_earlier_report_stays(tmp_path):
    path = make_run(tmp_path / "run", ("enas",))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    write_report(path)
    assert {file: file.read_bytes() for file in before} == before
    assert not (path / "lock").exists()
    (path / "1-enas" / "metrics.csv").unlink()
    write_report(path)
    names = {file.name for file in (path / "report").iterdir()}
    drawn = {f"{name}.{ending}" for name in ("network", "timeline") for ending in ("png", "svg")}
    assert names == {"report.md", "report.html", "results.json"} | drawn


def test_accuracies_along_the_way_stand_beside_the_papers(complete):
    rows = [(row["what"], row["value"], row["paper"]["value"]) for row in value_of(complete[0])["ablations"]]
    assert rows == [
        ("base network", 0.9876, "96.55%"),
        ("base network, measured again before pruning", 0.9811, "—"),
        ("right after pruning, before retraining", 0.1517, "15.7%"),
        ("random pruning at the same sparsity, before retraining", 0.1212, "—"),
        ("pruned and retrained, no add-ons", 0.9782, "96.20%"),
        ("final network", 0.9876, "96.52%"),
        ("final network with its add-ons removed", 0.9555, "1.08 points less"),
    ]


def test_a_base_network_given_by_file_needs_no_search(tmp_path):
    path = make_run(tmp_path / "run", ("base",))
    assert value_of(path)["main_row"]["stage"] == "base"


# What is broken.


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no run"):
        write_report(tmp_path / "empty")
    with RunDirectory(tmp_path / "begun").hold():
        pass
    with pytest.raises(RunError, match=r"no stage.*has begun. Run: python search.py"):
        write_report(tmp_path / "begun")


def sealed(value):
    return json.dumps(files.seal(value))


def done_json(**changes):
    done = {
        "stage": "base",
        "metrics": {},
        "genotype": "",
        "weights": "",
        "wall_s": 1,
        "config_digest": "",
        "device": "",
    }
    return sealed(done | changes)


DAMAGE = {
    "half a done.json": ("2-base/done.json", '{"metrics": {', "done.json is not valid JSON"),
    "a list as done.json": ("2-base/done.json", "[]", "no JSON object"),
    "no metrics": ("2-base/done.json", sealed({"stage": "base", "wall_s": 1}), "must hold stage, metrics"),
    "metrics as text": ("2-base/done.json", done_json(metrics="0.9"), "no usable entry 'metrics'"),
    "wall time as text": ("2-base/done.json", done_json(wall_s="1"), "no usable entry 'wall_s'"),
    "another stage's": ("2-base/done.json", done_json(stage="enas"), "is that of stage 'enas'"),
    "no settings": ("2-base/config.json", sealed({}), "must hold stage, seed, data, compute, config"),
    "settings as text": (
        "2-base/config.json",
        sealed({"stage": "base", "seed": 0, "data": "digits", "compute": {}, "config": {}}),
        "sections config, data, compute",
    ),
    "a word in metrics.csv": ("2-base/metrics.csv", "epoch,loss\n1,good\n", "line 2: not a number"),
    "a short line": ("2-base/metrics.csv", "epoch,loss\n1\n", "line 2: not as many cells"),
    "binary metrics.csv": ("2-base/metrics.csv", b"\xff\xfe\x00", "not a readable CSV"),
    "half a genotype": ("2-base/genotype.json", '{"schema": 1}', "genotype.json is damaged"),
    "calls missing": ("run.json", sealed({}), "must hold calls"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_in_a_sentence(tmp_path, name):
    file, content, message = DAMAGE[name]
    path = make_run(tmp_path / "run", ("enas", "base"))
    (path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DamagedFileError, match=message) as error:
        write_report(path)
    assert Path(file).name in str(error.value)
    assert str(error.value).count("\n") < 3
    assert not (path / "report").exists()


@pytest.mark.parametrize(("file", "message"), [("genotype.json", "is missing"), ("config.json", "no config.json")])
def test_a_missing_file_is_named_too(tmp_path, file, message):
    path = make_run(tmp_path / "run", ("enas", "base"))
    (path / "2-base" / file).unlink()
    with pytest.raises(DamagedFileError, match=message):
        write_report(path)


def test_a_report_that_cannot_be_written_is_told(tmp_path):
    path = make_run(tmp_path / "run", ("enas", "base"))
    (path / "report").write_text("in the way")
    with pytest.raises(UserError, match=r"report\S* cannot be written: (File exists|Not a directory)"):
        write_report(path)


# The drawing.


@st.composite
def genotypes(draw):
    """Networks of up to 24 layers with anything between no and all skips and add-ons."""
    segments = draw(st.integers(1, 3))
    space = Space(segments * draw(st.integers(1, 8)), segments)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    genes = space.sample(rng, 1, skip_probability=draw(st.sampled_from((0.0, 0.4, 1.0))))[0]
    share = draw(st.sampled_from((0.0, 0.2, 1.0)))
    per = space.layers_per_segment
    addons = tuple(
        Addon(target, size, int(rng.integers(target % per + 1)))
        for target in range(space.num_layers)
        for size in (3, 5)
        if rng.random() < share
    )
    return dataclasses.replace(Genotype.from_genes(space, genes), addons=addons)


def apart(a, b, gap=0.01):
    return abs(a.x - b.x) >= (a.width + b.width) / 2 + gap or abs(a.y - b.y) >= (a.height + b.height) / 2 + gap


@settings(max_examples=40, deadline=None)
@given(genotypes())
def test_nothing_in_the_picture_lies_on_anything_else(genotype):
    layout = lay_out(genotype)
    assert all(apart(a, b) for a, b in itertools.combinations(layout.boxes, 2))
    # No add-on's line runs into the block of another: neither its level stretches nor its lane.
    for (i, line), (j, block) in itertools.product(enumerate(layout.addon_lines), enumerate(layout.of("addon"))):
        left, right = block.x - block.width / 2, block.x + block.width / 2
        top, bottom = block.y - block.height / 2, block.y + block.height / 2
        crossed = line.lane_x > left and any(top <= y <= bottom for y in (line.start, line.end))
        along = left <= line.lane_x <= right and line.start < bottom and line.end > top
        assert not crossed
        assert along == (i == j)
    assert all(layout.left < -LAYER[0] / 2 - skip.reach for skip in layout.skips)
    assert all(0 <= box.y < layout.bottom and box.x + box.width / 2 < layout.right for box in layout.boxes)


@settings(max_examples=20, deadline=None)
@given(genotypes())
def test_the_picture_holds_the_whole_network(genotype):
    layout = lay_out(genotype)
    assert [box.op.name for box in layout.of("layer")] == list(genotype.ops)
    assert len(layout.skips) == sum(map(len, genotype.skips))
    assert len(layout.of("addon")) == len(layout.addon_lines) == len(genotype.addons)
    assert len(layout.of("transition")) == len(genotype.space.transitions)
    assert len(layout.bands) == genotype.space.num_segments


def test_addon_lines_end_at_their_layers():
    layout = lay_out(GROWN)
    layers, pools, stem = layout.of("layer"), layout.of("transition"), layout.boxes[0]
    wanted = {(stem, layers[0]), (layers[0], layers[1]), (layers[4], layers[5]), (pools[1], layers[5])}

    def at(y):
        return next(box for box in layout.boxes if box.role != "addon" and abs(box.y - y) <= box.height / 2)

    assert {(at(line.start), at(line.end)) for line in layout.addon_lines} == wanted


def full_genotype(layers, seed=0):
    space = Space(layers, 3)
    rng = np.random.default_rng(seed)
    genotype = Genotype.from_genes(space, space.sample(rng, 1, skip_probability=0.4)[0])
    ops = tuple(OP_NAMES[i % len(OP_NAMES)] for i in range(layers))
    masks = Masks({f"layer{i}_op": np.ones((2, 2), bool) for i in range(layers)})
    addons = tuple(Addon(t, k, 0) for t in range(layers) for k in (3, 5) if rng.random() < 0.4)
    return dataclasses.replace(genotype, ops=ops, masks=masks, addons=addons)


@pytest.mark.parametrize("layers", [3, 6, 12, 24])
def test_every_text_stays_inside_its_block_and_the_legend_inside_the_picture(layers):
    figure = drawing.draw(full_genotype(layers), title="A title", separable_as_dense=True)
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    whole = figure.bbox
    legend = axes.get_legend().get_window_extent(renderer)
    assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1
    lowest = min(text.get_window_extent(renderer).y0 for text in axes.texts)
    assert legend.y0 >= 0
    assert legend.y1 < lowest
    extents = [text.get_window_extent(renderer) for text in axes.texts]
    assert all(whole.x0 <= e.x0 and e.x1 <= whole.x1 and e.y1 <= whole.y1 for e in extents)
    for a, b in itertools.combinations(extents, 2):
        assert not a.overlaps(b)
    inches = figure.dpi
    for box in lay_out(full_genotype(layers)).boxes:
        widest = max(e.width for text, e in zip(axes.texts, extents, strict=True) if text.get_text() == box.label)
        assert widest < (box.width - 0.06) * inches


def test_colours_and_hatches_follow_the_op():
    fills = {name: drawing.fill_of(op_named(name)) for name in OP_NAMES}
    assert fills["conv3x3"] == fills["sep_conv3x3"] == drawing.YELLOW
    assert fills["conv5x5"] == fills["sep_conv5x5"] == drawing.ORANGE
    assert len(set(fills.values())) == 4
    hatched = [name for name in OP_NAMES if drawing.hatch_of(op_named(name))]
    assert hatched == ["sep_conv3x3", "sep_conv5x5"]


def test_the_legend_names_what_is_there_and_nothing_else():
    def labels(genotype, **options):
        return [text.get_text() for text in drawing.draw(genotype, **options).axes[0].get_legend().get_texts()]

    plain = Genotype(Space(1, 1), ("conv3x3",), ((),))
    assert labels(plain) == ["3×3 convolution"]
    assert "a: add-on neurons" in labels(GROWN)
    assert "share of kernels kept" in labels(GROWN)
    assert "3×3 separable convolution" in labels(SEARCHED)
    assert "3×3 separable, built as full" in labels(SEARCHED, separable_as_dense=True)


def test_a_layer_tells_the_share_of_its_kernels_that_is_left():
    notes = [box.note for box in lay_out(PRUNED).of("layer")]
    assert notes == ["25%", "", "", "", "", ""]  # a 4 x 4 identity


# The curves.


def test_curves_show_the_history_and_the_controls(complete):
    figures = curves.draw(reading.read(complete[0]))
    lines = {line.get_label(): line for line in figures["enas"].axes[0].lines}
    np.testing.assert_allclose(lines["mean reward of an epoch's architectures"].get_xydata(),
                               [[1, 0.1], [2, 0.2], [3, 0.4]])  # fmt: skip
    np.testing.assert_allclose(lines["baseline"].get_xydata(), [[1, 0.12], [3, 0.2]])  # an empty cell is no point
    assert set(lines["best of random search, all of validation"].get_ydata()) == {0.7234}
    assert [axes.get_title(loc="left") for axes in figures["training"].axes] == [
        "Base network", "Pruned network", "Final network"]  # fmt: skip
    located = {line.get_label(): line for line in figures["lds"].axes[0].lines}
    np.testing.assert_allclose(located["best fitness"].get_xydata(), [[1, 0.81], [2, 0.9]])
    assert set(located["no add-ons"].get_ydata()) == {0.89}
    assert located.keys() >= {"found", "random search"}


def test_level_lines_that_would_lie_on_each_other_are_one(tmp_path, monkeypatch):
    same = {
        "val_accuracy": 0.91, "random_search_val_accuracy": 0.91, "no_addons_val_accuracy": 0.91,
        "mean_val_accuracy": 0.91, "random_search_mean_val_accuracy": 0.88,
    }  # fmt: skip
    monkeypatch.setitem(METRICS, "lds_location", same)
    panel = curves.draw(reading.read(make_run(tmp_path / "run")))["lds"].axes[0]
    levels = {line.get_label(): line.get_ydata()[0] for line in panel.lines if "fitness" not in line.get_label()}
    assert levels == {"found = no add-ons = random search": 0.91, "mean of random search": 0.88}


def test_the_scale_of_a_fitness_panel_fits_its_curves_and_levels(tmp_path):
    path = make_run(tmp_path / "run", unfinished=())
    rows = "cycle,best_fitness,mean_fitness,nan_fitness\n1,0.995,0.98,0\n2,1.0,0.985,0\n"
    (path / "6-lds_direction" / "metrics.csv").write_text(rows)
    first, second = curves.draw(reading.read(path))["lds"].axes
    levels = METRICS["lds_direction"]["no_addons_val_accuracy"], 1.0
    assert second.get_ylim() == pytest.approx(levels, abs=0.01)  # no fitness of 0
    assert second.get_ylim()[0] < levels[0] and levels[1] < second.get_ylim()[1]
    assert first.get_ylim()[0] < 0.75  # a scale of its own


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ["enas", "training", "lds"])
def test_legends_of_curves_fit_into_their_pictures(tmp_path, monkeypatch, name, narrow):
    longest = {"random_search_mean_val_accuracy": 0.8, "mean_val_accuracy": 0.85}
    monkeypatch.setitem(METRICS, "lds_location", METRICS["lds_location"] | longest)
    figure = curves.draw(reading.read(make_run(tmp_path / "run")), narrow=narrow)[name]
    figure.canvas.draw()
    legends = figure.legends or [panel.get_legend() for panel in figure.axes]
    boxes = [legend.get_window_extent() for legend in legends]
    frame = 2  # pixels of a legend's invisible frame that may stand out
    assert all(0 <= box.x0 < box.x1 <= figure.bbox.x1 and box.y0 >= -frame for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


# The script.


def script(*arguments):
    return subprocess.run([sys.executable, "report.py", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_script_ends_with_one_line_of_json(tmp_path):
    path = make_run(tmp_path / "run", ("base",))
    done = commands.call("report", f"--model_dir={path}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert Path(told["report"]).is_file()
    assert told["main_row"]["live_params"] == 123_457


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--model_dir is missing"),
        (("--model_dir=x", "--stage=enas"), "stage"),
    ],
)
def test_a_users_mistake_is_told_in_a_few_lines(arguments, message):
    done = script(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 3


def test_help_names_the_flags():
    done = script("--help")
    assert done.returncode == 0
    assert "--model_dir" in done.stdout and "--debug" in done.stdout


def test_a_reward_that_weighs_cost_is_not_told_as_an_accuracy(tmp_path, monkeypatch):
    weighed = dataclasses.replace(PRESETS["demo"].enas, objective="params")
    monkeypatch.setitem(PRESETS, "demo", dataclasses.replace(PRESETS["demo"], enas=weighed))
    monkeypatch.setitem(METRICS, "enas", {
        "val_reward": 0.9625, "random_search_val_reward": 0.9125, "random_search_mean_val_reward": 0.8,
        "best_accuracy": 0.875, "best_cost": 1234, "best_random_accuracy": 0.9375, "best_random_cost": 5678,
    })  # fmt: skip
    path = make_run(tmp_path / "run", ("enas",))
    (path / "1-enas" / "trials.csv").write_text(
        "place,source,score,accuracy,live_params,multiply_adds,architecture\n"
        "1,controller,0.9625,0.875,1234,9,0\n2,random,0.9125,0.9375,5678,9,0\n3,random,0.5,0.5,2000,9,0\n"
    )
    run, value = reading.read(path), value_of(path)
    (row,) = value["controls"]
    assert row["computed"] == {"gain": pytest.approx(0.05), "noise": None}
    assert "| +0.05 | — |" in page_of(path)
    (told,) = (sentence["text"] for sentence in value["verdict"] if "weighed" in sentence["text"])
    assert told == (
        "The architecture search weighed validation accuracy against live parameters: the best found has 87.50% at "
        "1,234, the best of random search has 93.75% at 5,678. Of the 2 architectures that none beats in both, the "
        "controller found 1."
    )
    (axes,) = curves.draw(run)["enas"].axes
    assert axes.get_ylabel() == "reward"
    assert [line.get_ydata()[0] for line in axes.lines[-3:]] == [0.9625, 0.9125, 0.8]
