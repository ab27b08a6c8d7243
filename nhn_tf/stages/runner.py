"""Runs one stage: what it builds on, whether it is done already, its data, and then its body.

A body is a function of (ready stage, feed, settings). It makes its network, begins the stage, and returns what the
stage finished with: what can be refused is refused before anything is written or, with `overwrite`, discarded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, Final

import keras

from nhn_tf import training
from nhn_tf.errors import UserError
from nhn_tf.layers import devices, own_op, processes
from nhn_tf.report.cells import counted
from nhn_tf.runs import NOT_IN_DIGEST, Done, ReadyStage, RunDirectory, RunError, Settings, StageRecord, lineage
from nhn_tf.runs.board import TENSORBOARD
from nhn_tf.runs.settings import identity
from nhn_tf.search.objective import Objective
from nhn_tf.settings import BaseConfig, DataConfig, EnasConfig, GradientConfig, PruneConfig, TrainConfig, stages
from nhn_tf.stages.feed import Feed, load_feed
from nhn_tf.storage import files
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import op_named

UNITS: Final = ("epoch", "cycle")
"""What the first column of a metrics.csv counts."""
MOST_BYTES: Final = 2**16
"""Of a file with an architecture: 64 layers take 5,000."""


def run(name: str, directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Runs the stage called `name`, or returns at once when it has finished with these settings.

    Returns:
      The content of the stage's done.json.

    Raises:
      UserError: the run directory, the data or a file does not admit it; nothing has been changed.
    """
    stage = stages.find(name)
    set_up(settings)
    if processes.count() > 1:
        return _run_together(stage, directory, settings)
    return _run(stage, directory, settings)


def _run_together(stage: stages.Stage, directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    """Runs a stage of several processes: rank 0 in the run's directory, the others with it, each in a copy of its own.

    They read, decide and compute the same. A stage that is not distributed is rank 0's alone.
    """
    # Rank 0 writes nothing until they have met again.
    processes.meet({"stage": stage.name, **_alike(settings)})
    with contextlib.ExitStack() as stack:
        own = directory
        if processes.rank() and _distributes(settings):
            own = RunDirectory(stack.enter_context(tempfile.TemporaryDirectory(dir=processes.scratch())))
            if directory.path.exists():
                left_out = shutil.ignore_patterns("lock", TENSORBOARD, f".*{files.TEMPORARY}")
                shutil.copytree(directory.path, own.path, ignore=left_out, dirs_exist_ok=True)
            settings = dataclasses.replace(settings, trackers=())
        processes.meet()
        runs = own is not directory or not processes.rank()
        done = _run(stage, own, settings) if runs else {}
    processes.meet()
    return done or directory.stage(stage.name).done.to_json()


def _alike(settings: Settings) -> dict[str, Any]:
    """What every process must have been given alike: all but where things lie and how often to save."""
    steps = {name: getattr(settings.compute, name) for name in ("eval_batch_size", "steps_per_execution", "on_nan")}
    return {**identity(settings.to_json()), **steps, "overwrite": settings.overwrite}


def _run(stage: stages.Stage, directory: RunDirectory, settings: Settings) -> dict[str, Any]:
    name = stage.name
    keras.utils.set_random_seed(settings.seed)
    with _on_devices(settings), directory.hold(preset=settings.preset, seed=settings.seed):
        ready = _ready(directory, stage, settings)
        moved = ready.done is not None and ready.record.config["data"]["data_dir"] != settings.data.data_dir
        if ready.done is None or moved:
            feed = load_feed(settings)
            ready.check_data(feed.data.digest)
        if ready.done is None:
            if settings.compute.distribute != "off":
                print(f"{name}: {_where(settings)}")
            return body(stage)(ready, feed, settings).to_json()
        print(f"{name}: already finished in {ready.record.path} ({ready.done.wall_s:.0f} s); nothing to do")
        if settings.trackers:
            _catch_up(ready, ready.done)
        return ready.done.to_json()


def _on_devices(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Within, the stage's networks are on all devices that it is to be trained on."""
    return devices.scope(settings.compute.distribute if _distributes(settings) else "off")


def _where(settings: Settings) -> str:
    if _distributes(settings):
        return f"each batch is shared among {counted(devices.count(), 'device')}"
    return "computed on one device; `distribute` shares the trainings of single networks"


def _distributes(settings: Settings) -> bool:
    """Whether a stage trains one network on many batches: searches go from one short training to the next."""
    config = settings.config
    return isinstance(config, TrainConfig) or (isinstance(config, PruneConfig) and config.schedule == "gradual")


def _catch_up(stage: ReadyStage, done: Done) -> None:
    """Tells the trackers of a finished stage what they have missed of it."""
    tracking = stage.tracking()
    try:
        tracking.catch_up([{k: v for k, v in row.items() if k not in UNITS} for row in stage.record.history])
    except UserError as error:
        print(f"warning: trackers are not told of its epochs: {error}")
    tracking.end(done.metrics)


def body(stage: stages.Stage) -> Callable[[ReadyStage, Feed, Settings], Done]:
    """The function that does a stage's work."""
    return pkgutil.resolve_name(f"nhn_tf.stages.{stage.run}")


def set_up(settings: Settings) -> None:
    """Makes the backend ready for a stage; before it computes anything, if it is to be deterministic."""
    training.set_up(settings.compute)


def check(settings: Mapping[str, Settings], *, begins: bool = False) -> None:
    """Looks at the settings of a pipeline, or of some of its stages, with their data, before the first stage runs.

    Args:
      settings: by stage.
      begins: whether every stage will begin anew; else a search that has finished need not be possible here.

    Raises:
      UserError: a stage would refuse later what can be seen now; the message names the stage.
    """
    for name, asked in settings.items():
        try:
            with _on_devices(asked):
                feed = load_feed(asked)
            if isinstance(asked.config, GradientConfig):
                feed.train(asked.config)
            if begins and isinstance(asked.config, EnasConfig):
                Objective(asked.config, feed.data.image_shape, feed.data.num_classes).check()
        except UserError as error:
            raise UserError(f"stage '{name}': {error}") from None
    configs = [asked.config for asked in settings.values()]
    enas = next((config for config in configs if isinstance(config, EnasConfig)), None)
    if enas is not None and "random_search" in settings and not enas.random_control:
        raise UserError("the control random_search trains what `enas_random_control` finds: leave that on.")
    base = next((config for config in configs if isinstance(config, BaseConfig)), None)
    if enas is None or base is None or base.genotype:
        return
    ops = [op_named(name) for name in enas.ops]
    full = {"conv", "separable_conv"} if base.separable_as_dense else {"conv"}
    widths = {enas.supernet_filters, *(base.filters * base.width_growth**i for i in range(enas.num_segments))}
    own = [own_op.check(op, filters) for op in ops if op.kind == "own" for filters in widths]
    if not any(op.kind in full for op in ops) and not any(map(own_op.is_full_convolution, own)):
        raise UserError(
            "the search can find no full convolution, and nothing else can be pruned.\n"
            "Give `enas_ops` that include one, or leave `base_separable_as_dense` on."
        )


def _ready(directory: RunDirectory, stage: stages.Stage, settings: Settings) -> ReadyStage:
    """The stage with what it builds on, compared with what is asked of it. Nothing is written."""
    if settings.architecture:
        return directory.ready(stage.name, settings, input_genotype=_read_architecture(settings.architecture))
    if stage.after is None:
        return directory.ready(stage.name, settings)
    source = _source(directory, stage.after, settings)
    inherited = source if stage.inherits else None
    if stage.weights_of:
        inherited = _source(directory, stage.weights_of, settings)
    return directory.ready(stage.name, settings, source=inherited, input_genotype=source.genotype())


def _source(directory: RunDirectory, name: str, settings: Settings) -> StageRecord:
    """The finished stage that another builds on, checked to be of the same data and seed and of the present base."""
    source = directory.require(name, settings)
    record, now = source.config, settings.data.to_json()
    before = {**DataConfig.from_json(record["data"]).to_json(), "seed": record["seed"]}
    now["seed"] = settings.seed  # it draws the validation images
    if changed := [name for name in now if name not in NOT_IN_DIGEST and before.get(name) != now[name]]:
        told = "; ".join(f"{name} {before.get(name)} -> {now[name]}" for name in changed)
        raise RunError(
            f"stage '{source.name}' in {source.run} ran on other data: {told}.\n"
            f"Give the same data settings and seed, or another `model_dir`."
        )
    _check_lineage(directory, source)
    return source


def _check_lineage(directory: RunDirectory, source: StageRecord) -> None:
    """Refuses a stage that began from weights that are gone, and one behind such a stage.

    Raises:
      RunError: it names the first stage to run again.
    """
    departed = lineage.departures(directory.stages)
    stage = source.stage
    while stage.after is not None and stage.inherits:
        if stage.name in departed and departed[stage.name].weights:
            raise RunError(
                f"stage '{stage.name}' in {directory.path} was begun on weights that no stage holds any more: a stage "
                f"before it has been run again since.\n"
                f"Run '{stage.name}' and the stages behind it again with `overwrite`."
            )
        stage = stages.find(stage.after)


def _read_architecture(given: str) -> Genotype:
    """The architecture in a file, or in a text of several lines."""
    try:
        text = given if "\n" in given else files.read_bytes(given, limit=MOST_BYTES).decode("utf-8")
        return Genotype.from_enas_text(text)
    except FileNotFoundError:
        raise UserError(f"`genotype`={given} is no architecture in ENAS's text form: there is no such file.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"`genotype`={given} is no architecture in ENAS's text form: {error}") from None
