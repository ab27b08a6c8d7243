"""Plans a run for a time limit: measures this machine on this data, then chooses width, epochs, and what is left out.

The measure is two short epochs of the base network at two widths, from which a step takes
`fixed_s + rate_s * multiply-adds`. After each stage the rest is planned again, with the time that is left and at the
speed that the stage had.

Stages are left out in the order of what they gave where it was measured (docs/experiments.md): first the two searches
of add-ons and the training behind them, whose gain was that of training longer, and the search of an architecture,
whose best was that of random search; the network is then `ARCHITECTURE`. Then pruning, without which a network is
larger, but no worse.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import keras

from nhn_tf import training
from nhn_tf.errors import UserError
from nhn_tf.models import complexity, network, plain_cnn
from nhn_tf.settings import (
    BaseConfig,
    BaselineConfig,
    EnasConfig,
    FinalConfig,
    LdsConfig,
    PruneConfig,
    RetrainConfig,
    TrainConfig,
)
from nhn_tf.settings.plan import Plan
from nhn_tf.settings.presets import DEMO, Preset
from nhn_tf.stages.feed import Feed, work_of_an_image
from nhn_tf.training import optimizers
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype

ARCHITECTURE: Final = "0\n0 0\n0 0 0\n0 0 0 0\n0 0 0 0 0\n0 0 0 0 0 0\n"
"""Six 3x3 convolutions in three segments, without skips; in ENAS's text form."""
LAYER_FORM: Final = "direct"
"""1x1 convolutions take as long as 3x3 ones in training, and most of the time of a pruned network."""
WIDTHS: Final = (8, 12, 16, 20, 24, 32, 48)
MEASURED: Final = (8, 24)
"""Widths whose steps are timed."""
PARAMS_OF_A_NUMBER: Final = 1.2
"""Parameters that a base network has at most for each number of the training images, whatever the time: on digits of
8x8 pixels 48 channels ended in 99.7% with 154,875 live parameters and 0.118 ms an image, 16 in 99.7% with 16,736 and
0.025 ms."""
STEPS: Final = 5

WHOLE_METHOD_S: Final = 3 * 3600.0
"""From this limit on every stage runs."""
BASELINE_S: Final = 8 * 60.0
"""Below this limit the time is better spent on the network itself than on the plain one."""
LEAST_EPOCHS: Final = 3
"""With fewer no network here learns anything."""
LEAST_UPDATES: Final = 100
"""A pruned network that is trained for fewer is worse than before."""
FULL_EPOCHS, FULL_UPDATES = 20, 500
"""A wider network is chosen only if it still gets so many epochs, and so many updates."""
MOST_EPOCHS: Final = 200
"""The limit is a limit, no aim."""
E_FOLDS: Final = 2.6
"""How far L2 shall let an idle weight decay in the base's training, so that pruning sees what is idle: with 0.6 in
place of 2.8 digits were 13% right after pruning in place of 93%, and 98.9% after retraining in place of 99.7%."""
MOST_L2: Final = 0.01
"""Whatever it lets decay."""
SPARSITY: Final = 0.85
"""The paper's, of a network of 96 channels; and the most."""
KEPT_KERNELS: Final = 4
"""So many stay of a filter, on average, in the first segment: with one of eight a network of 8 channels fell from 64.6
to 62.2% on 5,000 pictures of CIFAR-10."""
RESERVE_S: Final = 10.0
"""For the report."""
PATIENCE_S: Final = 30.0
"""So long a measurement goes on, even beyond the limit: what it comes to tells how long the limit must be."""
_FEWER: Final = "Or give fewer images by `train_limit`, or smaller ones by `image_size`."
MARGIN: Final = 0.93
"""Share of the limit that is planned: the machine may have other work to do."""

SHARES: Final = {
    "whole": {"enas": 0.2, "base": 0.27, "prune": 0.02, "pruned": 0.15, "lds_location": 0.07, "lds_direction": 0.04,
              "final": 0.25},
    "no searches": {"base": 0.4, "prune": 0.04, "pruned": 0.56},
    "no pruning": {"base": 1.0},
}  # fmt: skip
"""Of the time, how much each stage gets; what is left out first comes first."""
REASONS: Final = {
    "enas": "in this time a given architecture does as well as a found one",
    "lds_location": "in this time training longer gives as much as add-ons",
    "lds_direction": "no add-ons",
    "final": "no add-ons",
    "prune": "the time is too short",
    "pruned": "the time is too short",
    "baseline": "the time is too short",
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """How fast this machine trains on this data, in seconds.

    Attributes:
      trace_s: what a network's first step takes longer than another.
      epoch_overhead_s: of an epoch, whatever its steps.
      fixed_s: of a step, whatever the network.
      rate_s: of a step for each multiply-add that an image takes.
      batch_size: of the steps measured.
      flops: multiply-adds of an image in the base network of width w are flops[0] * w + flops[1] * w * w.
      baseline_flops: the plain network's.
      train, val: images.
      widest: the base network that the images are enough for, channels of its first segment.
    """

    trace_s: float
    epoch_overhead_s: float
    fixed_s: float
    rate_s: float
    batch_size: int
    flops: tuple[float, float]
    baseline_flops: int
    train: int
    val: int
    widest: int = WIDTHS[-1]

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return max(1, self.train // self.batch_size)

    def epoch_seconds(self, flops: float) -> float:
        """Of an epoch with its validation, in which an image takes a third of what it takes in training."""
        steps = self.steps + self.val / self.batch_size / 3
        return self.epoch_overhead_s + (self.fixed_s + self.rate_s * flops) * steps

    def flops_of(self, width: int) -> float:
        """Multiply-adds of the base network of a width."""
        return self.flops[0] * width + self.flops[1] * width**2

    def epochs(self, seconds: float, flops: float) -> int:
        """How many epochs fit into a time, `MOST_EPOCHS` at most."""
        return min(MOST_EPOCHS, max(0, int((seconds - self.stage_s) / self.epoch_seconds(flops))))

    @property
    def stage_s(self) -> float:
        """Of a training stage besides its epochs: its first step, and as much for what is measured at its end."""
        return 2 * self.trace_s

    def scaled(self, scale: float) -> Machine:
        """A machine whose epochs take `scale` times as long."""
        times = {name: scale * getattr(self, name) for name in ("epoch_overhead_s", "fixed_s", "rate_s")}
        return dataclasses.replace(self, **times)


def measure(feed: Feed, *, devices: int = 1, limit_s: float = math.inf, spent_s: float = 0.0) -> Machine:
    """Times two short epochs of the base network at each of the widths `MEASURED`, as a stage trains on one device.

    Args:
      feed: the images.
      devices: that are to share each batch; the plan's batch size is divisible by it.
      limit_s: seconds for the whole run.
      spent_s: those that are gone.

    Raises:
      UserError: the limit is certainly too short, which may show before everything is measured.
    """
    began = time.monotonic() - spent_s
    size = _batch_size(len(feed.data.train), devices)
    config = BaseConfig(batch_size=size, cutout=0)
    batches = feed.train(config)
    shapes: dict[str, Any] = {"input_shape": feed.data.image_shape, "num_classes": feed.data.num_classes}
    val_steps = len(feed.data.val) / size / 3
    costs, times, epochs, traces = [], [], [], []
    for width in MEASURED:
        since = time.monotonic()
        laps = _Laps(limit_s, began)
        model = network.build(
            Genotype.from_enas_text(ARCHITECTURE), **shapes, form=Form(filters=width, layer_form=LAYER_FORM)
        )
        training.compile_classifier(model, optimizers.make_optimizer(config, len(batches)))
        training.fit(model, _First(batches, STEPS), epochs=2, validation_data=feed.validation, callbacks=[laps])
        first, second = laps.epochs
        step = statistics.median(laps.steps[-(min(STEPS, len(batches)) - 1) :] or [second])
        cost = complexity.model_cost(model)
        costs.append(cost.flops)
        times.append(step)
        epochs.append(max(0.0, second - step * (min(STEPS, len(batches)) + val_steps)))
        traces.append(max(0.0, first - second))
        stage_s, epoch_s = 2 * max(traces), step * (max(1, len(feed.data.train) // size) + val_steps)
        now = time.monotonic()
        if width == WIDTHS[0] and _least(stage_s, epoch_s, now - began) > limit_s:
            least = _least(stage_s, epoch_s + epochs[0], now - began + (now - since))  # the other width takes longer
            raise _too_short(limit_s, least, len(feed.data.train), epoch_s + epochs[0])
    (narrow, wide), (fast, slow) = MEASURED, times
    square = (costs[1] / wide - costs[0] / narrow) / (wide - narrow)
    rate = max(slow - fast, 0.05 * slow) / (costs[1] - costs[0])
    return Machine(
        trace_s=max(traces),
        epoch_overhead_s=min(epochs),
        fixed_s=max(0.0, fast - rate * costs[0]),
        rate_s=rate,
        batch_size=size,
        flops=(costs[0] / narrow - square * narrow, square),
        baseline_flops=complexity.model_cost(plain_cnn.build(**shapes)).flops,
        train=len(feed.data.train),
        val=len(feed.data.val),
        widest=_widest(cost.params, len(feed.data.train) * math.prod(feed.data.image_shape)),
    )


def _widest(params: int, numbers: int) -> int:
    """The widest base network that so many numbers of training images are enough for.

    Args:
      params: of the widest network that was measured.
      numbers: pixels times channels of all of them.
    """
    enough = [w for w in WIDTHS if params * (w / MEASURED[-1]) ** 2 <= PARAMS_OF_A_NUMBER * numbers]
    return max(enough, default=WIDTHS[0])


class _First(keras.utils.PyDataset):
    """The first few of some batches."""

    def __init__(self, batches: keras.utils.PyDataset, count: int):
        super().__init__()
        self._batches = batches
        self._count = min(count, len(batches))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


class _Laps(keras.callbacks.Callback):
    """How long each step behind an epoch's first took, and each epoch with its validation.

    Args:
      limit_s: seconds for the whole run, which is refused when they are gone, and `PATIENCE_S` too.
      began: when the run did, by `time.monotonic`.
    """

    def __init__(self, limit_s: float, began: float) -> None:
        super().__init__()
        self._limit_s = limit_s
        self._began = began
        self.steps: list[float] = []
        self.epochs: list[float] = []
        self._epoch = self._step = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.monotonic()
        if batch:
            self.steps.append(now - self._step)
        self._step = now
        self._check()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._check()

    def _check(self) -> None:
        spent_s = time.monotonic() - self._began
        if spent_s > max(self._limit_s, PATIENCE_S):
            raise UserError(
                f"`time_limit` must be much longer here: after {spent_s:.0f} s this machine has not yet been measured "
                f"on these images. Received: {self._limit_s / 60:.3g}m.\n{_FEWER}"
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.monotonic()
        self.epochs.append(now - self._epoch)
        self._epoch = now


def make(
    machine: Machine,
    asked: Preset,
    *,
    limit_s: float,
    spent_s: float,
    baseline: bool,
    typed: Mapping[str, Any] = {},
) -> Plan:
    """A plan for the whole run.

    Args:
      machine: how fast it is.
      asked: where the settings of data and computing come from.
      limit_s: seconds for everything.
      spent_s: those that are gone.
      baseline: whether to train the plain network too, for as long as the base.
      typed: settings that stand whatever is planned, as `Preset.replaced` takes them.

    Raises:
      ValueError: a typed setting does not go with the planned ones.
      UserError: the limit is too short for any network.
    """
    left = MARGIN * limit_s - RESERVE_S - spent_s
    beside = (True, False) if baseline and limit_s >= BASELINE_S else (False,)
    for with_baseline, (kind, of_all) in itertools.product(beside, SHARES.items()):
        shares = {**of_all, "baseline": of_all["base"]} if with_baseline else of_all
        seconds = {name: left * share / sum(shares.values()) for name, share in shares.items()}
        width = _width(machine, seconds["base"])
        long_enough = kind != "whole" or limit_s >= WHOLE_METHOD_S
        if long_enough and machine.epochs(seconds["base"], machine.flops_of(width)) >= LEAST_EPOCHS:
            asked_for = {name: why for name, why in REASONS.items() if baseline or name != "baseline"}
            left_out = {name: why for name, why in asked_for.items() if name not in seconds}
            preset = _preset(machine, asked, width, seconds)
            preset = preset.replaced(**typed)
            plan = Plan(limit_s, spent_s, preset, seconds, left_out, dataclasses.asdict(machine), dict(typed))
            return replan(plan, machine, done=(), spent_s=spent_s)
    epoch_s = machine.epoch_seconds(machine.flops_of(WIDTHS[0]))
    raise _too_short(limit_s, _least(machine.stage_s, epoch_s, spent_s), machine.train, epoch_s)


def _least(stage_s: float, epoch_s: float, spent_s: float) -> float:
    """The shortest limit, in seconds, within which the smallest network gets its epochs."""
    return (stage_s + LEAST_EPOCHS * epoch_s + RESERVE_S + spent_s) / MARGIN


def _too_short(limit_s: float, least_s: float, images: int, epoch_s: float) -> UserError:
    return UserError(
        f"`time_limit` must be at least {math.ceil(least_s / 6) / 10:g}m here: an epoch of the smallest network on "
        f"{images:,} images takes {epoch_s:.1f} s. Received: {limit_s / 60:g}m.\n{_FEWER}"
    )


def replan(plan: Plan, machine: Machine, *, done: Collection[str], spent_s: float) -> Plan:
    """The plan with what is still to be done fitted to the time that is left.

    Args:
      plan: as it was.
      machine: how fast it is by now.
      done: stages that have finished.
      spent_s: seconds gone since the run began.
    """
    rest = {name: seconds for name, seconds in plan.stages.items() if name not in done}
    if not rest:
        return dataclasses.replace(plan, spent_s=spent_s)
    scale = max(0.0, MARGIN * plan.limit_s - RESERVE_S - spent_s) / sum(rest.values())
    preset, stages, typed = plan.preset, dict(plan.stages), plan.typed
    for name, seconds in rest.items():
        flops = _flops(machine, preset, name)
        stages[name] = scale * seconds
        config = preset.stage(name)
        if isinstance(config, TrainConfig):
            epochs = max(1, machine.epochs(stages[name], flops))
            epochs = int(typed.get(f"{name}_epochs", epochs))
            preset = preset.replaced(**{f"{name}_epochs": epochs, f"{name}_warmup_epochs": min(2.0, epochs / 5)})
            stages[name] = machine.stage_s + epochs * machine.epoch_seconds(flops)
        elif isinstance(config, LdsConfig):
            cycles = _cycles(machine, preset.base.filters, config, stages[name])
            preset = preset.replaced(**{f"{name}_cycles": int(typed.get(f"{name}_cycles", cycles))})
    measured = dataclasses.asdict(machine)
    if {"prune", "pruned"} <= set(rest) and "pruned_epochs" not in typed and not _brings_back(machine, preset):
        left = {name: seconds for name, seconds in plan.stages.items() if name not in ("prune", "pruned")}
        left_out = dict(plan.left_out) | dict.fromkeys(("prune", "pruned"), "too little time was left to train again")
        return replan(dataclasses.replace(plan, stages=left, left_out=left_out), machine, done=done, spent_s=spent_s)
    return dataclasses.replace(plan, preset=preset.replaced(**typed), stages=stages, spent_s=spent_s, machine=measured)


def _brings_back(machine: Machine, preset: Preset) -> bool:
    """Whether a pruned network trains long enough to be worth it; its batch norms alone take some dozen updates."""
    epochs = preset.pruned.epochs
    return epochs >= LEAST_EPOCHS and epochs * machine.steps >= LEAST_UPDATES


def as_seen(machine: Machine, plan: Plan, name: str, seconds: float) -> Machine:
    """The machine at the speed that a finished training stage had."""
    config = plan.preset.stage(name)
    if not isinstance(config, TrainConfig) or isinstance(config, BaselineConfig):
        return machine
    each = (seconds - machine.stage_s) / config.epochs
    planned = machine.epoch_seconds(_flops(machine, plan.preset, name))
    return machine.scaled(each / planned) if each > 0 else machine


def _flops(machine: Machine, preset: Preset, name: str) -> float:
    """Multiply-adds of an image in a stage, a teacher's included, in units of what training takes."""
    config = preset.stage(name)
    if isinstance(config, BaselineConfig):
        return machine.baseline_flops
    return machine.flops_of(preset.base.filters) * work_of_an_image(config)


def _batch_size(images: int, devices: int) -> int:
    """Small for small data sets, so that there are enough updates."""
    size = min(32 if images < 10_000 else 64 if images < 20_000 else 128, max(1, images // 4))
    return max(devices, size - size % devices)


def _width(machine: Machine, seconds: float) -> int:
    """The largest width that the images are enough for and that gets enough epochs and updates; else the smallest."""
    wanted = max(FULL_EPOCHS, FULL_UPDATES / machine.steps)
    widths = [width for width in WIDTHS if width <= machine.widest]
    fitting = [width for width in widths if machine.epochs(seconds, machine.flops_of(width)) >= wanted]
    return max(fitting, default=WIDTHS[0])


def _preset(machine: Machine, asked: Preset, width: int, seconds: dict[str, float]) -> Preset:
    """The settings of every stage but for epochs and cycles, which `replan` fits."""
    rate = learning_rate(machine.batch_size)
    l2 = decay(machine.steps * machine.epochs(seconds["base"], machine.flops_of(width)), rate)
    common: dict[str, Any] = {"batch_size": machine.batch_size, "lr_min": 0.0, "lr_period_epochs": 0, "cutout": 0}
    trained: dict[str, Any] = {**common, "label_smoothing": 0.1, "l2": min(l2, 5e-4)}
    architecture = "" if "enas" in seconds else ARCHITECTURE
    return dataclasses.replace(
        DEMO,
        help="planned for a time limit",
        data=asked.data,
        compute=asked.compute,
        enas=_search(machine, width, common, seconds.get("enas", 0.0)),
        base=BaseConfig(
            genotype=architecture,
            filters=width,
            layer_form=LAYER_FORM,
            smooth_init=False,
            lr_max=rate,
            **{**trained, "l2": l2},
        ),
        prune=PruneConfig(
            sparsity=min(SPARSITY, 1 - KEPT_KERNELS / width),
            scope="normalized",
            recalibrate=True,
            control=True,
            **common,
        ),
        pruned=RetrainConfig(lr_max=rate / 2, **trained),
        final=FinalConfig(lr_max=rate / 2, dropout=0.2, **trained),
        baseline=BaselineConfig(lr_max=rate, **{**trained, "l2": l2}),
    )


def learning_rate(batch_size: int) -> float:
    """The largest of a training from new weights: 0.1 at 128 images a step, by the square root of them."""
    return 0.1 * math.sqrt(batch_size / 128)


def decay(updates: int, rate: float) -> float:
    """The L2 by which idle weights decay by `E_FOLDS` within so many updates, by a cosine from `rate` to 0."""
    idle = 1 - BaseConfig.momentum
    l2 = E_FOLDS * idle / (max(1, updates) * rate)  # e-folds: updates * mean rate * 2 * l2 / (1 - momentum)
    return min(max(l2, 2e-4), MOST_L2)


def _search(machine: Machine, width: int, common: dict[str, Any], seconds: float) -> EnasConfig:
    """The search of an architecture: a step of the supernet takes about what one of the base does."""
    sampled = DEMO.enas.controller_steps * DEMO.enas.samples_per_step / 3 * (128 / machine.batch_size)
    epoch = machine.epoch_seconds(machine.flops_of(width)) * (1 + sampled / machine.steps)
    epochs = max(1, int((0.8 * seconds - 2 * machine.trace_s) / epoch))
    return dataclasses.replace(DEMO.enas, supernet_filters=width, epochs=epochs, lr_max=0.05, **common)


def _cycles(machine: Machine, width: int, config: LdsConfig, seconds: float) -> int:
    """Cycles of a search of add-ons that fit: each individual trains a few steps and is measured once."""
    individual = config.iterations + config.fitness_batch_size / machine.batch_size
    cycle = config.population * individual * (machine.fixed_s + machine.rate_s * machine.flops_of(width))
    return max(1, int((0.7 * seconds - 2 * machine.trace_s) / cycle))
