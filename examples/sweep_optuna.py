"""Whole pipelines swept by Optuna: validation error against live parameters, in as many processes as there are.

    python examples/sweep_optuna.py runs/sweep --trials=20 --preset=demo
    python examples/sweep_optuna.py runs/sweep --trials=20 --preset=fast dataset=folder data_dir=photos image_size=32

Needs `pip install ".[optuna]"`. The same command in several terminals shares the study; interrupted or killed, it goes
on with the trial that was under way, where that was saved. Trials are chosen by validation images alone; the test
error stands beside them for the record.
"""

import argparse
import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import keras
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import nhn_tf
from nhn_tf.errors import UserError
from nhn_tf.runs import RunDirectory

# Settings by the names of `pipeline.py`.
SPACE = {
    "base_filters": IntDistribution(8, 24, step=4),
    "base_l2": FloatDistribution(1e-3, 3e-2, log=True),
    "prune_sparsity": FloatDistribution(0.5, 0.9),
}


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds a lock that ends with the process; yields whether it could be had."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield True
        except BlockingIOError:
            yield False


def next_trial(study: optuna.Study, directory: Path, space: dict, trials: int, held: contextlib.ExitStack):
    """A trial that a process has left unfinished, or a new one, locked within `held`; None when there are enough."""
    with locked(directory / "study.lock"):
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if held.enter_context(locked(directory / f"trial_{trial.number}.lock", wait=False)):
                return trial
        if len(study.get_trials(deepcopy=False)) >= trials:
            return None
        trial = study.ask(space)
        held.enter_context(locked(directory / f"trial_{trial.number}.lock"))
        return trial


def objectives(model_dir: Path, preset: str, settings: dict) -> tuple[float, float]:
    """Validation error in percent, and live parameters, of a pipeline, which is resumed if it has begun."""
    # What trains on the validation images cannot be chosen by them.
    nhn_tf.run.pipeline(model_dir=model_dir, preset=preset, **{**settings, "final_train_on_validation": False})
    final = RunDirectory(model_dir).stage("final").metrics
    return 100 * (1 - final["val_accuracy"]), final["live_params"]


def setting(text: str) -> tuple[str, object]:
    """name=value, where the value is a number, true, false or a text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of the study and its runs")
    parser.add_argument("settings", nargs="*", type=setting, help="name=value, the same in every trial")
    parser.add_argument("--trials", type=int, default=20, help="of all processes together")
    parser.add_argument("--preset", default="demo")
    args = parser.parse_intermixed_args()

    args.directory.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="nhn_tf",
        storage=JournalStorage(JournalFileBackend(str(args.directory / "study.log"))),
        directions=["minimize", "minimize"],
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        load_if_exists=True,
    )
    fixed = dict(args.settings)
    space = {name: values for name, values in SPACE.items() if name not in fixed}
    while True:
        with contextlib.ExitStack() as held:
            trial = next_trial(study, args.directory, space, args.trials, held)
            if trial is None:
                break
            model_dir = args.directory / f"trial_{trial.number}"
            try:
                values = objectives(model_dir, args.preset, {**fixed, **trial.params})
            except UserError as fault:  # settings that diverge, or do not go together
                print(f"trial {trial.number} failed: {fault}")
                study.tell(trial.number, state=TrialState.FAIL)
                continue
            study.tell(trial.number, values)
        keras.utils.clear_session()

    print(f"\n{'trial':>5} {'validation error':>17} {'live parameters':>16} {'test error':>11}  settings")
    for trial in sorted(study.best_trials, key=lambda trial: trial.values[1]):
        error, live = trial.values
        test_error = RunDirectory(args.directory / f"trial_{trial.number}").stage("final").metrics["test_error"]
        told = ", ".join(f"{name}={value:.3g}" for name, value in trial.params.items())
        print(f"{trial.number:>5} {error:>16.2f}% {live:>16,.0f} {test_error:>10.2f}%  {told}")


if __name__ == "__main__":
    main()
