"""Makes a network for a data set, and reports on it.

    python pipeline.py --dataset=folder --data_dir=photos --time_limit=20m --model_dir=runs/photos
    python pipeline.py --preset=demo --model_dir=runs/demo
    python pipeline.py --repeat=runs/demo/run.json --model_dir=runs/again

With --time_limit this machine is measured on these images, and what fits into the time is planned and done. With
--preset all seven stages run as the preset has them (`--preset=paper`: 46 hours on a GTX 1080 Ti, says the paper).

Started again with the same command it goes on where it stopped. A stage's setting carries its name: --base_epochs=40.
Watch it with `tensorboard --logdir=runs/demo`. With --repeat, a run's stages run once more with the settings that its
run.json notes, and each is compared with what it left the first time; other bits end in exit code 1.
"""

import contextlib
import dataclasses
import os
import sys
from typing import Any

from absl import flags

from flags import entry
from flags.define import StageFlags, noted_plan
from nhn_tf.errors import UserError
from nhn_tf.settings.plan import parse_seconds
from nhn_tf.settings.presets import PAPER, of_stages
from nhn_tf.settings.stages import NAMES
from nhn_tf.storage import files

FLAGS = flags.FLAGS
OWN_IMAGES = ("folder", "csv", "arrays")
OWN_MINUTES = 20
"""For images of one's own where neither preset nor time is given."""
# What may be given beside --repeat: it decides nothing about the result.
WITH_REPEAT = {"repeat", "model_dir", "debug", "data_dir", "cache_dir", "eval_batch_size", "steps_per_execution",
               "on_nan", "checkpoint_minutes"}  # fmt: skip


def main() -> None:
    stage_flags = StageFlags(
        NAMES,
        choose_stage=False,
        prefixed=True,
        texts={
            "repeat": "the run.json of a run whose stages shall run once more with the settings that it notes",
            "time_limit": "time for everything, such as 20m or 1h30m: what is done in it is planned",
        },
        switches={"baseline": "with --time_limit: also train a plain network, for as long as the base"},
    )
    if len(sys.argv) == 1:
        print(__doc__)
        sys.exit(2)
    result = entry.guarded(lambda: stage_flags.help_text(__doc__ or ""), lambda: chosen(stage_flags))
    if False in result.get("same", {}).values():
        sys.exit(1)


def chosen(stage_flags: StageFlags) -> dict[str, Any]:
    """What the flags ask for: a run again, a run within a time, or a run as a preset has it."""
    if FLAGS.repeat:
        return repeat(stage_flags)
    if FLAGS.time_limit is not None:
        return run_timed(stage_flags, FLAGS.time_limit)
    if not FLAGS["preset"].present and (plan := noted_plan(FLAGS)) is not None:
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

    return pipeline.run_timed(
        RunDirectory(FLAGS.model_dir or os.path.join("runs", shared["data"].dataset)),
        dataclasses.replace(PAPER, **shared),
        limit_s=limit_s,
        seed=FLAGS.seed,
        baseline=FLAGS.baseline,
        overwrite=FLAGS.overwrite,
        typed=of_stages(stage_flags.typed()),
    )


def run(stage_flags: StageFlags) -> dict[str, Any]:
    """Runs what is not finished yet, in order, and reports; see `nhn_tf.stages.pipeline.run`."""
    asked = {stage: stage_flags.configured(stage) for stage in NAMES}
    entry.check_backend()
    from nhn_tf.stages import pipeline  # Keras loads only once the flags are known to be right

    settings = {stage: entry.settings(parts, stage) for stage, parts in asked.items()}
    settings = {stage: dataclasses.replace(asked, overwrite=False) for stage, asked in settings.items()}
    return pipeline.run(entry.run_directory(), settings, overwrite=FLAGS.overwrite)


def repeat(stage_flags: StageFlags) -> dict[str, Any]:
    """Runs the stages that the journal `--repeat` notes once more; see `nhn_tf.stages.pipeline.repeat`."""
    if foreign := [name for name in FLAGS if FLAGS[name].present and name not in WITH_REPEAT]:
        raise UserError(f"--repeat takes its settings from the run's journal. Leave out --{foreign[0]}.")
    with contextlib.suppress(Exception):  # what is wrong with it is told below
        entry_of_stage = next(iter(files.read_sealed(FLAGS.repeat)["stages"].values()))
        os.environ.setdefault("KERAS_BACKEND", entry_of_stage["computed_with"]["backend"])
    entry.check_backend()
    from nhn_tf.stages import pipeline

    return pipeline.repeat(FLAGS.repeat, FLAGS.model_dir, **stage_flags.typed())


if __name__ == "__main__":
    main()
