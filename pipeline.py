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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from flags import entry
from flags.define import StageFlags
from nhn_tf.errors import UserError
from nhn_tf.settings.table import NAMES
from nhn_tf.storage import files

FLAGS = flags.FLAGS
# What a stage's row of the table shows beside its time.
FIGURES = ("test_accuracy", "val_accuracy", "random_search_val_accuracy", "live_params", "kernel_sparsity", "addons")
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
    """Runs what is not finished yet, in order, and reports.

    Returns:
      What `report.write_report` returns, and the wall seconds of each stage under "wall_s".
    """
    asked = {stage: stage_flags.configured(stage) for stage in NAMES}
    entry.check_backend()
    from nhn_tf import stages  # Keras loads only once the flags are known to be right

    settings = {stage: entry.settings(parts, stage) for stage, parts in asked.items()}
    directory = entry.run_directory()
    stages.check(settings)
    if FLAGS.overwrite:  # at once, so that an interrupted call goes on without the flag
        stages.set_up(next(iter(settings.values())))
        directory.discard(NAMES, preset=FLAGS.preset, seed=FLAGS.seed)
        settings = {stage: dataclasses.replace(asked, overwrite=False) for stage, asked in settings.items()}
    return run_stages(directory, settings, lambda stage, done: "")


def repeat(stage_flags: StageFlags) -> dict[str, Any]:
    """Runs the stages that the journal `--repeat` notes, in a directory of their own.

    Returns:
      As `run`, and under "same" whether each stage left the same bits; None for one that had not finished.
    """
    if foreign := [name for name in FLAGS if FLAGS[name].present and name not in WITH_REPEAT]:
        raise UserError(f"--repeat takes its settings from the run's journal. Leave out --{foreign[0]}.")
    path = Path(FLAGS.repeat)
    with contextlib.suppress(Exception):  # what is wrong with it is told below
        entry_of_stage = next(iter(files.read_sealed(path)["stages"].values()))
        os.environ.setdefault("KERAS_BACKEND", entry_of_stage["computed_with"]["backend"])
    entry.check_backend()
    from nhn_tf import stages
    from nhn_tf.runs import RunDirectory
    from nhn_tf.stages import repeating

    noted = repeating.read(path, stage_flags.typed())
    directory = RunDirectory(FLAGS.model_dir or f"{path.resolve().parent}-repeat")
    if directory.path.resolve() == path.resolve().parent:
        raise UserError(f"--model_dir={directory.path} holds the very run. Give another directory to repeat it in.")
    stages.set_up(next(iter(noted.values())).settings)
    repeating.check(path, noted)
    same: dict[str, bool | None] = {}

    def compare(stage: str, done: dict[str, Any]) -> str:
        same[stage] = noted[stage].same(done)
        return {True: "same bits: ", False: "OTHER BITS: ", None: "was not finished: "}[same[stage]]

    settings = {name: stage.settings for name, stage in noted.items()}
    stages.check(settings)
    return {**run_stages(directory, settings, compare), "same": same}


def run_stages(
    directory: Any, settings: Mapping[str, Any], remark: Callable[[str, dict[str, Any]], str]
) -> dict[str, Any]:
    """Runs stages in their order, with a table after each whose results have a remark in front, and reports."""
    from nhn_tf import stages
    from nhn_tf.report import write_report

    rows = []
    for stage, asked in settings.items():
        done = stages.run(stage, directory, asked)
        rows.append((stage, done, remark(stage, done)))
        print(f"\n{table(rows)}\n", flush=True)
    report = write_report(directory.path)
    return {**report, "wall_s": {stage: done["wall_s"] for stage, done, _ in rows}}


def table(rows: list[tuple[str, dict[str, Any], str]]) -> str:
    """Finished stages with their time, result and remark."""
    lines = [f"{'stage':<14} {'time':>9}  result"]
    for stage, done, remark in rows:
        found = [(name, done["metrics"].get(name)) for name in FIGURES]
        result = ", ".join(f"{name} {_number(value)}" for name, value in found if value is not None)
        lines.append(f"{stage:<14} {done['wall_s']:>7.0f} s  {remark}{result}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


if __name__ == "__main__":
    main()
