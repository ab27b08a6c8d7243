"""What every search here has in common: the loop, the trials, the state, and Keras Tuner's vocabulary.

A search is epochs of training shared weights together with whatever proposes architectures (an evolution calls them
cycles), and then a ranking of candidates. `Searcher` runs the loop, calls the callbacks, ranks the trials and carries
the state; a subclass says what one epoch does and how it finishes.

A search can be stopped at any step that it reports and resumed elsewhere: `state_arrays` and `state_values` hold all
there is, and every random choice is a pure function of (seed, stream, epoch, step).
"""

from __future__ import annotations

import abc
import dataclasses
import json
import logging
import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import keras
import numpy as np

from nhn_tf.data import given
from nhn_tf.data.batches import Batches
from nhn_tf.layers import own_op
from nhn_tf.models import Superset
from nhn_tf.search.callbacks import Listeners, SearchCallback
from nhn_tf.search.history import NAME, History, Table, joined, part_of
from nhn_tf.search.progress import Progress
from nhn_tf.search.project import Project
from nhn_tf.search.trials import Conclusion, Trial
from nhn_tf.settings import GradientConfig
from nhn_tf.settings.added import ADDED
from nhn_tf.storage import files
from nhn_tf.values.comparison import Comparison
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.randomness import Stream, generator
from nhn_tf.values.space import OpError, Space

OBJECTIVE: Final = "val_accuracy"
UNSAID: Final = {"objective": OBJECTIVE}
"""What states of older searches do not say, as they were made."""


def data_shape(input_shape: Iterable[int], num_classes: int) -> tuple[tuple[int, ...], int]:
    """Both as they were given, in integers of Python's own, which JSON takes.

    Raises:
      ValueError: `input_shape` is not (H, W, C), or there are no two classes.
    """
    try:
        height, width, channels = map(operator.index, input_shape)
    except (TypeError, ValueError):
        height = width = channels = 0
    if min(height, width, channels) < 1:
        raise ValueError(f"`input_shape` must be (H, W, C), whole numbers of at least 1. Received: {input_shape!r}.")
    return (height, width, channels), whole_number("num_classes", num_classes, 2)


def whole_number(name: str, value: int, least: int) -> int:
    """The value as an integer of Python's own.

    Raises:
      ValueError: it is none, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}. Received: {value!r}.")
    return number


class Searcher(abc.ABC):
    """Base class of the searches.

    Where a `directory` is given, a search that is there already is taken over: finished, it stays as it is; otherwise
    `search` goes on with it.

    Args:
      space: the architectures to search.
      config: the search's settings; they say how long it runs unless `search` is told otherwise.
      objective: what is searched for, "val_accuracy", in ENAS also "val_loss", or a `keras_tuner.Objective` of one of
        them; for something else ENAS has `reward`, and a subclass of the other searches its own `fitness`.
      seed: of every random choice, at least 0.
      directory: where the state and history.npz are saved after each epoch, in `project_name`; `None` saves nothing.
      project_name: a directory within `directory`.
      overwrite: begins again; what is there is replaced when the first epoch has ended.
      logger: told of each epoch's metrics and of the results, at level INFO.

    Attributes:
      objective: its name.
      direction: "max" or "min", whichever of the objective is better.
      epoch: finished epochs.
      history: the metrics of each of them.
      trials: the architectures kept at the end, best first.
      measured: every architecture that was measured within an epoch.
      ranked: every final candidate, best first; tagged by its place in `sources`.
      results: the search's figures, `None` until it has finished.
      stopped_of: how many epochs there were to be when a callback stopped the search; `None` where none did.
      concluding: whether the final candidates are being measured: no epoch is under way any more.
      progress: what is done of the epoch or of the final measurements under way; None between them.
      rate_scale: multiplies the learning rate of the shared weights; 1 unless it is set before `search`.

    Raises:
      ValueError: the project in `directory` is of another search, or an argument is out of its range.
    """

    supernet: Superset  # a subclass makes it
    measured: Table  # likewise
    ranked: Table
    input_shape: tuple[int, ...]
    num_classes: int
    source = "search"  # of the trials that `get_best_genotypes` chooses among
    sources: tuple[str, ...] = ()  # of all final candidates
    unit = "epoch"  # what an epoch of this search is called
    objectives: ClassVar[Mapping[str, str]] = {OBJECTIVE: "max"}  # what may be searched for, and what is better
    objective_metric = ""  # the metric that Keras's callbacks know as the objective; "" where there is none
    own_objective = "`reward`"  # what takes the objective's place
    better: ClassVar[Mapping[str, str]] = {}
    """Of each metric "max" or "min", whichever is better; "" where neither is."""

    def __init__(
        self,
        space: Space,
        config: GradientConfig,
        *,
        objective: Any = OBJECTIVE,
        seed: int = 0,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        if logger is not None and not callable(getattr(logger, "info", None)):
            raise TypeError(f"`logger` must be a logging.Logger. Received: {type(logger).__name__}.")
        self.space = space
        self.config = config
        self.objective, self.direction = self._named(objective)
        self.seed = whole_number("seed", seed, 0)
        self.project_dir = None if directory is None else Path(directory) / (project_name or "search")
        self._project = None if self.project_dir is None else Project(self.project_dir)
        self.overwrite = overwrite
        self.logger = logger
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.trials: list[Trial] = []
        self.results: dict[str, Any] | None = None
        self.stopped_of: int | None = None
        self.concluding = False
        self.progress: Progress | None = None
        self.rate_scale = 1.0
        self._listeners = Listeners()
        self._restored_optimizer: dict[str, np.ndarray] = {}
        self._data = ""
        self._whole: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None

    def _named(self, objective: Any) -> tuple[str, str]:
        """The name and direction of an objective.

        Raises:
          ValueError: this search has none such.
        """
        name = getattr(objective, "name", objective)
        usual = self.objectives.get(name) if isinstance(name, str) else None
        direction = getattr(objective, "direction", usual)
        if usual is None or direction != usual:
            known = " or ".join(f'"{name}" ({way})' for name, way in self.objectives.items())
            received = f"{name!r}, {direction!r}" if hasattr(objective, "direction") else repr(objective)
            raise ValueError(
                f"`objective` must be {known}, which the search measures of every architecture, or a "
                f"keras_tuner.Objective of that name and direction; {self.own_objective} searches for something else. "
                f"Received: {received}."
            )
        return name, usual

    def measures(self, metric: str) -> bool:
        """Whether a metric of `better` is among an epoch's."""
        return metric not in self.objectives or (metric == self.objective and self.objective_metric != "")

    @property
    def figure(self) -> str:
        """What the scores of the final candidates are."""
        return self.objective

    # What a subclass provides.

    @abc.abstractmethod
    def prepare(self, train_batches: given.TrainingBatches, validation_data: Batches, epochs: int) -> None:
        """Called once by `search`, before its first epoch."""

    @abc.abstractmethod
    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Does all of epoch `epoch` that `progress` does not say is done, sets it to None, and returns the metrics.

        What was measured is in `measured` then.
        """

    @abc.abstractmethod
    def conclude(self) -> Conclusion:
        """Measures the final candidates.

        It depends on seed and state only: interrupted, it is run again with the same result; what `progress` says is
        done need not be done again.
        """

    def keep(self, trials: list[Trial]) -> list[Trial]:
        """Those of the ranked trials that `trials` is to hold."""
        return trials

    @abc.abstractmethod
    def encode(self, genotype: Genotype) -> np.ndarray:
        """A candidate as a row of `ranked`, int [G]."""

    @abc.abstractmethod
    def decode(self, genes: np.ndarray) -> Genotype:
        """The candidate of a row of `ranked`."""

    @abc.abstractmethod
    def build_model(self, genotype: Genotype) -> keras.Model:
        """A model of one architecture, from images [B, H, W, C] to logits [B, classes], on copies of the weights."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """How many epochs the settings ask for."""

    @property
    @abc.abstractmethod
    def candidates(self) -> int:
        """How many candidates of its own the search ranks in the end, at most."""

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps that `report_step` tells of an epoch."""

    # Keras Tuner's vocabulary.

    def search_space_summary(self) -> None:
        """Prints what is searched."""
        space = self.space
        print(f"Search space: {space.num_layers} layers in {space.num_segments} segments")
        print(f"  each layer: one of {len(space.ops)} ops ({', '.join(space.ops)})")
        print(f"  skips: {space.num_skips} bits")
        print(f"  architectures: {space.size():.3g}")

    def search(
        self,
        x: Any,
        y: Any = None,
        *,
        validation_data: Any,
        epochs: int | None = None,
        callbacks: Iterable[keras.callbacks.Callback | SearchCallback] = (),
    ) -> dict[str, Any]:
        """Searches; a restored state is resumed, and of a finished search of as many epochs the results are returned.

        After an exception, Ctrl-C among them, it stands where its last whole epoch ended; called again, it goes on.

        Images are read as they are given, as float32, by the networks found too. They should be of about zero mean and
        unit variance; nhn_tf's `Batches` make them so, and alone augment them and resume to the same bits for certain.

        Args:
          x: training images [N, H, W, C]; or, without `y`, batches (images, labels): nhn_tf's `Batches`, a
            `keras.utils.PyDataset`, or a `tf.data.Dataset` that knows its length.
          y: labels, int [N] or one-hot [N, classes].
          validation_data: images and labels likewise, (images, labels) or batches. Other than `Batches` are read once
            and kept in memory.
          epochs: how many epochs there are in all; by default `length`.
          callbacks: `keras.callbacks.Callback`s, with the supernet as their model, which hear of training, epochs and
            ENAS's training steps, and may stop the search; and `SearchCallback`s. In a search that is resumed, what an
            EarlyStopping has counted is counted again; others begin anew, as in `fit`.

        Returns:
          `results`.

        Raises:
          nhn_tf.data.DataError: the data are of another kind or shape.
          TypeError, ValueError: a callback is none, or cannot do its work here.
          nhn_tf.training.DivergedError: the shared weights' gradient is no longer finite.
        """
        epochs = self.length if epochs is None else epochs
        if type(epochs) is not int or epochs < 0:
            raise ValueError(f"`epochs` must be a whole number of at least 0. Received: {epochs!r}.")
        watched = {name: way for name, way in self.better.items() if self.measures(name)}
        listeners = Listeners(callbacks, watched)
        about: dict[str, Any] = {"input_shape": self.input_shape, "num_classes": self.num_classes}
        about["batch_size"] = self.config.batch_size
        train = given.training_batches(x, y, **about, seed=self.seed)
        validation = given.validation_batches(validation_data, **about)
        if self._project is not None:
            self._check_data(train, validation)
            self._project.check_unchanged()

        has_ended = self.stopped_of is not None and epochs <= self.stopped_of
        if has_ended:
            epochs = self.stopped_of or epochs
        else:
            self.stopped_of = None
        if self.results is not None and (has_ended or epochs <= self.epoch):
            if self.project_dir is not None and self.project_dir.exists() and not (self.project_dir / NAME).exists():
                self.save_history(self.project_dir)  # the state has all of it
            return self.results
        self._listeners = listeners
        self._keep_whole()
        try:
            self.prepare(train, validation, epochs)
            self._keep_whole()  # with an optimizer
            if not has_ended and self.epoch < epochs:
                if self.progress is not None and self.progress.phase == "ranking":
                    self.progress = None  # it was about to finish a shorter search
                self._run_epochs(epochs)
            return self.finish()
        except BaseException:
            self._go_back()
            raise
        finally:
            self._whole = None

    def _keep_whole(self) -> None:
        """Keeps the state, which is whole now."""
        self._whole = self.state_arrays(), self.state_values()

    def whole_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The state as the last epoch left it, within `search` alone. Unlike `state_arrays` it copies nothing.

        After an exception the search goes back to these arrays: they must not be changed.
        """
        if self._whole is None:
            raise ValueError("`whole_state` is there while `search` runs.")
        return self._whole

    def _go_back(self) -> None:
        """To the state that was whole last: an exception may have come in the middle of a step."""
        if self._whole is not None:
            stopped_of = self.stopped_of
            self.restore(*self._whole)
            self.stopped_of = stopped_of

    def _run_epochs(self, epochs: int) -> None:
        """The epochs that are left, unless a callback of Keras stops them."""
        listeners = self._listeners
        past = [self._keras_logs(metrics) for metrics in self.history]
        listeners.begin(self.supernet, past, epochs=epochs, steps=self.steps_per_epoch)
        while self.epoch < epochs and not listeners.want_to_stop:
            listeners.begin_epoch(self.epoch)
            metrics = self.run_epoch(self.epoch)
            self.history.append(metrics)
            self.epoch += 1
            self.trials, self.results = [], None  # of a shorter search before this one
            self.ranked.restore({})
            self._keep_whole()
            self._log(f"{self.unit} {self.epoch} of {epochs}", metrics)
            listeners.end_epoch(self.epoch - 1, self._keras_logs(metrics))
            if listeners.want_to_stop:
                self.stopped_of = epochs
            if listeners.has_keras:  # which may have changed weights
                self._keep_whole()
            if self._project is not None:
                self._save(*self.whole_state())
            for callback in listeners.own:
                callback.on_epoch_end(self, self.epoch - 1, metrics)
        if listeners.want_to_stop:
            self.stopped_of = epochs
        listeners.end(self._keras_logs(self.history[-1] if self.history else {}))

    def _keras_logs(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of an epoch, also under the names that Keras's callbacks know."""
        known = {"loss": "train_loss", "accuracy": "train_accuracy", self.objective: self.objective_metric}
        return {**metrics, **{name: metrics[own] for name, own in known.items() if own in metrics}}

    def finish(self) -> dict[str, Any]:
        """Ranks the final candidates, unless that has been done, and returns `results`."""
        if self.results is None:
            self.concluding = True
            try:
                trials, comparisons, figures = self.conclude()
            finally:
                self.concluding = False
            self.ranked.restore({})
            if trials:
                tags = [self.sources.index(trial.source) for trial in trials]
                genes = np.stack([self.encode(trial.genotype) for trial in trials])
                accuracies = [math.nan if trial.accuracy is None else trial.accuracy for trial in trials]
                self.ranked.add(tags, genes, [trial.score for trial in trials], accuracies)
            self.trials, self.results = self.keep(trials), figures
            for comparison in comparisons:
                self.results |= comparison.metrics()
            self.progress = None
            if self._project is not None:
                self.save()
            self._log(f"ranked {len(trials)} candidates", self.results)
        return self.results

    def _log(self, what: str, figures: Mapping[str, Any]) -> None:
        """Tells the logger of figures, if there is one."""
        if self.logger is not None:
            words = (f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, (int, float)))
            self.logger.info("%s: %s", what, ", ".join(words))

    @property
    def comparisons(self) -> list[Comparison]:
        """The search's figures beside those of its controls, as far as they were measured; none before the end."""
        return Comparison.read(self.results or {})

    @property
    def remaining_trials(self) -> int:
        """How many candidates of its own the search has yet to rank, at most; 0 once it has finished."""
        if self.results is not None:
            return 0
        known = self.progress.done.get("ranked", {}) if self.progress else {}
        return self.candidates - len(known.get(self.source, ()))

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the best trials, or that there are none yet."""
        best = self.get_best_trials(num_trials)
        if self.results is None:
            print(f"No results yet: {self.epoch} of {self.length} {self.unit}s are done. Call `search`.")
            return
        of_all = f"{len(best)} best of {len(self.ranked)} trials by {self.figure} ({self.direction})"
        print(f"Results after {self.epoch} {self.unit}s: {of_all}")
        for place, trial in enumerate(best, 1):
            print(f"{place:3d}. score {trial.score:.4f} ({trial.source})")
            for row in self.describe(trial.genotype):
                print(f"     {row}")

    def describe(self, genotype: Genotype) -> list[str]:
        """What was searched of a genotype, in lines."""
        return genotype.to_enas_text().splitlines()

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best trials of the search itself, not of its control."""
        return [trial for trial in self.trials if trial.source == self.source][: max(num_trials, 0)]

    def get_ranked_trials(self) -> list[Trial]:
        """Every final candidate, also of the controls and beyond those that `trials` keeps, best first."""
        ranked = self.ranked
        known = [None if math.isnan(accuracy) else accuracy for accuracy in ranked.accuracies.tolist()]
        rows = zip(ranked.genes, ranked.scores.tolist(), ranked.tags.tolist(), known, strict=True)
        return [Trial(self.decode(genes), score, self.sources[tag], accuracy) for genes, score, tag, accuracy in rows]

    def get_best_genotypes(self, num_trials: int = 1) -> list[Genotype]:
        return [trial.genotype for trial in self.get_best_trials(num_trials)]

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[dict[str, Any]]:
        """What was chosen for each of the best trials, under the names of `NHNHyperModel`; and each add-on, if any."""
        return [_choices(genotype) for genotype in self.get_best_genotypes(num_trials)]

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        """The best architectures as models of their own, on copies of the weights that they were scored with."""
        return [self.build_model(genotype) for genotype in self.get_best_genotypes(num_models)]

    # State.

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Every array that the rest of the search depends on, or its history holds, by name. Subclasses add theirs."""
        return joined({"measured": self.measured.arrays(), "ranked": self.ranked.arrays()})

    def state_values(self) -> dict[str, Any]:
        """The rest of the state as a JSON value. Subclasses add theirs."""
        return {
            "search": self.identity(),
            "epoch": self.epoch,
            "history": [dict(metrics) for metrics in self.history],
            "underway": self.progress.to_json() if self.progress else {},
            "rate_scale": self.rate_scale,
            "trials": [trial.to_json() for trial in self.trials],
            "results": self.results,
            "stopped_of": self.stopped_of,
            "data": self._data,
        }

    def identity(self) -> dict[str, Any]:
        """What must agree for a state to be taken over."""
        own_ops = own_op.digests(self.space.ops)
        return {
            "class": type(self).__name__,
            "objective": self.objective,
            "space": self.space.to_json(),
            "config": self.config.to_json(),
            "seed": self.seed,
            **({"own_ops": own_ops} if own_ops else {}),
        }

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Takes over a state, before `search`. Subclasses take theirs first, so that a bad one changes nothing here.

        States of before there was a history of what was measured have none of their epochs.

        Args:
          arrays: what `state_arrays` returned.
          values: what `state_values` returned, also after JSON.

        Raises:
          ValueError: the state is of another search.
        """
        self.measured.restore(part_of("measured", arrays))
        self.ranked.restore(part_of("ranked", arrays))
        self.epoch = values["epoch"]
        self.history = [dict(metrics) for metrics in values["history"]]
        self.progress = Progress.from_json(values["underway"])
        self.rate_scale = values["rate_scale"]
        self.trials = self.read_trials(arrays, values["trials"])
        self.results = values["results"]
        self.stopped_of = values.get("stopped_of")
        self._data = values.get("data", "")

    def read_trials(self, arrays: Mapping[str, np.ndarray], values: Sequence[Mapping[str, Any]]) -> list[Trial]:
        """The trials of a state; subclasses whose genotypes have masks add them."""
        return [Trial.from_json(value) for value in values]

    def check_identity(self, values: Mapping[str, Any]) -> None:
        """Refuses the state of another search.

        Raises:
          OpError: an op of one's own makes another layer now.
          ValueError: it names the first thing that differs.
        """
        ours, theirs = json.loads(json.dumps(self.identity())), {**UNSAID, **values["search"]}
        own_op.check_same(theirs.pop("own_ops", {}), ours.pop("own_ops", {}), "the search")
        if "config" in theirs:
            lacked = {name: ADDED[entry] for name in ours["config"] if (entry := f"config.{name}") in ADDED}
            theirs["config"] = {**lacked, **theirs["config"]}
        for name in dict.fromkeys([*ours, *theirs]):
            if ours.get(name) != theirs.get(name):
                mine, other = _difference(ours.get(name), theirs.get(name))
                raise ValueError(f"The state is of another {name}: {other}. This search's: {mine}.")

    def save(self) -> None:
        """Writes history.npz and the state into `project_dir`, each whole or not at all.

        Raises:
          ValueError: another search has written there since this one began or was reloaded.
        """
        self._save(self.state_arrays(), self.state_values())

    def _save(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        project = self._expect_project()
        project.check_unchanged()
        self.save_history(project.path.parent)
        project.write(arrays, values)

    def save_history(self, directory: Path) -> None:
        """Writes history.npz; `nhn_tf.search.History.load` reads it."""
        History(type(self).__name__, self.measured, self.ranked, self.sources, self.figure).save(directory / NAME)

    def reload(self) -> bool:
        """Takes over the state in `project_dir`, if there is one; returns whether there was."""
        project = self._expect_project()
        try:
            arrays, values = project.read()
        except FileNotFoundError:
            return False
        except files.DamagedFileError as error:
            raise files.DamagedFileError(f"{error} `overwrite=True` begins again.") from None
        try:
            self.restore(arrays, values)
        except OpError:
            raise
        except ValueError as error:
            raise ValueError(
                f"{project.path} holds another search than this. {error} Give another `project_name`, or "
                "`overwrite=True` to begin again."
            ) from None
        return True

    def _open_project(self) -> None:
        """Called by subclasses once they are made: goes on with what `project_dir` holds, unless it is overwritten."""
        if self._project is not None and not self.overwrite:
            self.reload()

    def _expect_project(self) -> Project:
        if self._project is None:
            raise ValueError("Saving a search needs `directory`. Received: None.")
        return self._project

    def _check_data(self, train: given.TrainingBatches, validation: Batches) -> None:
        """Refuses other images than a project was begun on, as far as they can be told apart.

        Raises:
          DataError: they are others.
        """
        digest = files.digest_json([given.digest(batches) for batches in (train, validation)])
        if self._data and self._data != digest:
            raise given.DataError(
                f"{self.project_dir} holds a search on other images. Give the same, another `project_name`, or "
                "`overwrite=True` to begin again."
            )
        self._data = digest

    # For subclasses.

    def _optimizer_arrays(self) -> dict[str, np.ndarray]:
        """State of the supernet's optimizer by variable path; before `prepare`, what was restored for it."""
        if self._restored_optimizer or not self.supernet.compiled:
            return self._restored_optimizer
        return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in self.supernet.optimizer.variables}

    def rng(self, stream: Stream, epoch: int = 0, step: int = 0) -> np.random.Generator:
        """The generator of one purpose at one step of one epoch."""
        return generator(self.seed, stream, epoch, step)

    def report_step(self, step: int, steps: int) -> None:
        """Tells the callbacks that care that `step` of `steps` are done, of this epoch's or of the conclusion's."""
        self._listeners.end_step(self, step, steps)


def _choices(genotype: Genotype) -> dict[str, Any]:
    """A genotype as names and values."""
    chosen: dict[str, Any] = {}
    for layer, (op, skips) in enumerate(zip(genotype.ops, genotype.skips, strict=True)):
        chosen[f"layer{layer}_op"] = op
        chosen |= {f"layer{layer}_skip{output}": output in skips for output in range(layer)}
    for number, addon in enumerate(genotype.addons):
        chosen[f"addon{number}"] = dataclasses.asdict(addon)
    return chosen


def _difference(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """What differs of two JSON values: of objects, their entries."""
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return ours, theirs
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return tuple(", ".join(f"{name} {value.get(name)}" for name in names) for value in (ours, theirs))  # type: ignore[return-value]
