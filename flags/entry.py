"""What the scripts share: parse the flags, act, print one line of JSON; a mistake is told in a sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from nhn_tf.errors import UserError
from nhn_tf.storage import modules, stopping, terminal
from nhn_tf.storage.commands import called, typed

from . import backend_choice, define
from .define import StageFlags

if TYPE_CHECKING:
    from nhn_tf.runs import RunDirectory, Settings
    from nhn_tf.runs.tracking import Tracker

FLAGS = flags.FLAGS
HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort"}


def main(
    doc: str, stages: Sequence[str], *, choose_stage: bool = True, groups: Mapping[str, Sequence[str]] = {}
) -> None:
    """Runs the stage that the command line names, or the only one there is.

    Args:
      doc: the command's docstring, the head of `--help`.
      stages: the stages that the script can run.
      choose_stage: whether `--stage` names the stage; otherwise there is one only.
      groups: further values of `--stage` that stand for several stages, run in turn.
    """
    stage_flags = StageFlags(stages, choose_stage=choose_stage, groups=groups)

    def action() -> dict[str, Any]:
        chosen = FLAGS.stage if choose_stage else stages[0]
        if chosen is None:
            raise UserError(f"--stage is missing. Give one of: {', '.join([*stages, *groups])}.")
        asked = stage_flags.configured(*groups.get(chosen, (chosen,)))
        check_backend()
        from nhn_tf import stages as stage_functions  # Keras loads only once the flags are known to be right

        done: dict[str, Any] = {}
        told = trackers()
        for stage in groups.get(chosen, (chosen,)):
            done = stage_functions.run(stage, run_directory(), settings(asked, stage, told))
        return done

    guarded(lambda: stage_flags.help_text(doc), action)


def check_backend() -> None:
    """Refuses a Keras backend that is not supported or not installed, before Keras tries to load it."""
    backend_choice.prepare()


def define_reading(model_dir: str = "the run's directory", *, quiet: bool = True) -> None:
    """Defines what a script that reads a run takes: --model_dir, --own_ops, --debug and, if it is to be, --quiet.

    Args:
      model_dir: what --model_dir names.
      quiet: whether there is --quiet.
    """
    flags.DEFINE_string("model_dir", None, model_dir)
    flags.DEFINE_list("own_ops", [], "modules to import that register ops of your own, if the network has any")
    define.define_telling(quiet=quiet)


def run_to_read() -> str:
    """The directory that `define_reading`'s --model_dir names.

    Raises:
      UserError: it is not given.
    """
    if not FLAGS.model_dir:
        raise UserError("--model_dir is missing. Give the directory of a run: --model_dir=runs/demo")
    return FLAGS.model_dir


def has_accelerator() -> bool:
    """Whether this machine has an Nvidia GPU at hand, as far as can be told without loading a backend."""
    return os.path.exists("/dev/nvidia0") and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")


def stay_on_the_processor() -> None:
    """Keeps backends off other devices, where every format of an export can be compared; before Keras loads."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def guarded(
    help_text: Callable[[], str], action: Callable[..., dict[str, Any] | None], *, takes_arguments: bool = False
) -> dict[str, Any]:
    """Parses the flags, calls `action`, prints its result, if it has one, and returns it.

    Args:
      help_text: makes what `--help` prints.
      action: what the script does.
      takes_arguments: whether it is called with what stands on the command line beside the flags.

    Returns:
      The result; {} if there is none, or only help was wanted.

    Exits with 2 when the user made a mistake, with 128 + the signal when one has ended it (`nhn_tf.storage.stopping`).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _open_what_is_closed()
    stopping.listen()
    terminal.take_over()
    try:
        result = _act(help_text, action, takes_arguments)
        sys.stdout.flush()  # at the very end a reader who has gone would be an error
        _end_together(0)
        return result
    except flags.UnrecognizedFlagError as error:
        known = [
            flag.name for module, own in FLAGS.flags_by_module_dict().items() if "absl" not in module for flag in own
        ]
        print(f"error: {define.unknown(error.flagname, known)}", file=sys.stderr)
        sys.exit(2)
    except (flags.Error, UserError) as error:
        if "--debug" in sys.argv[1:]:
            raise
        print(f"error: {in_flags(str(error))}", file=sys.stderr)
        _end_together(2)
        sys.exit(2)
    except stopping.Stopped as stopped:
        if stopped.signal != signal.SIGPIPE or stopped.saved:  # else as any program whose reader has had enough
            _say_how_to_go_on(stopped)
        _end_together(128 + stopped.signal)
        sys.exit(128 + stopped.signal)
    except Exception as error:
        _fail_together(error)
        raise


def _join() -> bool:
    """Joins this process to those that train together, if it is one of several; whether another one tells the result.

    Raises:
      UserError: they cannot be joined.
    """
    if "distribute" not in FLAGS:
        return False
    who = {name: FLAGS[name].value for name in ("coordinator", "rank", "ranks")}
    if FLAGS.distribute != "jax":
        if given := [name for name, value in who.items() if value is not None]:
            raise UserError(f"--{given[0]} goes with --distribute=jax.")
        return False
    check_backend()
    if os.environ["KERAS_BACKEND"] != "jax":
        return False  # told by those who know what may be given
    from nhn_tf.layers import backend, processes

    if FLAGS.deterministic:
        backend.make_deterministic()  # which is too late once devices are known
    processes.join(**who)
    return processes.rank() > 0


def _end_together(code: int) -> None:
    """Ends with the processes that this one trains with, if there are any."""
    if processes := sys.modules.get("nhn_tf.layers.processes"):
        processes.end(code)


def _fail_together(error: Exception) -> None:
    """Ends this process, if it is one of several: they can neither go on nor end in order."""
    processes = sys.modules.get("nhn_tf.layers.processes")
    if processes is None or processes.count() == 1:
        return
    if processes.is_loss(error) and "--debug" not in sys.argv[1:]:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
    else:
        traceback.print_exc()
    processes.end(1, told=False)


def _open_what_is_closed() -> None:
    """Gives a process that was begun without standard streams, `>&-`, ones that lead nowhere.

    Else the first file that is opened would be where native code writes its messages.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115


def _act(
    help_text: Callable[[], str], action: Callable[..., dict[str, Any] | None], takes_arguments: bool
) -> dict[str, Any]:
    if HELP & set(sys.argv[1:]):
        print(typed(help_text()))
        return {}
    FLAGS.set_gnu_getopt(takes_arguments)  # flags may stand behind arguments
    rest = FLAGS(sys.argv)[1:]
    if rest and not takes_arguments:
        raise UserError(f"unexpected argument {rest[0]!r}; settings are written --name=value.")
    follows = _join()
    out = terminal.be_quiet() if follows or ("quiet" in FLAGS and FLAGS.quiet) else sys.stdout
    if "own_ops" in FLAGS and FLAGS.own_ops:
        check_backend()
        for name in FLAGS.own_ops:
            modules.load(name, "own_ops")
    result = action(*rest)
    if result is None or follows:
        return {}
    print(json.dumps(result, sort_keys=True), file=out)
    return result


def in_flags(message: str) -> str:
    """A library's message with its `fields` written as the user writes them, --field, or --stage_field if need be."""
    stage = re.match(r"stage '(\w+)'", message)

    def flag(match: re.Match) -> str:
        if match[1] == "overwrite" and stage and not isinstance(FLAGS["overwrite"], flags.BooleanFlag):
            return f"--overwrite={stage[1]}"
        names = ([f"{stage[1]}_{match[1]}"] if stage else []) + [match[1]]
        return next((f"--{name}" for name in names if name in FLAGS), match[0])

    return re.sub(r"`(\w+)`", flag, message)


def _say_how_to_go_on(stopped: stopping.Stopped) -> None:
    where = stopped.saved or "what was finished or saved before stays"
    # What there is by now is not to be discarded by the very command that goes on with it.
    words = [word for word in sys.argv if word.lstrip("-").split("=")[0] != "overwrite"]
    print(f"\nstopped by {stopping.name_of(stopped.signal)}; {where}. Go on with:\n  {called(words)}", file=sys.stderr)


def run_directory() -> RunDirectory:
    """The run directory that the flags name."""
    from nhn_tf.runs import RunDirectory

    return RunDirectory(FLAGS.model_dir or os.path.join("runs", FLAGS.preset))


def settings(asked: dict[str, Any], stage: str, told: tuple[Tracker, ...]) -> Settings:
    """The configurations of `StageFlags.configured` as a stage wants them; `told` are its trackers."""
    from nhn_tf.runs import Settings

    return Settings(
        config=asked[stage],
        data=asked["data"],
        compute=asked["compute"],
        seed=FLAGS.seed,
        preset=define.chosen_preset(FLAGS)[1],
        overwrite=FLAGS.overwrite,
        trackers=told,
    )


def trackers() -> tuple[Tracker, ...]:
    """The trackers that the flags name."""
    from nhn_tf.runs.tracking import resolve

    try:
        return resolve(name.strip() for name in FLAGS.tracker)
    except TypeError as error:
        raise UserError(str(error)) from None
