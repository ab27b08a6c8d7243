"""ENAS: a controller and a supernet train in turns, then the controller's architectures are ranked.

Letters: n architectures, G genes, B batch, H W C image.
Source: ENAS (Pham et al. 2018), section 2.2 and the released macro search; NHN paper, section 2.1. The random control
is the one that Li & Talwalkar (2019) ask for.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from nhn_tf import training
from nhn_tf.data import given
from nhn_tf.data.batches import Batches, FollowEpoch
from nhn_tf.models import GenedBatches, MacroSupernet, weights
from nhn_tf.models.extract import extract
from nhn_tf.search.callbacks import takes
from nhn_tf.search.candidates import distinct_rows, draw_distinct
from nhn_tf.search.controller import Controller
from nhn_tf.search.history import History, Table, joined, part_of
from nhn_tf.search.latency import Latencies
from nhn_tf.search.objective import WEIGHED, Objective
from nhn_tf.search.progress import Progress
from nhn_tf.search.project import STATE
from nhn_tf.search.rewards import above_the_others, finite, mean_loss, of_loss, without_nan
from nhn_tf.search.searcher import OBJECTIVE, Searcher, data_shape, whole_number
from nhn_tf.search.trials import Conclusion, Trial, mean_score, rank, sampling_noise
from nhn_tf.settings import EnasConfig
from nhn_tf.storage import files
from nhn_tf.training import optimizers
from nhn_tf.values.comparison import RANDOM_SEARCH, Comparison
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.randomness import Stream, generator
from nhn_tf.values.space import OpError, Space

logger = logging.getLogger(__name__)

LOSS = "val_loss"
CONTROLLER, RANDOM = "controller", "random"  # sources of trials
RANKED_AT_ONCE = 50  # architectures measured between two signs of life
Reward = Callable[[Genotype, float], float]
PARTS = ("supernet", "optimizer", "controller", "metrics", "measured", "ranked")  # of a state's arrays
CONTROLLER_FILE = "controller.npz"


class EnasSearch(Searcher):
    """Searches a macro space with shared weights and a REINFORCE controller.

    An epoch trains the supernet on every training batch, each with an architecture of its own sampled at the epoch's
    start, and then makes `config.controller_steps` updates of the controller. At the end `config.final_samples`
    architectures sampled from the controller are ranked by their accuracy on the whole validation split, and as many
    random ones beside them. `trials` keeps the best `config.top_k` of each, `get_ranked_trials` has them all.

    Building a search seeds Keras, NumPy and the backend (`keras.utils.set_random_seed`): the supernet's weights start
    from that seed.

    Args:
      space: the architectures to search.
      config: the search's settings. `config.space` is not read.
      input_shape: (H, W, C) of the images.
      num_classes: of the labels.
      objective: "val_accuracy", "val_loss", or a `keras_tuner.Objective` of one of them. The reward of a loss is
        exp(-loss), in (0, 1]: of guessing among N classes it is 1 / N, as an accuracy's is, so that every setting of
        the controller means the same. Trials are ranked by the loss itself.
      reward: of a genotype and its accuracy on validation images, in [0, 1], gives what is maximised in the place of
        the accuracy, in the search and in the ranking. What is not finite counts as the lowest of its update, 0 at
        most, and ranks last. For a search to resume to the same bits it must be a pure function.
      max_trials: how many architectures are ranked in the end, in the place of `config.final_samples`.
      steps_per_execution: training steps run in one call, see `keras.Model.compile`.
      seed: as for `Searcher`, as are `directory`, `project_name`, `overwrite` and `logger`.

    Attributes:
      supernet: the shared weights.
      controller: what proposes architectures.
      weighing: what `config.objective` makes of an architecture and its accuracy, and what its network costs.

    Example:

        searcher = EnasSearch(Space(), EnasConfig(), input_shape=(32, 32, 3), num_classes=10, directory="runs")
        searcher.search(x, y, validation_data=(x_val, y_val))
        genotype = searcher.get_best_genotypes(1)[0]
    """

    source = CONTROLLER
    sources = (CONTROLLER, RANDOM)
    objectives: ClassVar[Mapping[str, str]] = {OBJECTIVE: "max", LOSS: "min"}
    objective_metric = "reward"
    better: ClassVar[Mapping[str, str]] = {
        "loss": "min", "accuracy": "max", "val_accuracy": "max", "val_loss": "min",
        "train_loss": "min", "train_accuracy": "max", "lr": "",
        "reward": "max", "baseline": "max", "best_reward": "max", "entropy": "", "skip_rate": "", "skip_kl": "min",
        "controller_loss": "min", "distinct": "", "nan_rewards": "min",
        "reward_noise": "", "random_reward": "", "best_random_reward": "",
    }  # fmt: skip

    def __init__(
        self,
        space: Space,
        config: EnasConfig,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        objective: Any = OBJECTIVE,
        reward: Reward | None = None,
        max_trials: int | None = None,
        seed: int = 0,
        steps_per_execution: int = 1,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        if reward is not None and not takes(reward, None, 0.0):
            raise TypeError(f"`reward` must be called as reward(genotype, accuracy). Received: {reward!r}.")
        if max_trials is not None:
            if type(max_trials) is not int or max_trials < 1:
                raise ValueError(f"`max_trials` must be a whole number of at least 1. Received: {max_trials!r}.")
            config = dataclasses.replace(config, final_samples=max_trials)
        super().__init__(
            space,
            config,
            objective=objective,
            seed=seed,
            directory=directory,
            project_name=project_name or "enas",
            overwrite=overwrite,
            logger=logger,
        )
        self.config: EnasConfig = config
        self._own_reward = reward
        self.input_shape, self.num_classes = data_shape(input_shape, num_classes)
        self.weighing = Objective(config, self.input_shape, self.num_classes)
        if reward is not None and (self.objective != OBJECTIVE or not self.weighing.is_accuracy):
            received = f"{self.objective!r}, and {config.objective!r} in `config`"
            raise ValueError(f"`reward` is made of the accuracy: leave `objective` out. Received: {received}.")
        if self.objective == LOSS and not self.weighing.is_accuracy:
            raise ValueError(f"`config.objective`={config.objective} weighs accuracy, not {LOSS}: give one of them.")
        if self.objective == LOSS:
            self.objective_metric = LOSS
        elif self._reward is not None:
            self.objective_metric = ""
        self.steps_per_execution = steps_per_execution
        keras.utils.set_random_seed(self.seed)
        self.supernet = MacroSupernet(
            space,
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            filters=config.supernet_filters,
            dropout=1.0 - config.keep_prob,
            use_batch_statistics=config.reward_bn == "batch",
            seed=self.seed,
        )
        self.controller = Controller(space, config, seed=self.seed)
        self._restored_metrics: Sequence[np.ndarray] = ()  # of the pass that a restored state is within
        self.measured = Table("epoch", numbers=space.num_layers, bits=space.num_skips)
        self.ranked = Table("source", numbers=space.num_layers, bits=space.num_skips)
        self._open_project()

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, reward: Reward | None = None) -> EnasSearch:
        """A search as a project's directory holds it, or the stage of a run that has finished: `runs/mine/1-enas`.

        Its controller samples on, and the architectures found are built with their weights; it saves nothing. Only a
        project's can be trained for more epochs: a stage keeps no optimizer.

        Args:
          directory: the project's, or the stage's.
          reward: that of the search, if it was given one.

        Raises:
          FileNotFoundError: there is no search.
          DamagedFileError: what there is cannot be read, or does not belong together.
          ValueError: the search had another reward.
        """
        path = Path(directory) / STATE
        try:
            arrays, values = files.load_sealed_npz(path)
        except FileNotFoundError:
            if not (Path(directory) / CONTROLLER_FILE).exists():
                raise FileNotFoundError(
                    f"{directory} holds no search: neither a project's {STATE} nor a finished stage's "
                    f"{CONTROLLER_FILE}."
                ) from None
            arrays, values = _read_stage(Path(directory))
        identity = values.get("search", {})
        asked, had = (None if reward is None else _name(reward)), identity.get("reward")
        if asked != had:
            raise ValueError(f"`reward` must be that of the search in {directory}: {had}. Received: {asked}.")
        try:
            searcher = cls(
                Space.from_json(identity["space"]),
                EnasConfig.from_json(identity["config"]),
                input_shape=identity["input_shape"],
                num_classes=identity["num_classes"],
                objective=identity.get("objective", OBJECTIVE),
                seed=identity["seed"],
                reward=reward,
            )
            searcher.restore(arrays, values)
        except OpError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise files.DamagedFileError(f"{directory} holds no search of architectures ({error}).") from None
        return searcher

    def save_controller(self, directory: Path) -> None:
        """Writes controller.npz: all of the state but the supernet and history.npz, for `load`."""
        arrays = joined({"controller": self.controller.state_arrays()})
        digest = files.digest_arrays(weights.to_arrays(self.supernet))
        files.save_sealed_npz(directory / CONTROLLER_FILE, arrays, {**self.state_values(), "supernet": digest})

    def sample(self, count: int, *, seed: int = 0) -> list[Genotype]:
        """Architectures that the controller proposes now; the same ones for a seed."""
        genes = self.controller.sample(whole_number("count", count, 1), generator(seed, Stream.FINAL_ARCHITECTURES))
        return [Genotype.from_genes(self.space, row) for row in genes]

    # The loop.

    @property
    def _reward(self) -> Reward | None:
        """What is maximised in the place of the accuracy."""
        return self._own_reward or (None if self.weighing.is_accuracy else self.weighing)

    @property
    def length(self) -> int:
        return self.config.epochs

    @property
    def candidates(self) -> int:
        return self.config.final_samples

    def prepare(self, train_batches: given.TrainingBatches, validation_data: Batches, epochs: int) -> None:
        """Compiles the supernet for a schedule of `epochs` and splits the validation images into reward batches."""
        config = self.config
        self.weighing = self.weighing.measured()
        optimizer_arrays = self._optimizer_arrays()
        if self.epoch and not optimizer_arrays:
            raise ValueError(
                f"A search can be trained on only where its optimizer was kept: in a project's {STATE}. Received: a "
                "finished stage's. Begin a search of its own for more epochs."
            )
        optimizer = optimizers.make_optimizer(
            dataclasses.replace(config, epochs=max(epochs, 1)), len(train_batches), rate_scale=self.rate_scale
        )
        training.compile_classifier(self.supernet, optimizer, steps_per_execution=self.steps_per_execution)
        if optimizer_arrays:
            weights.assign({v.path: v for v in optimizer.variables}, optimizer_arrays)
            self._restored_optimizer = {}

        self._train_batches = train_batches
        self._train_data = GenedBatches(train_batches, np.zeros(self.space.gene_length, np.int32))
        self._validation_data = validation_data
        self._reward_batches = Batches(
            validation_data.split,
            batch_size=min(config.reward_batch_size, len(validation_data.split)),
            normalization=validation_data.normalization,
            balanced=validation_data.balanced,
            shuffle=True,
            seed=int(self.rng(Stream.REWARD_ORDER).integers(2**31)),
            drop_remainder=True,
        )

    def run_epoch(self, epoch: int) -> dict[str, float]:
        if self.progress is None or self.progress.phase == "supernet":
            self.progress = Progress("controller", done={"supernet": self._train_supernet(epoch)})
            self.report_step(len(self._train_data), self.steps_per_epoch)
        metrics = {**self.progress.done["supernet"], **self._train_controller(epoch), **self._probe(epoch)}
        self.progress = None
        return metrics

    def _train_supernet(self, epoch: int) -> dict[str, float]:
        """One pass over the training images, an architecture for each batch; what is done of it is not done again."""
        steps = len(self._train_data)
        # The controller has not moved since the epoch began: the same architectures again in a resumed pass.
        self._train_data.genes = self.controller.sample(steps, self.rng(Stream.CHILD, epoch))
        self.progress = self.progress or Progress("supernet", done={"lr": self._learning_rate()})
        rate = self.progress.done["lr"]
        begin = training.Position(epoch, self.progress.step, self._restored_metrics)
        self._restored_metrics = ()
        logs = training.fit(
            self.supernet,
            self._train_data,
            epochs=epoch + 1,
            begin=begin,
            callbacks=[FollowEpoch(self._train_batches), _StepReporter(self, begin.step)],
        )
        return {"train_loss": logs["loss"], "train_accuracy": logs["accuracy"], "lr": rate}

    def _learning_rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.supernet.optimizer.learning_rate))

    def passed(self, step: int) -> None:
        """Called within a pass over the training images, `step` of them done; the last one is told by the epoch."""
        if self.progress and step < len(self._train_data):
            self.progress = self.progress.advanced(step)
            self.report_step(step, self.steps_per_epoch)

    def _train_controller(self, epoch: int) -> dict[str, float]:
        """The controller's updates of one epoch that are not done yet."""
        config, progress = self.config, self.progress or Progress("controller")
        done = list(progress.done.get("controller", ()))
        for step in range(len(done), config.controller_steps):
            sampled = self.controller.sample(config.samples_per_step, self.rng(Stream.CONTROLLER, epoch, step))
            first = (epoch * config.controller_steps + step) * config.samples_per_step
            measured = np.array([self._measure(row, first + i) for i, row in enumerate(sampled)])
            rewards = without_nan(measured)
            advantages = self.controller.advantages(rewards)
            if config.paired_fitness:
                advantages = above_the_others(rewards)
            logs = self.controller.update(sampled, advantages)
            done.append({"logs": logs, "genes": sampled.tolist(), "rewards": measured.tolist()})
            self.progress = progress.advanced(len(done), controller=list(done))
            self.report_step(len(self._train_data) + step + 1, self.steps_per_epoch)
        if not done:
            return {}
        genes, rewards = (np.concatenate([np.array(step[name]) for step in done]) for name in ("genes", "rewards"))
        self.measured.add(epoch, genes, rewards)
        return self._controller_metrics(epoch, [step["logs"] for step in done], genes, rewards)

    def _probe(self, epoch: int) -> dict[str, float]:
        """Rewards of a few random architectures, on the images that the controller's were measured on in the epoch.

        Nothing learns from them, and no other random choice moves.
        """
        if not self.config.random_probes:
            return {}
        genes = self.space.sample(self.rng(Stream.RANDOM_PROBES, epoch), self.config.random_probes)
        first = epoch * self.config.controller_steps * self.config.samples_per_step
        rewards = without_nan(np.array([self._measure(row, first + i) for i, row in enumerate(genes)]))
        best = [float(rewards.max()), *(metrics["best_random_reward"] for metrics in self.history)]
        return {"random_reward": float(rewards.mean()), "best_random_reward": max(best)}

    def _measure(self, genes: np.ndarray, number: int) -> float:
        """The reward of the `number`-th architecture since the search began, each on the next validation batch.

        Paired, all architectures of a controller update are measured on one batch.
        """
        turn = number // self.config.samples_per_step if self.config.paired_fitness else number
        pass_, index = divmod(turn, len(self._reward_batches))
        return self.reward(genes, *self._reward_batches.batch(pass_, index))

    def reward(self, genes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
        """What the controller maximises: accuracy of the shared weights, or what `objective` or `reward` make of it.

        Args:
          genes: int32 [G].
          images: float32 [B, H, W, C], validation images.
          labels: int32 [B].

        Returns:
          The reward, larger is better. NaN counts as the lowest of its update, 0 at most, and is reported.
        """
        if self.objective == LOSS:
            return of_loss(self.supernet.cross_entropy(genes, images, labels))
        return self._rewarded(genes, self.supernet.accuracy(genes, images, labels))

    def measures(self, metric: str) -> bool:
        return super().measures(metric) and ("random" not in metric or self.config.random_probes > 0)

    @property
    def figure(self) -> str:
        return self.objective if self._reward is None else "val_reward"

    def _rewarded(self, genes: np.ndarray, value: float) -> float:
        """What an architecture int32 [G] is ranked by, of its accuracy or loss; NaN where it is not finite."""
        return value if self._reward is None else finite(float(self._reward(self.decode(genes), value)))

    def _controller_metrics(
        self, epoch: int, logs: list[dict[str, float]], genes: np.ndarray, rewards: np.ndarray
    ) -> dict[str, float]:
        """Sums up an epoch's updates: their logs, architectures int32 [n, G] and rewards float [n] (NaN: none)."""
        mean = {name: float(np.mean([log[name] for log in logs])) for name in logs[0]}
        failed = int(np.isnan(rewards).sum())
        more = {}
        if self.figure == OBJECTIVE:  # of rewards that are no accuracies it is unknown
            more["reward_noise"] = sampling_noise(rewards, self._reward_batches.batch_size)
        if self.objective == LOSS:
            more[LOSS] = mean_loss(rewards)
        rewards = without_nan(rewards)
        distinct = len(np.unique(genes, axis=0))
        if distinct == 1 and len(genes) > 1 and self.space.size() > 1:
            logger.warning(
                "The controller has collapsed: all %d architectures of epoch %d are the same (entropy %.2g nats). "
                "Lower controller_lr or raise entropy_weight.",
                len(genes),
                epoch + 1,
                mean["entropy"],
            )
        if failed:
            logger.warning(
                "%d of %d rewards in epoch %d are NaN and count as the lowest, 0 at most.",
                failed,
                len(rewards),
                epoch + 1,
            )
        skips = genes[:, self.space.num_layers :]
        baseline = self.controller.baseline
        return {
            "reward": float(rewards.mean()),
            "baseline": math.nan if baseline is None else baseline,
            "best_reward": max([float(rewards.max()), *(m["best_reward"] for m in self.history)]),
            "entropy": mean["entropy"],
            "skip_rate": float(skips.mean()) if skips.size else 0.0,
            "skip_kl": mean["skip_kl"],
            "controller_loss": mean["loss"],
            "distinct": distinct / len(genes),
            "nan_rewards": float(failed),
            **more,
        }

    @property
    def steps_per_epoch(self) -> int:
        return len(self._train_data) + self.config.controller_steps

    # The end.

    def conclude(self) -> Conclusion:
        """Ranks the controller's architectures and the random ones on the whole validation split."""
        config = self.config
        sampled = distinct_rows(self.controller.sample(config.final_samples, self.rng(Stream.FINAL_ARCHITECTURES)))
        found = self._rank(sampled, CONTROLLER)
        control: list[Trial] = []
        if config.random_control:
            control = self._rank(self._random_architectures(len(sampled)), RANDOM)
        best_of_control, mean_of_control = (control[0].score, mean_score(control)) if control else (None, None)
        figure = self.figure
        comparisons = (
            Comparison(figure, found[0].score, RANDOM_SEARCH, best_of_control),
            Comparison(f"mean_{figure}", mean_score(found), RANDOM_SEARCH, mean_of_control),
        )
        figures = {
            "mean_reward_first": self.history[0].get("reward") if self.history else None,
            "mean_reward_last": self.history[-1].get("reward") if self.history else None,
            "architectures_evaluated": len(found),
            "random_architectures_evaluated": len(control),
        }
        if not self.weighing.is_accuracy:
            figures |= self._weighed("best", found[0]) | (self._weighed("best_random", control[0]) if control else {})
            if config.objective in WEIGHED:
                figures["cost_target"] = self.weighing.target
        return Conclusion(rank(found + control, self.direction), comparisons, figures)

    def _weighed(self, which: str, best: Trial) -> dict[str, float | None]:
        """What the objective weighs, of the best trial."""
        return {f"{which}_accuracy": best.accuracy, f"{which}_cost": self.weighing.cost(best.genotype)}

    def keep(self, trials: list[Trial]) -> list[Trial]:
        """The best `top_k` of the controller and of the control."""
        own, control = ([t for t in trials if t.source == source][: self.config.top_k] for source in self.sources)
        return rank(own + control, self.direction)

    def encode(self, genotype: Genotype) -> np.ndarray:
        return genotype.genes()

    def decode(self, genes: np.ndarray) -> Genotype:
        return Genotype.from_genes(self.space, genes)

    def _random_architectures(self, count: int) -> np.ndarray:
        """`count` distinct architectures, uniformly drawn; fewer only where the space is nearly exhausted."""
        rng = self.rng(Stream.RANDOM_ARCHITECTURES)
        return draw_distinct(lambda wanted: self.space.sample(rng, wanted), count)

    def _rank(self, genes: np.ndarray, source: str) -> list[Trial]:
        """Trials of architectures int32 [n, G], best first; what is known of their scores is not measured again."""
        ranked = dict(self.progress.done.get("ranked", {})) if self.progress else {}
        known = ranked.get(source, [])
        measure = self.supernet.cross_entropies if self.objective == LOSS else self.supernet.accuracies
        for start in range(len(known), len(genes), RANKED_AT_ONCE):
            rows = genes[start : start + RANKED_AT_ONCE]
            known = [*known, *map(finite, measure(rows, self._validation_data).tolist())]
            ranked[source] = known
            self.progress = Progress("ranking", sum(map(len, ranked.values())), {"ranked": dict(ranked)})
            self.report_step(len(known), len(genes))
        scores = [self._rewarded(row, value) for row, value in zip(genes, known, strict=True)]
        accuracies = [None] * len(known) if self.objective == LOSS else known
        figures = zip(genes, scores, accuracies, strict=True)
        trials = [Trial(self.decode(row), score, source, accuracy) for row, score, accuracy in figures]
        return rank(trials, self.direction)

    def build_model(self, genotype: Genotype) -> keras.Model:
        """One architecture of the supernet as a network of its own, of ordinary Keras layers and copies of the weights.

        It computes what the supernet does with moving averages in batch norm (`reward_bn`), trains by itself, and loads
        with Keras alone. For the derived network that is trained from its start, see `nhn_tf.models.network.build`.
        """
        return extract(self.supernet, genotype)

    # State.

    def state_arrays(self) -> dict[str, np.ndarray]:
        passing = self.progress is not None and self.progress.phase == "supernet" and self.progress.step > 0
        within = (self._restored_metrics or training.metric_state(self.supernet)) if passing else ()
        parts = {
            "supernet": weights.to_arrays(self.supernet),
            "optimizer": self._optimizer_arrays(),
            "controller": self.controller.state_arrays(),
            "metrics": {str(number): array for number, array in enumerate(within)},
        }
        return {**joined(parts), **super().state_arrays()}

    def state_values(self) -> dict[str, Any]:
        measured = self.weighing.latencies
        known = {} if measured is None else {"latencies": measured.to_json()}
        return {**super().state_values(), "controller": self.controller.state_values(), **known}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.check_identity(values)
        if unknown := [name for name in arrays if name.partition(":")[0] not in PARTS]:
            raise ValueError(f"The state holds the unknown array {unknown[0]}.")
        parts = {part: part_of(part, arrays) for part in PARTS}
        weights.from_arrays(self.supernet, parts["supernet"])
        self.controller.restore(parts["controller"], values["controller"])
        if "latencies" in values:
            self.weighing = dataclasses.replace(self.weighing, latencies=Latencies.from_json(values["latencies"]))
        self._restored_optimizer = parts["optimizer"]
        self._restored_metrics = [parts["metrics"][str(number)] for number in range(len(parts["metrics"]))]
        super().restore(arrays, values)

    def identity(self) -> dict[str, Any]:
        own = {} if self._own_reward is None else {"reward": _name(self._own_reward)}
        shape = {"input_shape": list(self.input_shape), "num_classes": self.num_classes}
        return {**super().identity(), **shape, **own}


class _StepReporter(keras.callbacks.Callback):
    """Tells a search of its supernet's training steps, counted from the `first` of a pass."""

    def __init__(self, searcher: EnasSearch, first: int) -> None:
        super().__init__()
        self.searcher = searcher
        self.first = first

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.searcher._listeners.begin_batch(self.first + batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.searcher._listeners.end_batch(self.first + batch, logs)
        self.searcher.passed(self.first + batch + 1)


def _name(function: Reward) -> str:
    """What tells one reward from another as far as a file can."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def _read_stage(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state that a finished stage's files hold, without the optimizer's.

    Raises:
      FileNotFoundError, DamagedFileError: as `EnasSearch.load`.
    """
    arrays, values = files.load_sealed_npz(directory / CONTROLLER_FILE)
    try:
        supernet, seen = files.load_npz(directory / "weights.npz"), History.load(directory)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{CONTROLLER_FILE} alone is no search: {error}.") from None
    if files.digest_arrays(supernet) != values.pop("supernet", None):
        raise files.DamagedFileError(f"{directory / 'weights.npz'} does not belong to {CONTROLLER_FILE} beside it.")
    tables = {"measured": seen.measured.arrays(), "ranked": seen.ranked.arrays(), "supernet": supernet}
    return arrays | joined(tables), values
