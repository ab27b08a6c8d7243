"""report.html: the same page as report.md, whole in one file, with nothing asked of the network."""

import dataclasses
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from nhn_tf.report import best_locations, drawing, page, plots, published, reading, results, write_report
from nhn_tf.report import html as page_html
from nhn_tf.report.elements import Bullets, Code, Page, Paragraph, Picture, Section, Strong, Table
from nhn_tf.report.placement import lay_out
from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.genotype import Addon
from nhn_tf.values.space import Space
from tests.test_report import GROWN, SPACE, make_run, page_of

pytestmark = pytest.mark.jax_slow

VOID = {"meta", "link", "br", "img", "source", "path", "rect", "line"}


class Reader(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def flat(text):
    """A text on one line."""
    return re.sub(r"\s+", " ", text).strip()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of a finished run on CIFAR-10, and the run."""
    path = make_run(tmp_path_factory.mktemp("runs") / "whole", preset="paper")
    told = write_report(path)
    with open(told["html"], encoding="utf-8") as file:
        return path, file.read()


def test_the_page_is_well_formed_and_says_all_that_report_md_says(whole):
    path, text = whole
    read = Reader(text)
    assert read.open == []
    told = flat(read.text)
    for row in results.collect(reading.read(path))["verdict"]:
        assert row["text"] in told
    for row in published.TABLE_1:
        assert row.method in told
    titles = re.findall(r"^## (.*)", page_of(path, ()), re.MULTILINE)
    assert [attrs["href"][1:] for attrs in read.all("a")] == [attrs["id"] for attrs in read.all("section")]
    assert all(title in told for title in titles)


def test_the_page_asks_nothing_of_the_network(whole):
    _, text = whole
    read = Reader(text)
    sources = [attrs[key] for _, attrs in read.tags for key in ("src", "srcset") if key in attrs]
    assert len(sources) > 8
    assert all(source.startswith("data:image/") for source in sources)
    assert [attrs["href"] for attrs in read.all("link")] == ["data:,"]
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)


def test_every_picture_says_what_it_shows(whole):
    read = Reader(whole[1])
    assert len(read.all("figure")) == len(read.all("img")) + len(read.all("svg"))
    assert all(len(attrs["alt"]) > 20 for attrs in read.all("img"))
    assert all(len(attrs["aria-label"]) > 20 for attrs in read.all("svg"))


def test_each_block_of_the_network_tells_what_it_is():
    drawn = page_html.render(Page("t", [Section("s", [Picture("network", "A drawing.")])]), {"network": lay_out(GROWN)})
    told = [attrs["data-detail"] for attrs in Reader(drawn).all("g")]
    assert "layer 0: 3×3 convolution; 4 of 16 kernels kept; add-ons 3×3 from stem" in told
    assert "layer 3: 3×3 max pooling; skips from the stem, layer 1" in told
    assert "add-on neurons: 5×5 from layer 0 to layer 1" in told
    assert len(told) == 2 + SPACE.num_layers + len(SPACE.transitions) + len(GROWN.addons)


def test_what_a_name_holds_is_never_markup():
    name = "<script>alert('x')</script> & \"quoted\" {{ 7 * 7 }}"
    content = Page(name, [Section(name, [
        Paragraph((name, Code(name), Strong(name))), Bullets([name]), Table([name], [[name]]), Picture("p", name, name),
    ])])  # fmt: skip
    text = page_html.render(content, {"p": page_html.Shown(page_html.PNG, b"")})
    read = Reader(text)
    assert len(read.all("script")) == 1
    assert read.all("img")[0]["alt"] == name
    assert text.count("&lt;script&gt;alert(") >= 7
    assert "49" not in read.text


def test_a_picture_that_was_not_drawn_is_left_out():
    content = Page("t", [Section("s", [Picture("missing", "Nothing."), Paragraph("Text.")])])
    assert Reader(page_html.render(content, {})).all("figure") == []


def test_a_report_on_other_data_has_no_score_plane(tmp_path):
    told = write_report(make_run(tmp_path / "run", ("enas", "base")))
    assert not any("score_plane" in picture for picture in told["pictures"])


# Figure 2: the best sets of locations.

TRIALS = """place,source,score,addons
1,random,0.9,layer 0: 5x5 from the segment's input
2,evolution,0.8,layer 1: 3x3 from the segment's input; layer 5: 5x5 from layer 4
3,evolution,0.7,layer 1: 3x3 from the segment's input
4,evolution,0.7,
5,evolution,0.7,layer 1: 3x3 from the segment's input
6,evolution,0.6,layer 5: 5x5 from layer 4; layer 3: 3x3 from layer 2
7,evolution,0.5,layer 0: 3x3 from the segment's input
"""


@pytest.fixture
def located(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "5-lds_location" / "trials.csv").write_text(TRIALS)
    return path


def test_the_best_three_sets_are_those_of_the_search_without_repetition(located):
    # Two layers a segment: layer 4 is the first of layer 5's segment, layer 2 of layer 3's.
    one, two = Addon(1, 3, 0), Addon(5, 5, 1)
    assert best_locations.best(reading.read(located)) == [(one, two), (one,), (two, Addon(3, 3, 1))]


def test_a_location_of_several_sets_is_drawn_once_and_names_them():
    one, two = Addon(1, 3, 0), Addon(5, 5, 1)
    layout = lay_out(GROWN.without_addons(), [(one, two), (one,), (two, Addon(3, 3, 1))])
    assert sorted(box.label for box in layout.of("addon")) == ["3×3: 1, 2", "3×3: 3", "5×5: 1, 3"]
    colors = {line.sets: drawing.line_color(line) for line in layout.addon_lines}
    assert colors == dict(zip([(1, 2), (1, 3), (3,)], [drawing.SET_LINES[0]] * 2 + [drawing.SET_LINES[2]], strict=True))
    detail = next(box.detail for box in layout.of("addon") if box.label == "5×5: 1, 3")
    assert detail == "add-on neurons: 5×5 from layer 4 to layer 5; in set 1, 3"


def test_the_report_draws_the_sets_and_names_their_file(located):
    told = write_report(located)
    assert any(picture.endswith("locations.png") for picture in told["pictures"])
    with open(told["report"], encoding="utf-8") as file:
        assert "in one drawing (paper, figure 2). From `5-lds_location/trials.csv`." in file.read()


@pytest.mark.parametrize(
    "words",
    ["layer 9: 3x3 from the segment's input", "layer 1: 4x4 from layer 0", "layer 2: 3x3 from layer 1", "layer x: 3x3"],
)
def test_trials_that_name_no_addon_are_told(located, words):
    (located / "5-lds_location" / "trials.csv").write_text(f"place,source,score,addons\n1,evolution,1,{words}\n")
    with pytest.raises(DamagedFileError, match=r"trials\.csv has no readable add-ons"):
        write_report(located)


def test_what_a_search_writes_is_read_as_the_addons_it_found(smoke_run):
    run = reading.read(smoke_run.path)
    assert best_locations.best(run)[0] == smoke_run.stage("lds_location").genotype().addons


def test_an_addon_is_read_where_it_was_described():
    assert best_locations.read("layer 3: 5x5 from layer 2", Space(4, 1)) == Addon(3, 5, 3)
    assert best_locations.read("layer 3: 3x3 from the segment's input", Space(4, 2)) == Addon(3, 3, 0)


# The other pictures.


def test_the_timeline_has_a_bar_for_each_finished_stage_one_after_the_other():
    stages = [{"stage": "enas", "wall_s": 60.0}, {"stage": "base", "wall_s": 120.0}, {"stage": "prune"}]
    (axes,) = plots.timeline(stages).axes
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 1), (1, 2)]  # minutes
    assert plots.timeline(stages[2:]) is None


@pytest.mark.parametrize("seconds", [(240,), (9, 300), (300, 9), (60, 60, 60)])
@pytest.mark.parametrize("narrow", [False, True])
def test_no_time_of_the_timeline_lies_outside_its_axes(seconds, narrow):
    figure = plots.timeline([{"stage": "base", "wall_s": float(s)} for s in seconds], narrow=narrow)
    figure.canvas.draw()
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    for text in axes.texts:
        place = text.get_window_extent()
        assert frame.x0 <= place.x0 and place.x1 <= frame.x1
    assert len(axes.texts) == len(seconds)


def test_a_line_of_the_score_plane_is_where_the_score_is_the_same(whole):
    value = results.collect(reading.read(whole[0]))
    (axes,) = plots.score_plane(value["table"]).axes
    for line, score in zip(axes.lines, (1, 2, 4), strict=True):
        for params, error in line.get_xydata()[::40]:
            assert ((error / 2) ** 2 + (params / 25) ** 2) ** 0.5 == pytest.approx(score)
    points = sum(len(marks.get_offsets()) for marks in axes.collections)
    assert points == sum(row.params_m is not None for row in published.TABLE_1) + len(value["table"]["measured"])


def test_histograms_are_of_the_base_networks_kernels_split_by_the_masks(smoke_run, tmp_path):
    run = reading.read(smoke_run.path)
    axes = [panel for panel in plots.histograms(run).axes if panel.patches]
    masks = run.stages["prune"].genotype().masks
    assert [panel.get_title(loc="left").split(":")[0] for panel in axes] == list(masks)
    for panel, mask in zip(axes, masks.values(), strict=True):
        gone, kept = ([bar.get_height() for bar in bars] for bars in panel.containers)
        assert (sum(gone), sum(kept)) == ((~mask).sum(), mask.sum())
    arrays = run.stages["base"].weights()
    for panel, (name, mask) in zip(axes, masks.items(), strict=True):
        (line,) = panel.lines
        std = arrays[f"{name}/kernel"].std(axis=(0, 1))
        np.testing.assert_array_equal(std >= line.get_xdata()[0] * (1 - 1e-5), mask)
    shutil.copytree(smoke_run.path, tmp_path / "run")
    other = reading.read(tmp_path / "run")
    other.stages["base"].__dict__["done"] = dataclasses.replace(other.stages["base"].done, weights="others")
    assert plots.histograms(other) is None


def test_pictures_that_the_page_wants_are_those_that_are_drawn(reported_run):
    """Every drawn picture stands on the page, in Markdown and in HTML."""
    value = results.collect(reading.read(reported_run.path))
    names = {picture.stem for picture in reported_run.path.glob("report/*.png")}
    shown = {
        block.name
        for section in page.page(value, names).sections
        for block in section.blocks
        if isinstance(block, Picture)
    }
    assert shown - {"../3-prune/sensitivities"} == names
    with open(reported_run.path / "report" / "report.html", encoding="utf-8") as file:
        assert len(Reader(file.read()).all("figure")) == len(shown)
