"""The whole run: its stages in their order, then the report. `nhn_tf.run` is this module."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from nhn_tf.data import arrays, datasets
from nhn_tf.data.splits import Source
from nhn_tf.errors import RunError, UserError
from nhn_tf.layers import devices, processes
from nhn_tf.report import cells, family, write_report
from nhn_tf.runs import RunDirectory, Settings, journal
from nhn_tf.runs.board import TENSORBOARD
from nhn_tf.runs.event_writer import EventWriter
from nhn_tf.runs.session import code
from nhn_tf.runs.settings import Behind
from nhn_tf.runs.tracking import Tracker, resolve
from nhn_tf.settings import PRESETS, Preset
from nhn_tf.settings.plan import Plan, in_minutes, parse_seconds
from nhn_tf.settings.presets import PAPER, of_stages
from nhn_tf.settings.stages import BORROWING, CONTROL_NAMES, NAMES, building_on
from nhn_tf.stages import estimating, planning, repeating, runner
from nhn_tf.stages.feed import forget_data, load_feed
from nhn_tf.storage import files
from nhn_tf.storage.commands import typed

# What a stage's row of the table shows beside its time.
FIGURES: Final = (
    "test_accuracy", "val_accuracy", "random_search_val_accuracy", "val_reward", "random_search_val_reward",
    "live_params", "kernel_sparsity", "pointwise_sparsity", "addons",
)  # fmt: skip
IMAGES: Final = "images.npz"
"""Within a run's directory, the arrays that it was given."""

Row = tuple[str, dict[str, Any], str]


def pipeline(
    x: np.ndarray | None = None,
    y: Sequence | None = None,
    *,
    model_dir: str | os.PathLike[str],
    val: tuple[np.ndarray, Sequence] | None = None,
    test: tuple[np.ndarray, Sequence] | None = None,
    class_names: Sequence[str] | None = None,
    preset: str | Preset | None = None,
    seed: int = 0,
    overwrite: bool | str = False,
    time_limit: str | float | None = None,
    baseline: bool = True,
    trackers: Sequence[str | Tracker] = (),
    **changes: Any,
) -> dict[str, Any]:
    """Searches, trains, prunes, grows and reports; called again, it resumes where it stopped.

        nhn_tf.run.pipeline(images, labels, model_dir="runs/mine", preset="demo", base_epochs=60)
        nhn_tf.run.pipeline(model_dir="runs/photos", dataset="folder", data_dir="photos", image_size=32)

    Args:
      x: training images [N, H, W] or [N, H, W, C], C of 1 or 3, uint8 or floating-point numbers in [0, 1]; they are
        kept in the run's directory. None where `dataset` and `data_dir` say where images are.
      y: what they show, whole numbers from 0 or names, [N].
      model_dir: the run's directory.
      val: validation images and labels; None holds some of `x` out.
      test: test images and labels, likewise.
      class_names: the name of each number in `y`.
      preset: where every setting comes from that is not given; "fast" without a time limit.
      seed: of everything random.
      overwrite: begin again, discarding what the directory holds; a stage's name discards it and what builds on it.
      time_limit: for everything, "20m" or a number of minutes: what is done in it is planned by a measurement of this
        machine; `changes` stand all the same.
      baseline: with a time limit, whether to train a plain network too, for as long as the base.
      trackers: who is told of every stage while it goes on, "mlflow" or objects of one's own: see `runs.tracking`.
      **changes: settings, as `pipeline.py` names them: those of one stage carry its name, such as `base_epochs`.

    Returns:
      What `write_report` returns, and the wall seconds of each stage under "wall_s".

    Raises:
      ValueError: there is no such preset or setting, or a value is out of range.
      UserError: data, directory or settings do not admit the run; nothing has been changed.
    """
    if (x is None) != (y is None):
        raise ValueError("`x` and `y` must be given together.")
    if x is None and (val, test, class_names) != (None, None, None):
        raise ValueError("`val`, `test` and `class_names` go with `x` and `y`.")
    discarded(overwrite)  # may refuse
    told = resolve(trackers)
    limit_s = None if time_limit is None else parse_seconds(str(time_limit))
    chosen, name = _preset(preset, timed=limit_s is not None)
    chosen = chosen.replaced(**changes)
    directory = RunDirectory(model_dir)
    if x is not None and y is not None:
        datasets.from_arrays(x, y, chosen.data, seed=seed, val=val, test=test, class_names=class_names)  # may refuse
        source = arrays.read(x, y, val, test, class_names)
        with directory.hold(preset=name, seed=seed):
            path = _keep(source, directory, overwrite=overwrite is True)
        chosen = chosen.replaced(dataset="arrays", data_dir=str(path))
    if limit_s is not None:
        options: dict[str, Any] = {"baseline": baseline, "overwrite": overwrite, "typed": of_stages(changes)}
        return run_timed(directory, chosen, limit_s=limit_s, seed=seed, trackers=told, **options)
    settings = {stage: Settings.of(chosen, stage, seed=seed, name=name, trackers=told) for stage in NAMES}
    return run(directory, settings, overwrite=overwrite)


def chosen_controls(names: Sequence[str]) -> tuple[str, ...]:
    """The controls called so, in the order of their table; "all" names every one.

    Raises:
      ValueError: there is no such control.
    """
    if unknown := [name for name in names if name not in (*BORROWING, "all")]:
        raise ValueError(f"`controls` must be among all, {', '.join(BORROWING)}. Received: {unknown[0]!r}.")
    return tuple(name for name in BORROWING if name in names or "all" in names)


def _preset(preset: str | Preset | None, *, timed: bool) -> tuple[Preset, str]:
    """The preset that a call means, and its name if it has one."""
    if timed and preset is not None:
        raise ValueError("`preset` and `time_limit` exclude each other: the time decides every setting.")
    if isinstance(preset, Preset):
        return preset, ""
    if timed:
        return PAPER, ""
    name = preset or "fast"
    if name not in PRESETS:
        raise ValueError(f"`preset` must be among {', '.join(PRESETS)}. Received: {preset!r}.")
    return PRESETS[name], name


def _keep(source: Source, directory: RunDirectory, *, overwrite: bool) -> Path:
    """Keeps arrays in a run's directory, unless they are there.

    Raises:
      RunError: the run was given others.
    """
    path = directory.path / IMAGES
    if path.exists() and not overwrite:
        if arrays.digest(arrays.load(path)) != arrays.digest(source):
            raise RunError(f"{directory.path} was given other images. Give those, another `model_dir`, or `overwrite`.")
        return path
    arrays.save(path, source)
    forget_data()
    return path


def run(
    directory: RunDirectory,
    settings: Mapping[str, Settings],
    *,
    overwrite: bool | str = False,
    remark: Callable[[str, dict[str, Any]], str] = lambda stage, done: "",
    others: Sequence[RunDirectory] = (),
) -> dict[str, Any]:
    """Runs the stages that are not finished yet, in their order, and reports.

    Args:
      directory: the run's.
      settings: of each stage, by name.
      overwrite: discard what the stages have left first, or, of a stage's name, what it and those that build on it
        have. At once, so that an interrupted call is resumed without it.
      remark: what to say of a stage and the content of its done.json, in front of its result.
      others: runs whose finished stages tell how long the same ones will take here.

    Returns:
      What `write_report` returns, and the wall seconds of each stage under "wall_s".

    Raises:
      UserError: data, directory or settings do not admit it; nothing has been changed.
    """
    first = next(iter(settings.values()))
    runner.set_up(first)
    gone = discarded(overwrite)
    runner.check(settings, begins="enas" in gone)
    if gone and not processes.rank():
        directory.discard(gone, preset=first.preset, seed=first.seed)
    rows: list[Row] = []
    for stage, asked in settings.items():
        known = estimating.behind(stage, settings, directory, others)
        done = runner.run(stage, directory, dataclasses.replace(asked, behind=known))
        rows.append((stage, done, remark(stage, done)))
        print(f"\n{table(rows)}\n", flush=True)
    return {} if processes.rank() else _reported(directory, rows)


def discarded(overwrite: bool | str) -> tuple[str, ...]:
    """The stages and controls that `overwrite` discards.

    Raises:
      ValueError: it is no stage's name.
    """
    if isinstance(overwrite, str):
        return building_on(overwrite)
    return (*NAMES, *CONTROL_NAMES) if overwrite else ()


def begun_stages(directories: Iterable[RunDirectory]) -> dict[str, str]:
    """The stages and controls that runs hold anything of, to how long they took: 0:12:31, or "unfinished"."""
    records = [directory.stage(name) for directory in directories for name in (*NAMES, *CONTROL_NAMES)]
    return {
        str(record.path): cells.clock(record.done.wall_s) if record.is_done else record.state
        for record in records
        if record.has_begun
    }


def run_family(
    path: str | os.PathLike[str], settings: Mapping[int, Mapping[str, Settings]], *, overwrite: bool | str = False
) -> dict[str, Any]:
    """Runs a pipeline for each of several seeds, each in a directory of its own, and reports on them together.

    Args:
      path: the directory that holds the runs' directories.
      settings: by seed, what `run` takes.
      overwrite: as for `run`.

    Returns:
      What `write_family` returns.

    Raises:
      UserError: data, a directory or settings do not admit it; nothing has been changed.
    """
    path = Path(path).expanduser()
    if (path / journal.NAME).exists():
        raise RunError(f"{path} holds a run of one seed. Give another `model_dir` for several.")
    directories = {seed: RunDirectory(family.directory_of(path, seed)) for seed in settings}
    gone = discarded(overwrite)
    for asked in settings.values():
        runner.set_up(next(iter(asked.values())))
        runner.check(asked)
    if gone and not processes.rank():
        for seed, directory in directories.items():
            preset = next(iter(settings[seed].values())).preset
            directory.discard(gone, preset=preset, seed=seed)
    for seed, directory in directories.items():
        print(f"seed {seed}: {directory.path}", flush=True)
        run(directory, settings[seed], others=[other for other in directories.values() if other is not directory])
        written = {} if processes.rank() else family.write_family(path)
        keras.utils.clear_session()  # each seed's networks would stay in memory
    if written:
        print(f"Report: {written['report']}", flush=True)
    return written


def run_timed(
    directory: RunDirectory,
    asked: Preset,
    *,
    limit_s: float,
    seed: int = 0,
    baseline: bool = True,
    overwrite: bool | str = False,
    typed: Mapping[str, Any] = {},
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Plans a run for a time limit, runs it, and reports; resumed, it follows the plan that it began with.

    Args:
      directory: the run's.
      asked: where the settings of data and computing come from.
      limit_s: seconds for everything.
      seed: of everything random.
      baseline: whether to train the plain network too.
      overwrite: as for `run`; of a stage's name the plan stays.
      typed: settings that stand whatever is planned, as `Preset.replaced` takes them.
      trackers: who is told of every stage.

    Returns:
      As `run`, under "left_out" why which stages were left out, and under "took_s" the seconds of the whole run.

    Raises:
      UserError: data, directory or settings do not admit it, or the limit is too short; nothing has been changed.
    """
    if processes.count() > 1:
        raise UserError("`time_limit` plans for one process. Give a `preset` where several train together.")
    began = time.monotonic()
    some = Settings(asked.base.replaced(batch_size=1), asked.data, asked.compute, seed=seed)
    runner.set_up(some)
    feed = load_feed(some)
    gone = discarded(overwrite)
    plan = None if overwrite is True else _noted_plan(directory, limit_s)
    typed = {**(plan.typed if plan else {}), **typed}
    try:
        if plan is None:
            images = f"{len(feed.data.train):,} images"
            print(f"measuring this machine on {images} for a plan of {in_minutes(limit_s)}", flush=True)
            with devices.scope(asked.compute.distribute):
                sharing = devices.count()
            machine = planning.measure(feed, devices=sharing, limit_s=limit_s, spent_s=time.monotonic() - began)
            spent_s = time.monotonic() - began
            plan = planning.make(machine, asked, limit_s=limit_s, spent_s=spent_s, baseline=baseline, typed=typed)
        preset = dataclasses.replace(plan.preset, data=asked.data, compute=asked.compute).replaced(**typed)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{error}\nThe other settings are planned: leave it out, or give those that it needs."
        ) from None
    plan = dataclasses.replace(plan, preset=preset, typed=dict(typed), seed=seed)
    runner.check({stage: Settings.of(preset, stage, seed=seed) for stage in plan.stages})
    if gone:
        directory.discard(gone, seed=seed)
    print(f"\n{plan.table()}\n", flush=True)
    rows: list[Row] = []
    passed: list[str] = []
    while ahead := [name for name in plan.stages if name not in passed]:  # planning again may leave stages out
        stage = ahead[0]
        since, finished = time.monotonic(), directory.stage(stage).is_done
        _note(directory, plan, seed)
        settings = Settings.of(plan.preset, stage, seed=seed, trackers=trackers)
        done = runner.run(stage, directory, dataclasses.replace(settings, behind=Behind(plan.behind(stage))))
        rows.append((stage, done, ""))
        passed.append(stage)
        print(f"\n{table(rows)}\n", flush=True)
        if not finished:
            took = max(done["wall_s"], time.monotonic() - since)
            machine = planning.as_seen(planning.Machine(**plan.machine), plan, stage, took)
            before, plan = plan, planning.replan(plan, machine, done=passed, spent_s=plan.spent_s + took)
            if news := plan.news(before):
                print(f"planned again, by the time that is left: {news}\n", flush=True)
    _note(directory, plan, seed)
    since = time.monotonic()
    reported = _reported(directory, rows, plan)
    took_s = plan.spent_s + time.monotonic() - since
    _tell_time(took_s, plan)
    return {**reported, "left_out": dict(plan.left_out), "took_s": round(took_s, 1)}


def _tell_time(took_s: float, plan: Plan) -> None:
    """Says how long the whole run took; on standard error, as a warning, where that is more than its limit."""
    limit = in_minutes(plan.limit_s)
    if took_s <= plan.limit_s:
        print(f"The run took {took_s / 60:.1f} of {limit}.\n", flush=True)
        return
    why = "this machine was slower than when it was measured"
    also = ", or the settings that were given take longer" if plan.typed else ""
    print(
        f"warning: the run took {took_s / 60:.1f} minutes, more than its limit of {limit}: {why}{also}",
        file=sys.stderr,
        flush=True,
    )


def _note(directory: RunDirectory, plan: Plan, seed: int) -> None:
    with directory.hold(seed=seed):
        directory.journal.note_plan(plan.to_json())
        _show(directory, plan)


def _show(directory: RunDirectory, plan: Plan | None, verdict: Sequence[str] = ()) -> None:
    """Tells TensorBoard the plan and the verdict of a run, in place of what it was told before."""
    events = EventWriter(directory.path / TENSORBOARD)
    if plan is not None:
        events.text("plan", code(plan.table()), 0)
    if verdict:
        events.text("verdict", "\n\n".join(verdict), 0)
    events.close()


def _noted_plan(directory: RunDirectory, limit_s: float) -> Plan | None:
    """The plan that a run is under, if there is one.

    Raises:
      UserError: it is for another time, of another version, or lost.
    """
    again = "Give another `model_dir`, or `overwrite` to begin the run again."
    try:
        plan = Plan.noted(directory.journal.read(), directory.path)
    except (FileNotFoundError, files.DamagedFileError):
        plan = None
    if plan is None:
        if any(record.has_begun for record in directory.stages.values()):
            raise RunError(f"{directory.path} holds stages, but no plan for a time limit.\n{again}")
        return None
    if plan.limit_s != limit_s:
        raise RunError(
            f"{directory.path} was planned for {in_minutes(plan.limit_s)}.\n"
            f"Give `time_limit`={plan.limit_s / 60:g}m. Or: {again}"
        )
    return plan


def _reported(directory: RunDirectory, rows: Sequence[Row], plan: Plan | None = None) -> dict[str, Any]:
    report = write_report(directory.path)
    _show(directory, plan, report["verdict"])
    predict = f"{typed('nhn-predict')} --model_dir={shlex.quote(str(directory.path))} PICTURE"
    print(*report["verdict"], f"Report: {report['html']}", f"Predict: {predict}", "", sep="\n", flush=True)
    return {**report, "wall_s": {stage: done["wall_s"] for stage, done, _ in rows}}


def repeat(
    path: str | os.PathLike[str],
    model_dir: str | os.PathLike[str] | None = None,
    *,
    trackers: Sequence[Tracker] = (),
    **changes: Any,
) -> dict[str, Any]:
    """Runs a run once more from its journal, and compares what each stage leaves with what it left the first time.

    Args:
      path: the run.json of the run.
      model_dir: where to; by default beside the run, `-repeat` behind its name.
      trackers: who is told of every stage.
      **changes: settings that decide nothing about the result, such as `data_dir`.

    Returns:
      As `run`, and under "same" whether each stage left the same bits; None for one that had not finished.

    Raises:
      UserError: the journal, the data or the directory do not admit it.
    """
    path = Path(path)
    noted = repeating.read(path, changes)
    directory = RunDirectory(model_dir or f"{path.resolve().parent}-repeat")
    if directory.path.resolve() == path.resolve().parent:
        raise RunError(f"`model_dir`={directory.path} holds the very run. Give another directory to repeat it in.")
    runner.set_up(next(iter(noted.values())).settings)
    repeating.check(path, noted)
    same: dict[str, bool | None] = {}

    def compare(stage: str, done: dict[str, Any]) -> str:
        same[stage] = noted[stage].same(done)
        return {True: "same bits: ", False: "OTHER BITS: ", None: "was not finished: "}[same[stage]]

    told = tuple(trackers)
    settings = {name: dataclasses.replace(stage.settings, trackers=told) for name, stage in noted.items()}
    return {**run(directory, settings, remark=compare), "same": same}


def table(rows: Sequence[Row]) -> str:
    """Finished stages with their time, result and remark."""
    lines = [f"{'stage':<14} {'time':>9}  result"]
    for stage, done, remark in rows:
        found = [(name, done["metrics"].get(name)) for name in FIGURES]
        result = ", ".join(f"{name} {_number(value)}" for name, value in found if value is not None)
        lines.append(f"{stage:<14} {done['wall_s']:>7.0f} s  {remark}{result}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
