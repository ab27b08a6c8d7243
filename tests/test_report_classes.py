"""What the report makes of a network's answers, of exports and comparisons: counts by hand, sentences that follow."""

import json
import re

import numpy as np
import pytest

from nhn_tf.report import class_pictures, markdown, page, reading, results, verdict, write_report
from nhn_tf.storage import files
from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.intervals import wilson
from nhn_tf.values.predictions import NAME, Predictions
from tests.test_report import METRICS, make_run, page_of, tables, value_of

pytestmark = pytest.mark.jax_slow

# Taken for: cat, dog, eel.
CONFUSION = np.array([[7, 2, 1], [0, 8, 0], [3, 0, 1]])
NAMES = ("cat", "dog", "eel")


def answers(confusion=CONFUSION, names=NAMES, train=(70, 80, 9)):
    """Answers with that confusion, each with a thumbnail where it is wrong; the first mistakes are the surest."""
    rows = [(true, taken) for (true, taken), count in np.ndenumerate(confusion) for _ in range(count)]
    logits = np.zeros((len(rows), len(names)), np.float32)
    for index, (_, taken) in enumerate(rows):
        logits[index, taken] = 10 - index / 10
    labels = np.array([true for true, _ in rows], np.int32)
    found = Predictions(labels, logits, names, train, (1,) * len(names))
    return found.with_thumbnails(np.zeros((len(rows), 8, 8, 3), np.uint8))


@pytest.fixture
def run(tmp_path):
    """A run whose final network answered so, and its pruned network in one image less."""
    path = make_run(tmp_path / "run")
    answers().save(path / "7-final")
    worse = CONFUSION.copy()
    worse[0] = [6, 3, 1]
    answers(worse).save(path / "4-pruned")
    return path


def test_each_class_has_its_images_and_its_accuracy_with_an_interval(run):
    found = value_of(run)["classes"]
    assert (found["stage"], found["source"]) == ("final", "7-final/predictions.npz")
    rows = [[row[name] for name in ("name", "train", "val", "test", "right")] for row in found["computed"]["rows"]]
    assert rows == [["cat", 70, 1, 10, 7], ["dog", 80, 1, 8, 8], ["eel", 9, 1, 4, 1]]
    assert found["computed"]["rows"][2]["interval"] == list(wilson(1, 4))
    assert found["computed"]["balanced_accuracy"] == pytest.approx((7 / 10 + 1 + 1 / 4) / 3)
    assert "| eel | 9 | 1 | 4 | 1 | 25.00% (4.56–69.94%) |" in page_of(run)


def test_the_commonest_class_of_the_training_images_is_what_always_could_be_answered(run):
    assert value_of(run)["classes"]["computed"]["commonest"] == {"name": "dog", "accuracy": 8 / 22}


def test_confusions_come_by_their_number_and_then_by_their_share_of_the_class(run):
    pairs = [
        (r["true"], r["taken_for"], r["images"], r["of"]) for r in value_of(run)["classes"]["computed"]["confusions"]
    ]
    assert pairs == [("eel", "cat", 3, 4), ("cat", "dog", 2, 10), ("cat", "eel", 1, 10)]
    text = page_of(run)
    assert "| **cat** | 7 | 2 | 1 |" in text
    assert "| eel | cat | 3 | 4 |" in text


def test_the_most_confident_mistakes_are_listed_with_the_number_of_the_image(run):
    found = value_of(run)["classes"]["computed"]["mistakes"]
    # Images 0..6 are right cats; 7, 8 cats taken for dogs, 9 for an eel; 18, 19, 20 eels taken for cats.
    assert [row["image"] for row in found] == [7, 8, 9, 18, 19, 20]
    assert found[0]["confidence"] == pytest.approx(np.exp(9.3) / (np.exp(9.3) + 2), rel=1e-5)


def test_a_network_without_mistakes_is_told_so(tmp_path):
    path = make_run(tmp_path / "run", ("base",))
    answers(np.diag([3, 4, 5])).save(path / "2-base")
    told = write_report(path)
    text = (path / "report" / "report.md").read_text()
    assert "Every test image is right." in text and "mistakes.png" not in text
    assert not any("mistakes" in name for name in told["pictures"])


def test_a_class_without_test_images_has_no_accuracy(tmp_path):
    path = make_run(tmp_path / "run", ("base",))
    answers(np.array([[3, 0, 0], [1, 2, 0], [0, 0, 0]])).save(path / "2-base")
    rows = value_of(path)["classes"]["computed"]["rows"]
    assert (rows[2]["accuracy"], rows[2]["interval"]) == (None, None)
    assert "| eel | 9 | 1 | 0 | 0 | — |" in page_of(path)


def test_a_run_that_kept_no_answers_has_no_classes(tmp_path):
    path = make_run(tmp_path / "run")
    assert value_of(path)["classes"] is None
    assert "## Classes" not in page_of(path)


def test_damaged_answers_are_named(run):
    (run / "7-final" / NAME).write_bytes(b"half a file")
    with pytest.raises(DamagedFileError, match=NAME):
        write_report(run)


def test_names_of_any_kind_keep_tables_and_pictures_whole(tmp_path):
    names = ("a|b`c*", "$x$ ^_", "猫\n犬" + "x" * 60)
    path = make_run(tmp_path / "run", ("base",))
    answers(names=names).save(path / "2-base")
    write_report(path)
    text = (path / "report" / "report.md").read_text()
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables(text))
    assert r"a\|b\`c\*" in text


def test_many_classes_have_no_matrix_as_a_table(tmp_path):
    names = tuple(f"class {number}" for number in range(50))
    path = make_run(tmp_path / "run", ("base",))
    found = answers(np.eye(50, dtype=int) + np.eye(50, k=1, dtype=int), names, (1,) * 50)
    found.save(path / "2-base")
    assert value_of(path)["classes"]["computed"]["confusion"] is None
    assert "taken for | class 0" not in page_of(path)
    assert class_pictures.confusion(found).axes[0].texts[:] == []


def test_pictures_show_the_examples_that_there_are(run):
    found = answers()
    assert len(class_pictures.mistakes(found).axes[0].images) == 6
    examples = class_pictures.confusions(found).axes[0]
    assert [text.get_text() for text in examples.texts] == [
        "eel → cat\n3 of 4",
        "cat → dog\n2 of 10",
        "cat → eel\n1 of 10",
    ]
    assert len(examples.images) == 6


# The verdict.


def sentences(path, about):
    return [row["text"] for row in value_of(path)["verdict"] if row["about"] == about]


@pytest.mark.parametrize(
    ("found", "control", "words"),
    [
        # Of 96 images; 50% has an interval of 40.2 to 59.8%, so that chance makes about 14 points.
        (0.70, 0.50, "The architecture search helped: 70.00% against 50.00% with random search (+20.00 points"),
        (0.55, 0.50, "The architecture search has not shown to help: 55.00% against 50.00% with random search"),
        (0.50, 0.70, "The architecture search did harm: 50.00% against 70.00% with random search (-20.00 points"),
    ],
)
def test_a_search_has_helped_only_beyond_chance(tmp_path, monkeypatch, found, control, words):
    monkeypatch.setitem(METRICS, "enas", {"val_accuracy": found, "random_search_val_accuracy": control})
    path = make_run(tmp_path / "run", ("enas",))
    assert value_of(path)["controls"][0]["computed"]["noise"] == pytest.approx(0.14, abs=0.01)
    (told,) = sentences(path, "helped")
    assert told.startswith(words)


def test_networks_are_compared_on_the_images_that_one_of_them_has_right(run):
    (pair,) = value_of(run)["pairs"]
    assert pair == {"stage": "final", "before": "pruned", "computed": {"wins": 1, "losses": 0, "p": 1.0}}
    told = sentences(run, "helped")[-1]
    assert told == (
        "The final network is as good as the pruned network as far as chance lets tell: it has 1 test image right that "
        "the pruned network has wrong, and 0 the other way round (sign test, p = 1)."
    )


def test_a_lead_of_ten_images_to_none_is_no_chance(run):
    right, wrong = np.diag([10, 10, 2]), np.diag([10, 0, 2])
    wrong[1, 0] = 10
    answers(right).save(run / "7-final")
    answers(wrong).save(run / "4-pruned")
    told = sentences(run, "helped")[-1]
    assert "The final network is better than the pruned network beyond chance" in told
    assert "p = 0.002" in told and "also trained longer" in told
    answers(wrong).save(run / "7-final")
    answers(right).save(run / "4-pruned")
    assert "The final network is worse than the pruned network beyond chance" in sentences(run, "helped")[-1]


def test_the_smallest_network_that_is_not_worse_beyond_chance_is_named(run):
    # Final: 98.89% of 97; pruned: 97.82%, whose interval reaches to 99.4%.
    (use, _) = sentences(run, "use")
    assert use.startswith("Use the final network, the most accurate of this run.")
    assert "the pruned network (34,567 live parameters, 97.82%) is not worse beyond chance" in use


def test_a_class_that_is_worse_than_all_beyond_chance_wants_more_images(run):
    told = " ".join(sentences(run, "improve"))
    assert "More images of 'eel': 1 of its 4 test images are right, after 9 training images." in told
    assert "More images of 'dog'" not in told


@pytest.mark.parametrize(
    ("accuracy", "test", "bounds", "words"),
    [
        (0.60, 0.59, None, "More time"),
        (0.99, 0.80, None, "More images: the final"),
        (0.99, 0.80, (0.71, 0.87), "More images: the final"),
        (0.50, 0.46, (0.37, 0.57), "More time"),  # no further above than so few test images let chance make
        (0.99, 0.98, None, None),
    ],
)
def test_time_is_wanted_by_who_has_not_learned_and_images_by_who_learned_by_heart(accuracy, test, bounds, words):
    row = {"stage": "final", "computed": {"test_accuracy": test, "interval": bounds}}
    told = verdict._time_or_images(row, accuracy)
    assert [text.startswith(words) for text in told] == [True] if words else told == []


def test_nothing_is_concluded_from_the_accuracy_on_images_that_were_made_harder(tmp_path):
    path = make_run(tmp_path / "run", ("base",))
    plain, harder = reading.read(path), reading.read(path)
    harder.stages["base"].config["config"]["mixup"] = 0.5
    assert verdict._training_accuracy(plain, "base") is not None
    assert verdict._training_accuracy(harder, "base") is None


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    told = sentences(make_run(tmp_path / "run", ("enas", "base"), unfinished=("prune",)), "improve")
    assert told[0] == "Finish the run: prune, pruned, lds_location, lds_direction, final are still to come."
    assert sentences(make_run(tmp_path / "other", ("enas",)), "found") == ["No network has been trained yet."]


def test_a_network_that_only_knows_the_commonest_class_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "base", {**METRICS["base"], "test_error": 50.0, "test_accuracy": 0.5})
    path = make_run(tmp_path / "run", ("base",))
    answers(np.array([[0, 10, 0], [0, 11, 0], [0, 1, 0]])).save(path / "2-base")
    always = "Always answering 'dog', the commonest class, would get 50.00%"
    assert sentences(path, "found")[1] == f"{always}: the network is not better than that beyond chance."


def test_of_classes_of_equal_size_none_is_called_the_commonest(tmp_path):
    path = make_run(tmp_path / "run", ("base",))
    answers(train=(50, 50, 50)).save(path / "2-base")
    assert sentences(path, "found")[1].startswith("Always answering the same class would get ")
    answers(train=(50, 51, 50)).save(path / "2-base")  # what is held out need not divide them
    assert sentences(path, "found")[1].startswith("Always answering the same class would get ")


# The plain network.


def with_baseline(path, confusion, **metrics):
    """A plain network beside the run, with these answers."""
    done = files.read_sealed(path / "2-base" / "done.json")
    config = files.read_sealed(path / "2-base" / "config.json")
    figures = {**METRICS["base"], "live_params": 99_999, **metrics}
    files.write_sealed(path / "baseline" / "config.json", {**config, "stage": "baseline"})
    files.write_sealed(path / "baseline" / "done.json", {**done, "stage": "baseline", "metrics": figures})
    answers(confusion).save(path / "baseline")


def test_a_plain_network_that_wins_is_told_first(run):
    right, wrong = np.diag([10, 10, 2]), np.diag([10, 0, 2])
    wrong[1, 0] = 10
    answers(wrong).save(run / "7-final")
    with_baseline(run, right, test_error=0.5)
    assert value_of(run)["baseline"]["computed"]["against"] == {"wins": 0, "losses": 10, "p": 2 / 2**10}
    assert value_of(run)["verdict"][0]["text"] == (
        "A plain CNN, trained on the same images, wins: 99.50% against 98.89% of the final network, with 99,999 live "
        "parameters against 45,678."
    )
    assert sentences(run, "use")[0].startswith("Use a plain CNN")
    assert "| plain CNN | 99.50%" in page_of(run)


def test_a_plain_network_that_does_not_win_changes_nothing_else(run):
    before = value_of(run)
    with_baseline(run, CONFUSION, test_error=2.0)
    after = value_of(run)
    assert "is as accurate as far as chance lets tell: 98.00% against 98.89%" in after["verdict"][0]["text"]
    assert after["verdict"][1:] == before["verdict"]
    assert (after["classes"], after["pairs"]) == (before["classes"], before["pairs"])
    with_baseline(run, np.array([[0, 10, 0], [8, 0, 0], [0, 4, 0]]), test_error=60.0)
    assert "trained on the same images, loses: 40.00% against 98.89%" in value_of(run)["verdict"][0]["text"]


# Exports.


def exported(path, **changes):
    weights = files.read_json(path / "7-final" / "done.json")["weights"]
    rows = {
        "keras": {"file": "network.keras", "bytes": 300_000, "latency_ms": {"1": 9.0, "16": 50.0}},
        "nhn": {"file": "network.nhn", "bytes": 100_000, "latency_ms": {"1": 0.25, "16": 4.0}},
    }
    rows = {name: {**row, "max_abs_error": 1e-6, "same_top1": 1.0} for name, row in rows.items()}
    value = {"stage": "final", "weights": weights, "formats": rows, "written_with": {"device": "cpu: X"}}
    files.write_json(path / "export" / "export.json", {**value, **changes})


def test_exports_stand_with_their_sizes_and_latencies_and_the_fastest_is_named(run):
    exported(run)
    assert "| `network.nhn` | 97.7 KiB | 0.25 ms | 4 ms | 100.00% | 1.0e-06 |" in page_of(run)
    assert sentences(run, "use")[1] == (
        "Of the exported files export/network.nhn is the fastest, 0.25 ms an image on one core, and the smallest, "
        "97.7 KiB."
    )


def test_exports_of_other_weights_are_told(run):
    exported(run, weights="others")
    assert "weights that the stage no longer holds" in page_of(run)
    assert "has changed since: export it again" in sentences(run, "use")[1]


def test_a_note_of_exports_that_lacks_an_entry_is_named(run):
    exported(run, formats={"keras": {}})
    with pytest.raises(DamagedFileError, match=r"export\.json is damaged"):
        write_report(run)


def test_everything_said_can_be_read_from_results_json_alone(run):
    """The page is made of the JSON value, so that a program can do all that the page does."""
    exported(run)
    value = results.collect(reading.read(run))
    again = json.loads(json.dumps(value))
    assert markdown.render(page.page(again, ())) == markdown.render(page.page(value, ()))
    assert not re.search(r"\bnan\b|None\b(?!\.)", markdown.render(page.page(value, ())))
