"""What the scripts share: parse the flags, act, print one line of JSON; a mistake is told in a sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from flags.define import StageFlags
from nhn_tf.errors import UserError

if TYPE_CHECKING:
    from nhn_tf.runs import RunDirectory, Settings

FLAGS = flags.FLAGS
HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort"}


def main(doc: str, stages: Sequence[str], *, choose_stage: bool = True) -> None:
    """Runs the stage that the command line names, or the only one there is.

    Args:
      doc: the script's docstring, the head of `--help`.
      stages: the stages that the script can run.
      choose_stage: whether `--stage` names the stage; otherwise there is one only.
    """
    stage_flags = StageFlags(stages, choose_stage=choose_stage)

    def action() -> dict[str, Any]:
        stage = FLAGS.stage if choose_stage else stages[0]
        if stage is None:
            raise UserError(f"--stage is missing. Give one of: {', '.join(f'--stage={name}' for name in stages)}.")
        asked = stage_flags.configured(stage)
        from nhn_tf import stages as stage_functions  # Keras loads only once the flags are known to be right

        return stage_functions.run(stage, run_directory(), settings(asked, stage))

    guarded(lambda: stage_flags.help_text(doc), action)


def guarded(help_text: Callable[[], str], action: Callable[[], dict[str, Any]]) -> None:
    """Parses the flags, calls `action` and prints its result; exits with 2 when the user made a mistake."""
    if HELP & set(sys.argv[1:]):
        print(help_text())
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


def run_directory() -> RunDirectory:
    """The run directory that the flags name."""
    from nhn_tf.runs import RunDirectory

    return RunDirectory(FLAGS.model_dir or os.path.join("runs", FLAGS.preset))


def settings(asked: dict[str, Any], stage: str) -> Settings:
    """The configurations of `StageFlags.configured` as a stage wants them."""
    from nhn_tf.runs import Settings

    return Settings(
        config=asked[stage],
        data=asked["data"],
        compute=asked["compute"],
        seed=FLAGS.seed,
        preset=FLAGS.preset,
        overwrite=FLAGS.overwrite,
    )
