"""Flags: every configuration field is one, typed flags beat the preset, mistakes are told in a sentence."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags as absl_flags

from flags.define import StageFlags, unknown
from nhn_tf.errors import UserError
from nhn_tf.settings import PRESETS
from nhn_tf.settings.stages import NAMES as STAGES

ROOT = Path(__file__).resolve().parent.parent


def parse(*arguments, stages=STAGES, **options):
    parsed = StageFlags(stages, values=absl_flags.FlagValues(), **options)
    parsed.values(["script", *arguments])
    return parsed


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("preset", PRESETS)
def test_without_typed_flags_the_preset_comes_out(stage, preset):
    parts = parse(f"--preset={preset}").configured(stage)
    assert parts[stage] == PRESETS[preset].stage(stage)
    assert parts["data"] == PRESETS[preset].data


def typed(value):
    return ",".join(value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_round_trips_through_its_flag(stage):
    """All fields of one preset, typed out, turn another preset into the first."""
    wanted = PRESETS["demo"]
    arguments = ["--preset=paper"]
    for part in ("data", "compute", stage):
        config = wanted.stage(part)
        names = [field.name for field in dataclasses.fields(config) if stage != "prune" or field.name != "threshold"]
        arguments += [f"--{name}={typed(getattr(config, name))}" for name in names]
    parts = parse(*arguments).configured(stage)
    assert parts == {part: wanted.stage(part) for part in ("data", "compute", stage)}


def test_a_flag_of_another_stage_is_refused():
    with pytest.raises(UserError, match="--final_samples is no setting of stage 'base'"):
        parse("--final_samples=3").configured("base")


def test_a_typed_flag_beats_the_preset_and_leaves_the_rest():
    parts = parse("--preset=demo", "--epochs=7").configured("enas")
    assert parts["enas"] == dataclasses.replace(PRESETS["demo"].enas, epochs=7)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--epochs=0", "--epochs must be between"),
        ("--lr_min=3", "--lr_min must not exceed"),
        ("--num_layers=7", "multiple"),
    ],
)
def test_values_out_of_range_name_their_flag(argument, message):
    with pytest.raises(UserError, match=message):
        parse(argument).configured("enas")


def test_help_gives_unit_range_source_and_the_presets_defaults():
    values = parse().values
    text = values["epochs"].help
    assert "in epochs" in text
    assert "between 1 and 100000" in text
    assert text.count("default: ") == 1 and text.count("(demo") == 1
    assert "paper, section 2.2" in values["smooth_init"].help


@pytest.mark.parametrize("prefixed", [False, True])
def test_help_names_other_flags_as_they_are_called(prefixed):
    values = parse(prefixed=prefixed, choose_stage=False).values
    named = [flag for name in values for flag in re.findall(r"--(\w+)", values[name].help)]
    assert "prune_threshold" in named if prefixed else "threshold" in named
    assert [flag for flag in named if flag not in values] == []


def test_each_default_stands_once():
    values = parse(stages=("lds_location",)).values
    presets = [PRESETS[name].lds_location.cycles for name in ("paper", "fast", "demo", "smoke")]
    assert len(set(presets)) == 4
    assert values["cycles"].help.endswith("default: {} (paper), {} (fast), {} (demo), {} (smoke))".format(*presets))
    assert values["momentum"].help.endswith("default: 0.9)")
    assert values["precision"].help.endswith("default: float32 (paper, demo, smoke), mixed_bfloat16 (fast))")


@pytest.mark.parametrize(
    "options",
    [
        {"stages": ("enas", "lds_location", "lds_direction")},
        {"stages": ("base", "pruned", "final")},
        {"choose_stage": False, "prefixed": True},
    ],
    ids=["search", "train", "pipeline"],
)
def test_help_fits_a_screen_and_helpfull_has_every_flag(options, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parsed = parse(**options)
    short = parsed.help_text("a line\n" * 10, full=False)
    assert len(short.splitlines()) <= 40 and max(map(len, short.splitlines())) <= 100
    for flag in ("--preset", "--model_dir", "--dataset", "--data_dir", "--image_size"):
        assert f"  {flag}: " in short
    full = parsed.help_text("What it does.", full=True)
    names = {*parsed._own, *parsed._settings}
    described = [line.split(":")[0].strip() for line in full.splitlines() if line.startswith("  --")]
    assert len(described) == len(names) and set(described) == {f"--{name}" for name in names}
    assert f"describes all {len(names)}" in short


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("epochs", {"choose_stage": False, "prefixed": True},
         "Did you mean --enas_epochs or --base_epochs or --prune_epochs or --pruned_epochs or --final_epochs?"),
        ("base_epochs", {"stages": ("base",)}, "Did you mean --epochs?"),
        ("epoch", {"stages": ("base",)}, "Did you mean --epochs?"),
        ("model-dir", {"stages": ("base",)}, "Did you mean --model_dir?"),
        ("cycles", {"stages": ("base",)},
         "It is a setting of: python search.py --stage=lds_location, python search.py --stage=lds_direction."),
        ("xyzzy", {"stages": ("base",)}, "unknown flag --xyzzy. `--helpfull` lists all flags."),
    ],
)  # fmt: skip
def test_an_unknown_flag_suggests_those_that_may_be_meant(name, options, message):
    parsed = parse(**options)
    assert message in unknown(name, [*parsed._own, *parsed._settings])


@pytest.mark.parametrize("columns", [40, 72, 200])
def test_help_is_as_wide_as_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = parse().help_text("What it does.", full=True)
    longest_word = max(len(word) for word in text.split())
    lines = text.splitlines()
    assert max(len(line) for line in lines if line.startswith(" ")) <= max(columns, longest_word + 6)
    (start,) = [number for number, line in enumerate(lines) if line.startswith("  --momentum: ")]
    assert lines[start + 1].startswith("      ") == (columns < 100)


def test_a_pipelines_flags_carry_the_stages_name():
    parsed = parse("--preset=demo", "--base_epochs=7", "--prune_sparsity=0.5", choose_stage=False, prefixed=True)
    assert parsed.configured("base")["base"].epochs == 7
    assert parsed.configured("prune")["prune"].sparsity == 0.5
    assert parsed.configured("final")["final"] == PRESETS["demo"].final
    bad = parse("--final_epochs=0", choose_stage=False, prefixed=True)
    with pytest.raises(UserError, match="--final_epochs must be"):
        bad.configured("final")


def test_both_halves_of_the_add_on_search_share_their_flags():
    parsed = parse("--preset=demo", "--cycles=3", "--density=0.2", groups=("lds",))
    parts = parsed.configured("lds_location", "lds_direction")
    assert (parts["lds_location"].cycles, parts["lds_direction"].cycles) == (3, 3)
    assert parts["lds_direction"].density == 0.2


def test_a_typed_threshold_takes_the_place_of_the_presets_sparsity():
    parts = parse("--threshold=0.02").configured("prune")
    assert parts["prune"].threshold == "0.02"
    with pytest.raises(UserError, match="exclude each other"):
        parse("--threshold=0.02", "--sparsity=0.5").configured("prune")


def script(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_script_that_is_begun_without_standard_streams_ends_as_any_other():
    for closed, told in ((">&-", "error: unknown flag --no_such_flag."), ("<&- >&- 2>&-", "")):
        command = f'"{sys.executable}" search.py --no_such_flag {closed}'
        streams = {"stderr": subprocess.PIPE, "text": True}
        result = subprocess.run(command, shell=True, cwd=ROOT, timeout=120, check=False, **streams)
        assert result.returncode == 2
        assert result.stderr.startswith(told) and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["search.py"], "--stage is missing"),
        (["search.py", "--stage=nothing"], "--stage=nothing"),
        (["search.py", "--stage=enas", "--preset=huge"], "--preset=huge"),
        (["search.py", "--stage=enas", "--epochs=-3"], "--epochs"),
        (["search.py", "--stage=enas", "--epochs=many"], "--epochs=many"),
        (["search.py", "--stage=enas", "--ops=conv3x3,conv9x9"], "conv9x9"),
        (["search.py", "--stage=enas", "--no_such_flag=1"], "no_such_flag"),
        (["search.py", "--stage=enas", "epochs=3"], "epochs=3"),
        (["train.py", "--seed=-1"], "--seed=-1"),
        (["train.py", "--stage=base", "--dropout=1"], "--dropout"),
    ],
)
def test_scripts_refuse_wrong_flags_at_once(arguments, culprit):
    result = script(*arguments)
    assert result.returncode == 2
    assert culprit in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3


@pytest.mark.parametrize("backend", ["torch", "numpy", "jax"])
def test_a_backend_that_cannot_be_had_is_named(backend, monkeypatch, tmp_path):
    if importlib.util.find_spec(backend) and backend == "jax":
        pytest.skip("JAX is installed here")
    monkeypatch.setenv("KERAS_BACKEND", backend)
    result = script("search.py", "--stage=enas", "--preset=smoke", f"--model_dir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert backend in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["search.py", "train.py", "prune.py", "pipeline.py", "report.py", "predict.py"])
def test_help_exits_cleanly_and_lists_the_flags(name):
    result = script(name, "--help")
    assert result.returncode == 0
    assert "--model_dir" in result.stdout
    assert len(result.stdout.splitlines()) <= 45
    full = script(name, "--helpfull")
    assert full.returncode == 0
    assert "between 0.01 and 0.9" in " ".join(full.stdout.split()) or name in ("report.py", "predict.py")
