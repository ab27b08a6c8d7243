"""Makes a network for a data set, and reports on it.

    nhn-pipeline --dataset=folder --data_dir=photos --time_limit=20m --model_dir=runs/photos
    nhn-pipeline --preset=demo --model_dir=runs/demo
    nhn-pipeline --preset=demo --model_dir=runs/demos --seeds=0,1,2 --controls=all
    nhn-pipeline --repeat=runs/demo/run.json --model_dir=runs/again

With --time_limit this machine is measured on these images, and what fits into the time is planned and done. With
--preset all seven stages run as the preset has them (`--preset=paper`: 46 hours on a GTX 1080 Ti, says the paper).
With --controls its networks are compared with others of the same images, epochs, recipe and seed. With these or --seeds
every seed gets a run of its own within the directory, and family.md beside them has means, deviations and paired
differences.

Started again with the same command it goes on where it stopped. A stage's setting carries its name: --base_epochs=40.
Watch it with `tensorboard --logdir=runs/demo`. With --repeat, a run's stages run once more with the settings that its
run.json notes, and each is compared with what it left the first time; other bits end in exit code 1.
"""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from nhn_tf.errors import UserError
from nhn_tf.settings import PRESETS, Preset
from nhn_tf.settings.plan import parse_seconds
from nhn_tf.settings.presets import PAPER, of_stages
from nhn_tf.settings.stages import BORROWING, NAMES
from nhn_tf.storage.commands import typed

from .. import entry
from ..define import EVERYTHING, StageFlags, noted_plan

if TYPE_CHECKING:
    from nhn_tf.runs import RunDirectory, Settings
    from nhn_tf.runs.tracking import Tracker

FLAGS = flags.FLAGS
OWN_IMAGES = ("folder", "csv", "arrays")
OWN_MINUTES = 20
"""For images of one's own where neither preset nor time is given."""
# What may be given beside --repeat: it decides nothing about the result.
WITH_REPEAT = {"repeat", "model_dir", "quiet", "debug", "own_ops", "tracker", "data_dir", "cache_dir",
               "distribute", "coordinator", "rank", "ranks",
               "eval_batch_size", "steps_per_execution", "on_nan", "checkpoint_minutes"}  # fmt: skip


def main() -> None:
    stage_flags = StageFlags(
        NAMES,
        choose_stage=False,
        prefixed=True,
        texts={
            "repeat": "the run.json of a run whose stages shall run once more with the settings that it notes",
            "controls": f"what the run is compared with, all or some of: {', '.join(BORROWING)}",
            "seeds": "several seeds, such as 0,1,2: a run for each within --model_dir, and one report on them all",
            "time_limit": "time for everything, such as 20m or 1h30m: what is done in it is planned",
        },
        switches={"baseline": "with --time_limit: also train a plain network, for as long as the base"},
    )
    if len(sys.argv) == 1:
        print(typed(__doc__ or ""))
        sys.exit(2)
    result = entry.guarded(lambda: stage_flags.help_text(__doc__ or ""), lambda: chosen(stage_flags))
    if False in result.get("same", {}).values():
        sys.exit(1)


def chosen(stage_flags: StageFlags) -> dict[str, Any]:
    """What the flags ask for: a run again, a run within a time, or a run as a preset has it."""
    if FLAGS.repeat:
        return repeat(stage_flags)
    if FLAGS.controls is not None or FLAGS.seeds is not None:
        return run_compared(stage_flags)
    if FLAGS.time_limit is not None:
        return run_timed(stage_flags, FLAGS.time_limit)
    if not FLAGS["preset"].present and (plan := noted_plan(FLAGS)) is not None:
        if not FLAGS["seed"].present:
            FLAGS["seed"].value = plan.seed
        return run_timed(stage_flags, f"{plan.limit_s}s")
    if not FLAGS["preset"].present and FLAGS.dataset in OWN_IMAGES and not entry.has_accelerator():
        print(f"no --preset and no --time_limit: images of one's own get {OWN_MINUTES} minutes on a CPU")
        return run_timed(stage_flags, f"{OWN_MINUTES}m")
    return run(stage_flags)


def run_timed(stage_flags: StageFlags, limit: str) -> dict[str, Any]:
    """Plans and runs what fits into a time; see `nhn_tf.stages.pipeline.run_timed`."""
    if FLAGS["preset"].present:
        raise UserError("--preset and --time_limit exclude each other: the time decides every setting.")
    try:
        limit_s = parse_seconds(limit)
    except ValueError as error:
        raise UserError(str(error)) from None
    shared = stage_flags.configured()
    entry.check_backend()
    from nhn_tf.runs import RunDirectory
    from nhn_tf.stages import pipeline  # Keras loads only once the flags are known to be right

    directory = RunDirectory(FLAGS.model_dir or os.path.join("runs", shared["data"].dataset))
    return pipeline.run_timed(
        directory,
        dataclasses.replace(PAPER, **shared),
        limit_s=limit_s,
        seed=FLAGS.seed,
        baseline=FLAGS.baseline,
        overwrite=overwritten(directory),
        typed=of_stages(stage_flags.typed()),
        trackers=entry.trackers(),
    )


def run(stage_flags: StageFlags) -> dict[str, Any]:
    """Runs what is not finished yet, in order, and reports; see `nhn_tf.stages.pipeline.run`."""
    preset = configured(stage_flags)
    entry.check_backend()
    from nhn_tf.stages import pipeline  # Keras loads only once the flags are known to be right

    settings = settings_of(preset, FLAGS.seed, trackers=entry.trackers())
    directory = entry.run_directory()
    return pipeline.run(directory, settings, overwrite=overwritten(directory))


def run_compared(stage_flags: StageFlags) -> dict[str, Any]:
    """Runs the pipeline with controls for each seed, and reports on all; see `nhn_tf.stages.pipeline.run_family`."""
    if FLAGS.time_limit is not None:
        raise UserError("--controls and --seeds go with --preset, not with --time_limit.")
    if not FLAGS["preset"].present:
        raise UserError(f"--controls and --seeds need a --preset. Give one of: {', '.join(PRESETS)}.")
    preset = configured(stage_flags)
    wanted = FLAGS.controls.split(",") if FLAGS.controls else []
    seeds = parse_seeds(FLAGS.seeds) if FLAGS.seeds is not None else [FLAGS.seed]
    entry.check_backend()
    from nhn_tf.report import family
    from nhn_tf.runs import RunDirectory
    from nhn_tf.stages import pipeline

    try:
        controls = pipeline.chosen_controls(wanted)
    except ValueError as error:
        raise UserError(str(error)) from None
    told, path = entry.trackers(), FLAGS.model_dir or os.path.join("runs", FLAGS.preset)
    return pipeline.run_family(
        path,
        {seed: settings_of(preset, seed, controls, trackers=told) for seed in seeds},
        overwrite=overwritten(*(RunDirectory(family.directory_of(Path(path), seed)) for seed in seeds)),
    )


def overwritten(*directories: "RunDirectory") -> bool | str:
    """What --overwrite discards of runs, as `nhn_tf.stages.pipeline.run` takes it.

    Raises:
      UserError: it does not say what, and there is something to lose.
    """
    from nhn_tf.stages import pipeline

    if FLAGS.overwrite not in (None, *EVERYTHING):
        return FLAGS.overwrite
    if FLAGS.overwrite == "true" and (begun := pipeline.begun_stages(directories)):
        lost = "\n".join(f"  {path}  {took}" for path, took in begun.items())
        raise UserError(
            f"--overwrite would discard:\n{lost}\n"
            f"Give --overwrite=all, or --overwrite=STAGE for one of {', '.join(NAMES)} and what builds on it."
        )
    return FLAGS.overwrite is not None


def parse_seeds(text: str) -> list[int]:
    """Distinct seeds, written "0,1,2".

    Raises:
      UserError: it is none.
    """
    words = text.split(",")
    if not all(re.fullmatch(r"\d{1,9}", word) for word in words) or len(set(words)) != len(words):
        raise UserError(f"--seeds must be different whole numbers, such as 0,1,2. Received: {text!r}.")
    if FLAGS["seed"].present:
        raise UserError("--seed and --seeds exclude each other.")
    return [int(word) for word in words]


def configured(stage_flags: StageFlags) -> Preset:
    """The preset with the typed flags put in."""
    return dataclasses.replace(PRESETS[FLAGS.preset], **stage_flags.configured(*NAMES))


def settings_of(
    preset: Preset, seed: int, controls: Sequence[str] = (), *, trackers: "Sequence[Tracker]"
) -> "dict[str, Settings]":
    """What each stage and control is asked to do, in their order."""
    from nhn_tf.runs import Settings

    how: dict[str, Any] = {"seed": seed, "name": FLAGS.preset, "trackers": trackers}
    return {name: Settings.of(preset, name, **how) for name in (*NAMES, *controls)}


def repeat(stage_flags: StageFlags) -> dict[str, Any]:
    """Runs the stages that the journal `--repeat` notes once more; see `nhn_tf.stages.pipeline.repeat`."""
    if foreign := [name for name in FLAGS if FLAGS[name].present and name not in WITH_REPEAT]:
        raise UserError(f"--repeat takes its settings from the run's journal. Leave out --{foreign[0]}.")
    from nhn_tf.runs import journal

    noted = next(iter(journal.read_to_repeat(FLAGS.repeat).values()))
    with contextlib.suppress(Exception):  # what is wrong with it is told below
        os.environ.setdefault("KERAS_BACKEND", noted["computed_with"]["backend"])
    entry.check_backend()
    from nhn_tf.stages import pipeline

    return pipeline.repeat(FLAGS.repeat, FLAGS.model_dir, trackers=entry.trackers(), **stage_flags.typed())
