"""Controls: what they take from what they control, and what is said of several seeds."""

import json
import math

import numpy as np
import pytest

from nhn_tf.models import complexity, residual
from nhn_tf.report import family
from nhn_tf.settings import PRESETS
from nhn_tf.settings.stages import BORROWING, find
from nhn_tf.stages.controls import draw_addons, perturbations
from nhn_tf.stages.pipeline import chosen_controls
from nhn_tf.storage import files
from nhn_tf.values import names
from nhn_tf.values.estimates import Estimate


def test_a_control_has_the_settings_and_epochs_of_what_it_controls():
    paper = PRESETS["paper"]
    assert paper.stage("pruned_longer") == paper.final
    assert paper.stage("base_longer") == paper.pruned
    assert paper.stage("no_smoothing") == paper.base
    assert paper.stage("resnet").epochs == 310 + 160 + 260
    assert paper.stage("resnet").dropout == paper.base.dropout
    gradual = paper.replaced(prune_schedule="gradual")
    assert gradual.stage("base_longer").epochs == 160 + 30
    assert gradual.stage("random_pruning").epochs == 160 + 30


def test_a_control_has_the_teacher_of_what_it_controls():
    taught = PRESETS["smoke"].replaced(pruned_distill=0.5, final_distill=0.7, final_distill_temperature=2)
    assert taught.stage("base_longer").distill == taught.stage("random_pruning").distill == 0.5
    for name in ("pruned_longer", "random_addons", "resnet", "small_dense"):
        control = taught.stage(name)
        assert (control.distill, control.distill_temperature) == (0.7, 2.0), name


def test_resnet_20_has_its_published_size():
    cost = complexity.model_cost(residual.build((32, 32, 3), 10))
    assert cost.params == 272_474
    assert 40.5e6 < cost.flops < 41.5e6


def test_random_addons_have_the_connections_and_kernels_of_those_found(smoke_run):
    found = smoke_run.stage("final").genotype()
    base = smoke_run.stage("pruned").genotype()
    drawn = [draw_addons(base, found, np.random.default_rng(seed)) for seed in range(20)]
    for genotype in drawn:
        assert genotype.without_addons() == base
        assert sorted(a.kernel_size for a in genotype.addons) == sorted(a.kernel_size for a in found.addons)
        assert genotype.masks.kept == found.masks.kept
    assert len({genotype.digest for genotype in drawn}) > 1


def test_each_perturbation_changes_one_addon(smoke_run):
    final = smoke_run.stage("final")
    found, arrays = final.genotype(), final.weights()
    places = [(addon.target, addon.kernel_size) for addon in found.addons]
    for changed, values in perturbations(found, arrays):
        gone = set(found.addons) - set(changed.addons)
        assert len(gone) == 1
        assert len(set(changed.addons) - set(found.addons)) <= 1
        for number, addon in enumerate(changed.addons):
            before = places.index((addon.target, addon.kernel_size))
            kernel = f"{names.addon(number, 'conv')}/kernel"
            np.testing.assert_array_equal(values[kernel], arrays[f"{names.addon(before, 'conv')}/kernel"])


def test_paired_differences_are_taken_seed_by_seed():
    first, second = Estimate({0: 10.0, 1: 20.0, 2: 33.0}), Estimate({0: 9.0, 1: 18.0, 5: 7.0})
    difference = first.minus(second)
    assert difference.values == {0: 1.0, 1: 2.0}
    assert difference.mean == 1.5
    assert difference.standard_error == pytest.approx(0.5)  # std sqrt(1/2), over sqrt(2)
    assert difference.errors == pytest.approx(3.0)
    assert math.isnan(Estimate({0: 1.0}).std)
    assert Estimate({0: 1.0}).to_json()["standard_error"] is None


def test_a_family_is_read_from_its_runs_alone(smoke_run, tmp_path):
    record = json.loads((smoke_run.path / "4-pruned" / "done.json").read_text())
    del record["digest"]  # of the figures that are replaced
    for seed, (pruned, random) in enumerate([(20.0, 23.0), (22.0, 24.0), (21.0, None)]):
        for stage, error in (("pruned", pruned), ("random_pruning", random)):
            if error is not None:
                path = tmp_path / f"seed_{seed}" / find(stage).directory
                path.mkdir(parents=True)
                metrics = {"test_error": error, "live_params": 1000}
                files.write_sealed(path / "done.json", {**record, "stage": stage, "metrics": metrics})
        (tmp_path / f"seed_{seed}" / "run.json").write_text("{}")
    value = family.collect(tmp_path)
    assert value["seeds"] == [0, 1, 2]
    (table,) = [table for table in value["tables"] if table["title"] == "Pruning"]
    rows = {row["row"]: row for row in table["rows"]}
    assert rows["pruned"]["mean"] == 21.0 and rows["pruned"]["std"] == pytest.approx(1.0)
    (difference,) = table["differences"]
    assert (difference["of"], difference["minus"]) == ("random_pruning", "pruned")
    assert difference["mean"] == 2.5 and difference["standard_error"] == pytest.approx(0.5)
    assert "random kernels pruned" in family.render(value)


def test_there_is_no_control_of_that_name():
    assert chosen_controls(["resnet", "pruned_longer"]) == ("pruned_longer", "resnet")
    assert chosen_controls(["all"]) == BORROWING
    with pytest.raises(ValueError, match="`controls` must be among all, .* Received: 'resnets'"):
        chosen_controls(["resnets"])


@pytest.mark.slow
def test_every_control_is_trained_once_and_compared(smoke_run, tmp_path, capsys):
    import dataclasses
    import shutil

    from nhn_tf.runs import Settings
    from nhn_tf.settings.stages import NAMES
    from nhn_tf.stages import pipeline

    shutil.copytree(smoke_run.path, tmp_path / "seed_0")
    settings = {name: Settings.of(PRESETS["smoke"], name, name="smoke") for name in (*NAMES, *BORROWING)}
    pipeline.run_family(tmp_path, {0: settings})
    value = family.collect(tmp_path)
    assert set(BORROWING) - {"perturbed_addons"} <= set(value["stages"])
    capsys.readouterr()
    again = pipeline.run_family(tmp_path, {0: {n: dataclasses.replace(s) for n, s in settings.items()}})
    assert family.collect(tmp_path) == value
    assert again["report"].endswith("family.md")
    assert "resnet: already finished" in capsys.readouterr().out
