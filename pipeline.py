"""Runs all seven stages, then writes the report.

    python pipeline.py --preset=demo --model_dir=runs/demo
    python pipeline.py --repeat=runs/demo/run.json --model_dir=runs/again

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
from flags.define import StageFlags
from nhn_tf.errors import UserError
from nhn_tf.settings.table import NAMES
from nhn_tf.storage import files

FLAGS = flags.FLAGS
# What may be given beside --repeat: it decides nothing about the result.
WITH_REPEAT = {"repeat", "model_dir", "debug", "data_dir", "cache_dir", "eval_batch_size", "steps_per_execution",
               "on_nan", "checkpoint_minutes"}  # fmt: skip


def main() -> None:
    stage_flags = StageFlags(
        NAMES,
        choose_stage=False,
        prefixed=True,
        texts={"repeat": "the run.json of a run whose stages shall run once more with the settings that it notes"},
    )
    result = entry.guarded(
        lambda: stage_flags.help_text(__doc__ or ""),
        lambda: repeat(stage_flags) if FLAGS.repeat else run(stage_flags),
    )
    if False in result.get("same", {}).values():
        sys.exit(1)


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
