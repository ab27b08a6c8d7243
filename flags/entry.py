"""What the scripts share: parse the flags, run one stage, print one line of JSON; a mistake is told in a sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from flags import define
from nhn_tf.errors import UserError

FLAGS = flags.FLAGS


def main(doc: str, stages: Sequence[str], *, choose_stage: bool = True) -> None:
    """Runs the stage that the command line names, or the only one there is.

    Args:
      doc: the script's docstring, the head of `--help`.
      stages: the stages that the script can run.
      choose_stage: whether `--stage` names the stage; otherwise there is one only.
    """
    define.define(stages, choose_stage=choose_stage)
    guarded(doc, stages, lambda: run_stage(FLAGS.stage if choose_stage else stages[0], stages))


def guarded(doc: str, stages: Sequence[str], action: Callable[[], dict[str, Any]]) -> None:
    """Parses the flags, calls `action` and prints its result; exits with 2 when the user made a mistake."""
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(sys.argv[1:]):
        print(define.help_text(doc, stages))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        rest = FLAGS(sys.argv)[1:]
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}; settings are written --name=value.")
        result = action()
    except (flags.Error, UserError) as error:
        if "--debug" in sys.argv[1:]:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result, sort_keys=True))


def run_stage(stage: str | None, stages: Sequence[str]) -> dict[str, Any]:
    """Runs one stage as the parsed flags say.

    Returns:
      The content of the stage's done.json.
    """
    if stage is None:
        raise UserError(f"--stage is missing. Give one of: {', '.join(f'--stage={name}' for name in stages)}.")
    _, parts = define.configured(stage)
    from nhn_tf import runs  # Keras loads only once the flags are known to be right
    from nhn_tf import stages as stage_functions

    settings = runs.Settings(
        config=parts[stage],
        data=parts["data"],
        compute=parts["compute"],
        seed=FLAGS.seed,
        preset=FLAGS.preset,
        overwrite=FLAGS.overwrite,
    )
    run = runs.RunDirectory(FLAGS.model_dir or os.path.join("runs", FLAGS.preset))
    return stage_functions.run(stage, run, settings)
