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
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np

from nhn_tf.data.batches import Batches
from nhn_tf.models import Superset
from nhn_tf.search.progress import Progress
from nhn_tf.settings import GradientConfig
from nhn_tf.storage import files
from nhn_tf.values.comparison import Comparison
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.randomness import Stream, generator
from nhn_tf.values.space import Space


@dataclasses.dataclass(frozen=True)
class Trial:
    """An architecture and how well it did.

    Attributes:
      genotype: the architecture.
      score: larger is better; NaN for one that could not be measured.
      source: what proposed it, such as "controller" or "random".
    """

    genotype: Genotype
    score: float
    source: str

    def to_json(self) -> dict[str, Any]:
        score = self.score if math.isfinite(self.score) else None
        return {"genotype": self.genotype.to_json(), "score": score, "source": self.source}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], masks: Masks | None = None) -> Trial:
        """Reads `to_json`'s value; of the masks it holds only a digest, which these must have."""
        score = math.nan if value["score"] is None else value["score"]
        return cls(Genotype.from_json(value["genotype"], masks), score, value["source"])


def rank(trials: Sequence[Trial]) -> list[Trial]:
    """The trials from best to worst; equal scores keep their order, NaN comes last."""
    return sorted(trials, key=lambda trial: (math.isnan(trial.score), -trial.score))


def mean_score(trials: Sequence[Trial]) -> float:
    """The mean of the trials' scores, of which there is one at least."""
    return float(np.mean([trial.score for trial in trials]))


class Conclusion(NamedTuple):
    """What a search came to.

    Attributes:
      trials: those to keep, best first.
      comparisons: its figures beside those of its controls.
      figures: its other figures.
    """

    trials: list[Trial]
    comparisons: Sequence[Comparison]
    figures: dict[str, Any]


class SearchCallback(Protocol):
    """What `search` calls.

    A callback may also have `on_step_end(searcher, step, steps)`, called within an epoch, and while the final
    candidates are measured: then `searcher.concluding` is true and the steps are theirs. The searcher's state can be
    taken there, too; an exception ends the search.
    """

    def on_epoch_end(self, searcher: Searcher, epoch: int, metrics: dict[str, float]) -> None:
        """After all that epoch `epoch` (from 0) does; the searcher's state already counts it as finished."""


class Searcher(abc.ABC):
    """Base class of the searches.

    Args:
      space: the architectures to search.
      config: the search's settings; they say how long it runs unless `search` is told otherwise.
      seed: of every random choice, at least 0.
      directory: where the state is saved after each epoch, in `project_name`; `None` saves nothing.
      project_name: a directory within `directory`.

    Attributes:
      epoch: finished epochs.
      history: the metrics of each of them.
      trials: the architectures kept at the end, best first.
      results: the search's figures, `None` until it has finished.
      concluding: whether the final candidates are being measured: no epoch is under way any more.
      progress: what is done of the epoch or of the final measurements under way; None between them.
      rate_scale: multiplies the learning rate of the shared weights; 1 unless it is set before `search`.
    """

    supernet: Superset  # a subclass makes it
    source = "search"  # of the trials that `get_best_genotypes` chooses among
    unit = "epoch"  # what an epoch of this search is called

    def __init__(
        self,
        space: Space,
        config: GradientConfig,
        *,
        seed: int = 0,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
    ) -> None:
        if seed < 0:
            raise ValueError(f"`seed` must be at least 0. Received: {seed}.")
        self.space = space
        self.config = config
        self.seed = seed
        self.project_dir = None if directory is None else Path(directory) / (project_name or "search")
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.trials: list[Trial] = []
        self.results: dict[str, Any] | None = None
        self.concluding = False
        self.progress: Progress | None = None
        self.rate_scale = 1.0
        self._callbacks: Sequence[SearchCallback] = ()
        self._restored_optimizer: dict[str, np.ndarray] = {}

    # What a subclass provides.

    @abc.abstractmethod
    def prepare(self, train_batches: Any, validation_data: Any, epochs: int) -> None:
        """Called once by `search`, before its first epoch."""

    @abc.abstractmethod
    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Does all of epoch `epoch` that `progress` does not say is done, sets it to None, and returns the metrics."""

    @abc.abstractmethod
    def conclude(self) -> Conclusion:
        """Measures the final candidates.

        It depends on seed and state only: interrupted, it is run again with the same result; what `progress` says is
        done need not be done again.
        """

    @abc.abstractmethod
    def build_model(self, genotype: Genotype) -> keras.Model:
        """A model of one architecture, from images [B, H, W, C] to logits [B, classes], on the shared weights."""

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """How many epochs the settings ask for."""

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
        train_batches: Any,
        *,
        validation_data: Any,
        epochs: int | None = None,
        callbacks: Sequence[SearchCallback] = (),
    ) -> dict[str, Any]:
        """Searches; a restored state is resumed.

        Args:
          train_batches: `Batches` of the training split.
          validation_data: `Batches` of the validation split.
          epochs: how many epochs there are in all; by default `length`.
          callbacks: called after each epoch.

        Returns:
          `results`.

        Raises:
          TypeError: the data are no `nhn_tf.data.batches.Batches`.
          nhn_tf.training.DivergedError: the shared weights' gradient is no longer finite.
        """
        for name, value in (("train_batches", train_batches), ("validation_data", validation_data)):
            if not isinstance(value, Batches):
                raise TypeError(f"`{name}` must be nhn_tf.data.batches.Batches. Received: {type(value).__name__}.")
        epochs = self.length if epochs is None else epochs
        self._callbacks = tuple(callbacks)
        self.prepare(train_batches, validation_data, epochs)
        if self.epoch < epochs and self.progress is not None and self.progress.phase == "ranking":
            self.progress = None  # it was about to finish a shorter search
        while self.epoch < epochs:
            metrics = self.run_epoch(self.epoch)
            self.history.append(metrics)
            self.epoch += 1
            self.trials, self.results = [], None  # of a shorter search before this one
            if self.project_dir is not None:
                self.save()
            for callback in self._callbacks:
                callback.on_epoch_end(self, self.epoch - 1, metrics)
        return self.finish()

    def finish(self) -> dict[str, Any]:
        """Ranks the final candidates, unless that has been done, and returns `results`."""
        if self.results is None:
            self.concluding = True
            try:
                trials, comparisons, figures = self.conclude()
            finally:
                self.concluding = False
            self.trials, self.results = trials, figures
            for comparison in comparisons:
                self.results |= comparison.metrics()
            self.progress = None
            if self.project_dir is not None:
                self.save()
        return self.results

    @property
    def comparisons(self) -> list[Comparison]:
        """The search's figures beside those of its controls, as far as they were measured; none before the end."""
        return Comparison.read(self.results or {})

    def results_summary(self, num_trials: int = 10) -> None:
        """Prints the best trials."""
        best = self.get_best_trials(num_trials)
        print(f"Results after {self.epoch} {self.unit}s: {len(best)} best of {len(self.trials)} trials")
        for place, trial in enumerate(best, 1):
            print(f"{place:3d}. score {trial.score:.4f} ({trial.source})")
            for row in self.describe(trial.genotype):
                print(f"     {row}")

    def describe(self, genotype: Genotype) -> list[str]:
        """What was searched of a genotype, in lines."""
        return genotype.to_enas_text().splitlines()

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best trials of the search itself, not of its control."""
        return [trial for trial in self.trials if trial.source == self.source][:num_trials]

    def get_best_genotypes(self, num_trials: int = 1) -> list[Genotype]:
        return [trial.genotype for trial in self.get_best_trials(num_trials)]

    def get_best_models(self, num_trials: int = 1) -> list[keras.Model]:
        """The best architectures as models with the weights that they were scored with."""
        return [self.build_model(genotype) for genotype in self.get_best_genotypes(num_trials)]

    # State.

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Every array that the rest of the search depends on, by name. Subclasses add theirs."""
        return {}

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
        }

    def identity(self) -> dict[str, Any]:
        """What must agree for a state to be taken over."""
        return {
            "class": type(self).__name__,
            "space": self.space.to_json(),
            "config": self.config.to_json(),
            "seed": self.seed,
        }

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Takes over a state, before `search`. Subclasses take theirs first, so that a bad one changes nothing here.

        Args:
          arrays: what `state_arrays` returned.
          values: what `state_values` returned, also after JSON.

        Raises:
          ValueError: the state is of another search.
        """
        self.epoch = values["epoch"]
        self.history = [dict(metrics) for metrics in values["history"]]
        self.progress = Progress.from_json(values["underway"])
        self.rate_scale = values["rate_scale"]
        self.trials = self.read_trials(arrays, values["trials"])
        self.results = values["results"]

    def read_trials(self, arrays: Mapping[str, np.ndarray], values: Sequence[Mapping[str, Any]]) -> list[Trial]:
        """The trials of a state; subclasses whose genotypes have masks add them."""
        return [Trial.from_json(value) for value in values]

    def check_identity(self, values: Mapping[str, Any]) -> None:
        """Refuses the state of another search.

        Raises:
          ValueError: it names the first thing that differs.
        """
        ours, theirs = json.loads(json.dumps(self.identity())), values["search"]
        for name in ours:
            if ours[name] != theirs[name]:
                raise ValueError(f"The state is of another {name}: {theirs[name]}. This search's: {ours[name]}.")

    def save(self) -> None:
        """Writes the state into `project_dir` as one file, atomically."""
        files.save_sealed_npz(self._state_path(), self.state_arrays(), self.state_values())

    def reload(self) -> bool:
        """Takes over the state in `project_dir`, if there is one; returns whether there was."""
        try:
            arrays, values = files.load_sealed_npz(self._state_path())
        except FileNotFoundError:
            return False
        self.restore(arrays, values)
        return True

    def _state_path(self) -> Path:
        if self.project_dir is None:
            raise ValueError("Saving a search needs `directory`. Received: None.")
        return self.project_dir / "state.npz"

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
        for callback in self._callbacks:
            if hasattr(callback, "on_step_end"):
                callback.on_step_end(self, step, steps)
