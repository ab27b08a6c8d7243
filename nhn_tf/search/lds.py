"""Location-direction search: where add-on neurons join a trained network, and then which connections they have.

Letters: K population, M training iterations of an individual in a cycle, N fitness batches, T cycles, G genes, B batch,
H W C image.
Source: paper, section 2.3 (algorithm 1) and section 3.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from nhn_tf import files, training
from nhn_tf.configs import DirectionConfig, LdsConfig, LocationConfig
from nhn_tf.data.batches import Batches
from nhn_tf.genotype import Genotype
from nhn_tf.locations import LocationSpace
from nhn_tf.masks import Masks
from nhn_tf.models import AddonSupernet, DirectionSupernet, GenedBatches, LocationSupernet, network, weights
from nhn_tf.pruning.criteria import kernel_std
from nhn_tf.search.enas import distinct_rows
from nhn_tf.search.evolution import Evolution, Population, generate_direction, strongest_direction
from nhn_tf.search.searcher import Searcher, Trial, rank

logger = logging.getLogger(__name__)

EVOLUTION, RANDOM = "evolution", "random"  # sources of location trials
BEST_SEEN, STRONGEST = "best seen", "strongest"  # what proposed a direction


class Stream(enum.IntEnum):
    """What random numbers are drawn for; each purpose has generators of its own."""

    START = 0  # the first population
    RENEWAL = 1  # crossovers and new individuals after a cycle
    RANDOM = 2  # the random control
    FITNESS_ORDER = 3  # order of the images that measure fitness
    DIRECTIONS = 4  # the masks of a cycle


class Stretch:
    """Consecutive batches of an endless stream that passes through `batches` epoch after epoch.

    Args:
      batches: where they come from.
      first: number of the first batch since the stream began.
      count: how many.
    """

    def __init__(self, batches: Batches, first: int, count: int):
        self._batches = batches
        self._first = first
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self._count:
            raise IndexError(f"`index` must be at least 0 and below {self._count}. Received: {index}.")
        return self._batches.batch(*divmod(self._first + index, len(self._batches)))


class AddonSearch(Searcher):
    """What both halves share: cycles in which each individual trains and is then measured (algorithm 1).

    In a cycle each of K individuals in turn trains the shared add-on weights for M iterations and is then measured on N
    batches. The training batches of all individuals and cycles are one stream, and so are the fitness batches. The
    learning rate falls along one cosine over all iterations of the search.

    Building a search seeds Keras, NumPy and the backend (`keras.utils.set_random_seed`): the add-ons' weights start
    from that seed.

    Args:
      genotype: the network to grow, with its masks.
      arrays: its weights by path, as `nhn_tf.models.weights.to_arrays` gives them.
      config: the search's settings. `eval_split` is only reported: the caller brings the batches.
      input_shape: (H, W, C) of the images.
      num_classes: of the labels.
      form: keyword arguments of `network.build` that the network was built with: filters, width_growth, ....
      seed: of every random choice, at least 0.
      steps_per_execution: training steps run in one call, see `keras.Model.compile`.
      directory: as for `Searcher`.
      project_name: as for `Searcher`.

    Attributes:
      supernet: the frozen network and the shared add-on weights.
      base_accuracy: of the network without add-ons, on the evaluation images; `None` before `search`.
    """

    unit = "cycle"

    def __init__(
        self,
        genotype: Genotype,
        arrays: Mapping[str, np.ndarray],
        config: LdsConfig,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        form: Mapping[str, Any] | None = None,
        seed: int = 0,
        steps_per_execution: int = 1,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
    ) -> None:
        super().__init__(genotype.space, config, seed=seed, directory=directory, project_name=project_name)
        self.config: LdsConfig = config
        self.genotype = genotype
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.form = dict(form or {})
        self.steps_per_execution = steps_per_execution
        self.base_accuracy: float | None = None
        keras.utils.set_random_seed(seed)
        self.supernet = self.build_supernet(input_shape=self.input_shape, num_classes=self.num_classes, **self.form)
        self.supernet.load_base(arrays)
        self._base_digest = files.digest_arrays(self._base_arrays())
        self._restored_optimizer: dict[str, np.ndarray] = {}

    # What a subclass provides.

    @abc.abstractmethod
    def build_supernet(self, **kwargs: Any) -> AddonSupernet:
        """The supernet; `kwargs` are those that both kinds share."""

    @abc.abstractmethod
    def propose(self, cycle: int) -> np.ndarray:
        """The genes int32 [K, G] of a cycle's individuals; makes the supernet ready for them."""

    @abc.abstractmethod
    def learn(self, cycle: int, fitness: np.ndarray) -> dict[str, float]:
        """Takes in the fitness float [K] of a cycle (NaN: could not be measured); returns metrics of its own."""

    # The loop.

    @property
    def length(self) -> int:
        return self.config.cycles

    @property
    def evaluations(self) -> int:
        """Fitness measurements made so far."""
        return self.epoch * self.config.population

    def prepare(self, train_batches: Batches, validation_data: Batches, epochs: int) -> None:
        """Compiles the supernet for a schedule of `epochs` cycles and sets up the two streams of batches."""
        optimizer_arrays = self._optimizer_arrays()
        self._compile(epochs * self.config.population * self.config.iterations)
        if optimizer_arrays:
            weights.assign({v.path: v for v in self.supernet.optimizer.variables}, optimizer_arrays)
            self._restored_optimizer = {}
        self._train_batches = train_batches
        self._validation_data = validation_data
        self._fitness_batches = Batches(
            validation_data.split,
            batch_size=min(self.config.fitness_batch_size, len(validation_data.split)),
            normalization=validation_data.normalization,
            shuffle=True,
            seed=int(self.rng(Stream.FITNESS_ORDER).integers(2**31)),
            drop_remainder=True,
        )
        self.base_accuracy = training.accuracy(self._build_network(self._bare(), self._base_arrays()), validation_data)

    def _compile(self, steps: int) -> None:
        """Compiles the supernet with one cosine over `steps` iterations; only add-ons get optimizer slots."""
        config = self.config
        total = max(steps, 1)
        schedule = training.CosineRestarts(config.lr_max, config.lr_min, period_steps=total, total_steps=total)
        optimizer = training.nesterov(config, schedule)
        training.compile_classifier(self.supernet, optimizer, steps_per_execution=self.steps_per_execution)
        optimizer.build(self.supernet.trainable_variables)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One cycle: every individual trains and is measured; then the next ones are made."""
        population, losses, accuracies = self.config.population, [], []
        fitness = np.full(population, np.nan)
        rate = float(keras.ops.convert_to_numpy(self.supernet.optimizer.learning_rate))
        for individual, genes in enumerate(self.propose(epoch)):
            number = epoch * population + individual
            loss, accuracy = self._train(genes, number)
            losses.append(loss)
            accuracies.append(accuracy)
            fitness[individual] = self._measure(genes, number)
            self.report_step(individual + 1, population)
        if not np.isfinite(losses).all():
            logger.warning("The add-ons have diverged in cycle %d: losses are not finite. Lower lr_max.", epoch + 1)
        metrics = {"train_loss": float(np.mean(losses)), "train_accuracy": float(np.mean(accuracies)), "lr": rate}
        return {**metrics, **self._fitness_metrics(epoch, fitness), **self.learn(epoch, fitness)}

    def _train(self, genes: np.ndarray, number: int) -> tuple[float, float]:
        """Trains the `number`-th individual since the search began for M iterations; returns mean loss and accuracy."""
        count = self.config.iterations
        if not count:
            return 0.0, 0.0
        stretch = Stretch(self._train_batches, number * count, count)
        logs = self.supernet.fit(GenedBatches(stretch, genes), shuffle=False, verbose=0).history
        return float(logs["loss"][-1]), float(logs["accuracy"][-1])

    def _measure(self, genes: np.ndarray, number: int) -> float:
        """The fitness of the `number`-th individual since the search began, on the next N fitness batches."""
        count = self.config.fitness_batches
        stretch = Stretch(self._fitness_batches, number * count, count)
        return float(np.mean([self.fitness(genes, *stretch[index]) for index in range(count)]))

    def fitness(self, genes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
        """What is maximised: accuracy under the shared weights. Override it to search for something else.

        Args:
          genes: int32 [G].
          images: float32 [B, H, W, C], evaluation images.
          labels: int32 [B].

        Returns:
          The fitness, larger is better. NaN ranks last and is reported.
        """
        return self.supernet.accuracy(genes, images, labels)

    def _fitness_metrics(self, cycle: int, fitness: np.ndarray) -> dict[str, float]:
        failed = np.isnan(fitness)
        if failed.any():
            logger.warning(
                "%d of %d fitnesses in cycle %d are NaN and rank last.", failed.sum(), len(fitness), cycle + 1
            )
        measured = fitness[~failed]
        best = float(measured.max()) if measured.size else math.nan
        seen = [best, *(metrics["best_so_far"] for metrics in self.history)]
        return {
            "best_fitness": best,
            "mean_fitness": float(measured.mean()) if measured.size else math.nan,
            "best_so_far": float(np.nanmax(seen)) if not np.isnan(seen).all() else math.nan,
            "base_accuracy": math.nan if self.base_accuracy is None else self.base_accuracy,
            "nan_fitness": float(failed.sum()),
        }

    # The end.

    def network_arrays(self, genotype: Genotype) -> dict[str, np.ndarray]:
        """Every variable of the network of one of this search's genotypes, by path: what a later stage inherits."""
        return self.supernet.network_arrays(genotype)

    def build_model(self, genotype: Genotype) -> keras.Model:
        """The network of one of this search's genotypes, on copies of the weights."""
        return self._build_network(genotype, self.network_arrays(genotype))

    def describe(self, genotype: Genotype) -> list[str]:
        return [
            f"layer {addon.target}: {addon.kernel_size}x{addon.kernel_size} from "
            + ("the segment's input" if addon.source == 0 else f"layer {self._first(addon.target) + addon.source - 1}")
            for addon in genotype.addons
        ]

    def _first(self, layer: int) -> int:
        """The first layer of a layer's segment."""
        return layer - layer % self.space.layers_per_segment

    def _bare(self) -> Genotype:
        """The network without add-ons."""
        own = {f"addon{number}_conv" for number in range(len(self.genotype.addons))}
        masks = self.genotype.masks
        if masks is not None:
            masks = Masks({name: mask for name, mask in masks.items() if name not in own})
        return dataclasses.replace(self.genotype, addons=(), masks=masks)

    def _build_network(self, genotype: Genotype, arrays: Mapping[str, np.ndarray]) -> keras.Model:
        model = network.build(genotype, input_shape=self.input_shape, num_classes=self.num_classes, **self.form)
        weights.from_arrays(model, arrays)
        return model

    def _base_arrays(self) -> dict[str, np.ndarray]:
        return {path: np.array(keras.ops.convert_to_numpy(v)) for path, v in self.supernet.base_variables.items()}

    # State.

    def state_arrays(self) -> dict[str, np.ndarray]:
        addons = {path: np.array(keras.ops.convert_to_numpy(v)) for path, v in self._learned().items()}
        return {**_prefixed("supernet", addons), **_prefixed("optimizer", self._optimizer_arrays())}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.check_identity(values)
        weights.assign(self._learned(), _part("supernet", arrays))
        self._restored_optimizer = _part("optimizer", arrays)
        super().restore(arrays, values)

    def _learned(self) -> dict[str, keras.Variable]:
        """What training changes, by path; not the masks of a cycle, which are drawn anew."""
        return {path: v for path, v in self.supernet.addon_variables.items() if not path.endswith("/masks")}

    def _optimizer_arrays(self) -> dict[str, np.ndarray]:
        """State of the supernet's optimizer by variable path; before `prepare`, what was restored for it."""
        if self._restored_optimizer or not self.supernet.compiled:
            return self._restored_optimizer
        return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in self.supernet.optimizer.variables}

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "genotype": self.genotype.digest,
            "base network": self._base_digest,
            "form": self.form,
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
        }


class LocationSearch(AddonSearch):
    """Searches which layers add-on neurons join, by a genetic algorithm over location codes.

    At the end the survivors of the last cycle, and as many random codes as a control, are ranked by their accuracy on
    all evaluation images, each under the shared weights as they then are (`docs/decisions.md`, "Best location").

    Attributes:
      population: the codes that the next cycle measures.
      evolution: how they come about.

    Example:

        searcher = LocationSearch(genotype, arrays, LocationConfig(), input_shape=(32, 32, 3), num_classes=10)
        searcher.search(train_batches, validation_data=val_batches)
        genotype = searcher.get_best_genotypes(1)[0]
        arrays = searcher.network_arrays(genotype)
    """

    source = EVOLUTION

    def __init__(
        self, genotype: Genotype, arrays: Mapping[str, np.ndarray], config: LocationConfig, **kwargs: Any
    ) -> None:
        super().__init__(
            genotype, arrays, config, **{**kwargs, "project_name": kwargs.get("project_name") or "location"}
        )
        self.config: LocationConfig = config
        self.evolution = Evolution(
            LocationSpace(genotype.space),
            size=config.population,
            none_probability=config.none_probability,
            mutation=config.mutation,
            mutation_rate=config.mutation_rate,
        )
        self.population = self.evolution.start(self.rng(Stream.START))

    def build_supernet(self, **kwargs: Any) -> LocationSupernet:
        return LocationSupernet(self.genotype, **kwargs)

    def propose(self, cycle: int) -> np.ndarray:
        return self.evolution.ask(self.population)

    def learn(self, cycle: int, fitness: np.ndarray) -> dict[str, float]:
        distinct = len(np.unique(self.population.genes, axis=0))
        self.population = self.evolution.tell(self.population, fitness, self.rng(Stream.RENEWAL, cycle))
        return {
            "addons": float((self._survivors() >= 0).sum(axis=1).mean()),
            "distinct": distinct / self.config.population,
        }

    def _survivors(self) -> np.ndarray:
        """The better half of the last cycle, int32 [K // 2, G], best first."""
        return self.population.genes[: self.evolution.survivors]

    def search_space_summary(self) -> None:
        locations = self.evolution.locations
        print(f"Search space: {self.space.num_layers} layers in {self.space.num_segments} segments")
        print("  each layer, 3x3 and 5x5: an add-on from its segment's input or an earlier layer of it, or none")
        print(f"  locations: {locations.size():.3g} with an add-on everywhere, {locations.size_with_none():.3g} in all")

    def conclude(self) -> tuple[list[Trial], dict[str, Any]]:
        """Ranks the survivors of the last cycle and the random control on all evaluation images."""
        codes = distinct_rows(self._survivors())
        found = self._rank(codes, EVOLUTION)
        control: list[Trial] = []
        if self.config.random_control:
            drawn = self.evolution.generate(len(codes), self.rng(Stream.RANDOM))
            control = self._rank(drawn, RANDOM)
        best = found[0]
        results = {
            "val_accuracy": best.score,
            "random_search_val_accuracy": control[0].score if control else None,
            "base_val_accuracy": self.base_accuracy,
            "mean_val_accuracy": float(np.mean([trial.score for trial in found])),
            "random_search_mean_val_accuracy": float(np.mean([t.score for t in control])) if control else None,
            "addons": len(best.genotype.addons),
            "evaluations": self.evaluations,
            "codes_ranked": len(found),
            "random_codes_ranked": len(control),
            "search_space_size": float(self.evolution.locations.size()),
            "eval_split": self.config.eval_split,
        }
        return rank(found + control), results

    def _rank(self, codes: np.ndarray, source: str) -> list[Trial]:
        """Trials of codes int32 [n, G], best first."""
        scores = self.supernet.accuracies(codes, self._validation_data)
        addons = (self.evolution.locations.to_addons(code) for code in codes)
        return rank(
            [
                Trial(dataclasses.replace(self.genotype, addons=found), float(score), source)
                for found, score in zip(addons, scores, strict=True)
            ]
        )

    def state_arrays(self) -> dict[str, np.ndarray]:
        return {**super().state_arrays(), "population": self.population.genes}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        population = Population(arrays["population"])
        super().restore(arrays, values)
        self.population = population

    def read_trials(self, arrays: Mapping[str, np.ndarray], values: Sequence[Mapping[str, Any]]) -> list[Trial]:
        return [Trial.from_json(value, self.genotype.masks) for value in values]


class DirectionSearch(AddonSearch):
    """Searches which connections add-on neurons at given locations have.

    Every cycle measures K random directions that keep `config.density` of each add-on's connections; there is neither
    crossover nor mutation. At the end two candidates are trained for M iterations each, from the same shared weights
    on the same batches, and compared on all evaluation images: the best direction seen, and the connections whose
    shared kernels have the highest standard deviation (`docs/decisions.md`, "Final directions").

    Args:
      genotype: with the add-ons whose connections are searched.
      arrays: weights by path; where they hold the add-ons' too, these are taken over.
      config: the search's settings.
      **kwargs: of `AddonSearch`.

    Attributes:
      best_seen: the cycle and the individual of the best direction so far, and its fitness; `None` before any.
    """

    source = "direction"

    def __init__(
        self, genotype: Genotype, arrays: Mapping[str, np.ndarray], config: DirectionConfig, **kwargs: Any
    ) -> None:
        super().__init__(
            genotype, arrays, config, **{**kwargs, "project_name": kwargs.get("project_name") or "direction"}
        )
        self.config: DirectionConfig = config
        self.supernet: DirectionSupernet
        if any(path.startswith("addon0_") for path in arrays):
            self.supernet.load_addons(arrays)
        self.best_seen: dict[str, Any] | None = None
        # Of each trial, its add-ons' arrays by path, masks included.
        self._candidates: list[dict[str, np.ndarray]] = []

    def build_supernet(self, **kwargs: Any) -> DirectionSupernet:
        return DirectionSupernet(self.genotype, directions=self.config.population, **kwargs)

    def directions(self, cycle: int) -> dict[str, np.ndarray]:
        """The masks of a cycle, bool [K, Cin, Cout] by layer name; a pure function of the seed."""
        return {
            name: np.stack(
                [
                    generate_direction(
                        kernel.shape[2:],
                        self.rng(Stream.DIRECTIONS, cycle, individual * len(self.genotype.addons) + number),
                        density=self.config.density,
                    )
                    for individual in range(self.config.population)
                ]
            )
            for number, (name, kernel) in enumerate(self.supernet.kernels.items())
        }

    def propose(self, cycle: int) -> np.ndarray:
        self.supernet.set_directions(self.directions(cycle))
        return np.arange(self.config.population, dtype=np.int32)[:, None]

    def learn(self, cycle: int, fitness: np.ndarray) -> dict[str, float]:
        individual = int(np.argmax(np.nan_to_num(fitness, nan=-np.inf)))
        if not np.isnan(fitness[individual]) and (
            self.best_seen is None or fitness[individual] > self.best_seen["fitness"]
        ):
            self.best_seen = {"cycle": cycle, "individual": individual, "fitness": float(fitness[individual])}
        return {}

    def search_space_summary(self) -> None:
        print(
            f"Search space: the connections of {len(self.genotype.addons)} add-ons at density {self.config.density:g}"
        )
        for row in self.describe(self.genotype):
            print(f"  {row}")

    def conclude(self) -> tuple[list[Trial], dict[str, Any]]:
        """Trains and compares the two candidates; the shared weights are afterwards as before."""
        density, kernels = self.config.density, self.supernet.kernels
        seen = self.best_seen or {"cycle": 0, "individual": 0, "fitness": math.nan}
        drawn = self.directions(seen["cycle"])
        candidates = {
            BEST_SEEN: {name: masks[seen["individual"]] for name, masks in drawn.items()},
            STRONGEST: {n: strongest_direction(kernel_std(kernel), density=density) for n, kernel in kernels.items()},
        }
        compared = [self._compare(masks, source) for source, masks in candidates.items()]
        order = rank([trial for trial, _ in compared])
        self._candidates = [next(arrays for trial, arrays in compared if trial is best) for best in order]
        scores = {trial.source: trial.score for trial, _ in compared}
        results = {
            "val_accuracy": order[0].score,
            "winner": order[0].source,
            "best_seen_val_accuracy": scores[BEST_SEEN],
            "strongest_val_accuracy": scores[STRONGEST],
            "base_val_accuracy": self.base_accuracy,
            "addon_kernels_kept": sum(int(mask.sum()) for mask in candidates[order[0].source].values()),
            "addon_kernels": sum(mask.size for mask in candidates[order[0].source].values()),
            "evaluations": self.evaluations,
            "eval_split": self.config.eval_split,
        }
        return order, results

    def _compare(self, masks: Mapping[str, np.ndarray], source: str) -> tuple[Trial, dict[str, np.ndarray]]:
        """The trial of one direction and its trained add-ons; shared weights and optimizer are as before afterwards."""
        before, optimizer = self.state_arrays(), self.supernet.optimizer
        population, everything = self.config.population, self._bare().masks
        self.supernet.set_directions({name: np.tile(mask, (population, 1, 1)) for name, mask in masks.items()})
        genes = np.zeros(1, np.int32)
        self._train(genes, self.evaluations)
        score = float(self.supernet.accuracies(genes[None], self._validation_data)[0])
        found = dataclasses.replace(self.genotype, masks=(everything or Masks({})).merge(masks))
        arrays = self.supernet.addon_arrays(found)
        weights.assign(self._learned(), _part("supernet", before))
        weights.assign({v.path: v for v in optimizer.variables}, _part("optimizer", before))
        return Trial(found, score, source), arrays

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The two candidates, the better one first."""
        return self.trials[:num_trials]

    def network_arrays(self, genotype: Genotype) -> dict[str, np.ndarray]:
        """Every variable of a candidate's network, by path, its add-ons as trained for the comparison.

        Raises:
          ValueError: the genotype is none of the candidates.
        """
        for trial, arrays in zip(self.trials, self._candidates, strict=True):
            if trial.genotype == genotype:
                return {**self._base_arrays(), **arrays}
        raise ValueError("`genotype` must be one of the search's trials. Received: another one.")

    def state_arrays(self) -> dict[str, np.ndarray]:
        candidates = [
            _prefixed(f"candidate{n}", arrays) for n, arrays in enumerate(self._candidates[: len(self.trials)])
        ]
        return {**super().state_arrays(), **{name: array for part in candidates for name, array in part.items()}}

    def state_values(self) -> dict[str, Any]:
        return {**super().state_values(), "best_seen": self.best_seen}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        super().restore(arrays, values)
        self.best_seen = values["best_seen"]
        self._candidates = [_part(f"candidate{number}", arrays) for number in range(len(self.trials))]

    def read_trials(self, arrays: Mapping[str, np.ndarray], values: Sequence[Mapping[str, Any]]) -> list[Trial]:
        base = self._bare().masks or Masks({})
        trials = []
        for number, value in enumerate(values):
            own = _part(f"candidate{number}", arrays)
            masks = {path.split("/")[0]: mask > 0 for path, mask in own.items() if path.endswith("/mask")}
            trials.append(Trial.from_json(value, base.merge(masks)))
        return trials


def _prefixed(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{part}:{path}": array for path, array in arrays.items()}


def _part(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of one part, by path."""
    return {name.removeprefix(f"{part}:"): array for name, array in arrays.items() if name.startswith(f"{part}:")}
