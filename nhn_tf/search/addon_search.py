"""What both halves of the location-direction search share: cycles over a frozen network, and a fair comparison.

Letters: K population, M training iterations of an individual in a cycle, N fitness batches, G genes, B batch,
H W C image.
Source: paper, section 2.3 (algorithm 1) and section 3.
"""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from nhn_tf import training
from nhn_tf.data import given
from nhn_tf.data.batches import Batches
from nhn_tf.models import AddonSupernet, GenedBatches, network, weights
from nhn_tf.search.history import joined, part_of
from nhn_tf.search.progress import Progress
from nhn_tf.search.searcher import Searcher, data_shape
from nhn_tf.search.trials import Trial, rank, sampling_noise
from nhn_tf.settings import LdsConfig
from nhn_tf.storage import files
from nhn_tf.training import optimizers
from nhn_tf.values import names
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.randomness import Stream

logger = logging.getLogger(__name__)


class Stretch:
    """Consecutive batches of an endless stream that passes through `batches` epoch after epoch.

    Args:
      batches: where they come from.
      first: number of the first batch since the stream began.
      count: how many.
    """

    def __init__(self, batches: given.TrainingBatches, first: int, count: int):
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
      form: as the network was built with.
      **project: `objective`, `seed`, `directory`, `project_name`, `overwrite` and `logger`, as for `Searcher`.

    Attributes:
      supernet: the frozen network and the shared add-on weights.
      base_accuracy: of the network without add-ons, on the evaluation images; `None` before `search`.

    Raises:
      ValueError: the weights are not those of this network in this form.
    """

    unit = "cycle"
    objective_metric = "mean_fitness"
    own_objective = "a `fitness` of a subclass"
    better: ClassVar[Mapping[str, str]] = {
        "loss": "min", "accuracy": "max", "val_accuracy": "max", "train_loss": "min", "train_accuracy": "max", "lr": "",
        "best_fitness": "max", "mean_fitness": "max", "median_fitness": "max", "best_so_far": "max",
        "base_accuracy": "", "nan_fitness": "min", "fitness_noise": "",
    }  # fmt: skip

    def __init__(
        self,
        genotype: Genotype,
        arrays: Mapping[str, np.ndarray],
        config: LdsConfig,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        form: Form = Form(),
        **project: Any,
    ) -> None:
        super().__init__(genotype.space, config, **project)
        self.config: LdsConfig = config
        self.genotype = genotype
        self.input_shape, self.num_classes = data_shape(input_shape, num_classes)
        self.form = form
        self.base_accuracy: float | None = None
        keras.utils.set_random_seed(self.seed)
        self._check_width(arrays)
        self.supernet = self.build_supernet(input_shape=self.input_shape, num_classes=self.num_classes, form=form)
        try:
            self.supernet.load_base(arrays)
        except ValueError as error:
            raise ValueError(
                f"`arrays` must be the weights of `genotype` in `form`: {error} Received: form={form}. Give the `form` "
                "that the network was built with."
            ) from None
        self._base_digest = files.digest_arrays(self._base_arrays())
        # Of each trial, its add-ons' arrays by path, masks included.
        self._candidates: list[dict[str, np.ndarray]] = []

    def _check_width(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuses a form whose width is not that of the weights, before masks and layers disagree in their own words.

        Raises:
          ValueError: it is another.
        """
        stem = arrays.get(f"{names.STEM_CONV}/kernel")
        if stem is not None and stem.shape[-1] != self.form.filters:
            raise ValueError(
                f"`form` must be that which the network was built with: its stem has {stem.shape[-1]} filters. "
                f"Received: {self.form}. Give form=Form(filters={stem.shape[-1]}, ...), of nhn_tf.values.form."
            )

    # What a subclass provides.

    @abc.abstractmethod
    def build_supernet(self, **kwargs: Any) -> AddonSupernet:
        """The supernet; `kwargs` are those that both kinds share."""

    @abc.abstractmethod
    def propose(self, cycle: int) -> np.ndarray:
        """The genes int32 [K, G] of a cycle's individuals; makes the supernet ready for them."""

    @abc.abstractmethod
    def select(self, genotype: Genotype) -> np.ndarray:
        """The genes int32 [G] under which the supernet is a genotype's network; makes it ready for them."""

    @abc.abstractmethod
    def learn(self, cycle: int, fitness: np.ndarray) -> dict[str, float]:
        """Takes in the fitness float [K] of a cycle (NaN: could not be measured); returns metrics of its own."""

    # The loop.

    @property
    def length(self) -> int:
        return self.config.cycles

    @property
    def steps_per_epoch(self) -> int:
        return self.config.population

    @property
    def evaluations(self) -> int:
        """Fitness measurements made so far."""
        return self.epoch * self.config.population

    def prepare(self, train_batches: given.TrainingBatches, validation_data: Batches, epochs: int) -> None:
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
            balanced=validation_data.balanced,
            shuffle=True,
            seed=int(self.rng(Stream.FITNESS_ORDER).integers(2**31)),
            drop_remainder=True,
        )
        self.base_accuracy = training.accuracy(
            self._build_network(self.genotype.without_addons(), self._base_arrays()), validation_data
        )

    def _compile(self, steps: int) -> None:
        """Compiles the supernet with one cosine over `steps` iterations; only add-ons get optimizer slots."""
        config = self.config
        total = max(steps, 1)
        schedule = optimizers.CosineRestarts(
            config.lr_max * self.rate_scale, config.lr_min * self.rate_scale, period_steps=total, total_steps=total
        )
        optimizer = optimizers.nesterov(config, schedule)
        training.compile_classifier(self.supernet, optimizer)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One cycle: every individual trains and is measured; then the next ones are made.

        In a resumed cycle only those individuals come that have not had their turn.
        """
        population = self.config.population
        if self.progress is None:
            rate = float(keras.ops.convert_to_numpy(self.supernet.optimizer.learning_rate))
            self.progress = Progress("individuals", done={"lr": rate, "individuals": []})
        rate, done = self.progress.done["lr"], list(self.progress.done["individuals"])
        genes = self.propose(epoch)
        for individual in range(len(done), population):
            number = epoch * population + individual
            loss, accuracy = self._train(genes[individual], number)
            done.append((loss, accuracy, self._measure(genes[individual], number)))
            self.progress = self.progress.advanced(len(done), individuals=list(done))
            self.report_step(individual + 1, population)
        losses, accuracies, fitness = np.array(done).T
        metrics = {
            "train_loss": float(np.mean(losses)),
            "train_accuracy": float(np.mean(accuracies)),
            "lr": rate,
        }
        self.progress = None
        self.measured.add(epoch, genes, fitness)
        return {**metrics, **self._fitness_metrics(epoch, fitness), **self.learn(epoch, fitness)}

    def _train(self, genes: np.ndarray, number: int) -> tuple[float, float]:
        """Trains the `number`-th individual since the search began for M iterations; returns mean loss and accuracy."""
        count = self.config.iterations
        if not count:
            return 0.0, 0.0
        stretch = Stretch(self._train_batches, number * count, count)
        logs = training.train_briefly(self.supernet, GenedBatches(stretch, genes))
        return logs["loss"], logs["accuracy"]

    def _measure(self, genes: np.ndarray, number: int) -> float:
        """The fitness of the `number`-th individual since the search began, on the next N fitness batches.

        Paired, the next ones are the cycle's: their noise is then common to all individuals, and not a part of ranks.
        """
        count, turn = self.config.fitness_batches, number
        if self.config.paired_fitness:
            turn //= self.config.population
        stretch = Stretch(self._fitness_batches, turn * count, count)
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

    @property
    def _fitness_images(self) -> int:
        """Different images that a fitness is measured on."""
        count = self.config.fitness_batches * self._fitness_batches.batch_size
        return min(count, len(self._fitness_batches.split))

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
            "median_fitness": float(np.median(measured)) if measured.size else math.nan,
            "best_so_far": float(np.nanmax(seen)) if not np.isnan(seen).all() else math.nan,
            "base_accuracy": math.nan if self.base_accuracy is None else self.base_accuracy,
            "nan_fitness": float(failed.sum()),
            "fitness_noise": sampling_noise(fitness, self._fitness_images),
        }

    # The end.

    def compare(self, candidates: Sequence[tuple[Genotype, str]]) -> list[Trial]:
        """Trains and measures the final candidates, each as if it were the only one.

        Each trains for M iterations, from the same shared weights and optimizer state, on the same batches, and is
        then measured on all evaluation images. Shared weights and optimizer are afterwards as before.

        Args:
          candidates: genotypes, and what proposed them.

        Returns:
          Their trials, best first. `network_arrays` has the weights that they were measured with.
        """
        before, optimizer = self._shared_arrays(), self.supernet.optimizer
        compared: list[tuple[Trial, dict[str, np.ndarray]]] = []
        for number, (genotype, source) in enumerate(candidates, 1):
            genes = self.select(genotype)
            self._train(genes, self.evaluations)
            score = float(self.supernet.accuracies(genes[None], self._validation_data)[0])
            compared.append((Trial(genotype, score, source), self.supernet.addon_arrays(genotype)))
            weights.assign(self._learned(), part_of("supernet", before))
            weights.assign({v.path: v for v in optimizer.variables}, part_of("optimizer", before))
            self.report_step(number, len(candidates))
        order = rank([trial for trial, _ in compared])
        self._candidates = [next(arrays for trial, arrays in compared if trial is best) for best in order]
        return order

    def network_arrays(self, genotype: Genotype) -> dict[str, np.ndarray]:
        """Every variable of a trial's network, by path, its add-ons as trained to be measured: what others inherit.

        Raises:
          ValueError: the genotype is none of the trials'.
        """
        for trial, arrays in zip(self.trials, self._candidates, strict=True):
            if trial.genotype == genotype:
                return {**self._base_arrays(), **arrays}
        raise ValueError("`genotype` must be that of one of the search's trials. Received: another one.")

    def build_model(self, genotype: Genotype) -> keras.Model:
        """The network of one of the trials, on copies of the weights it was measured with."""
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

    def _build_network(self, genotype: Genotype, arrays: Mapping[str, np.ndarray]) -> keras.Model:
        model = network.build(genotype, input_shape=self.input_shape, num_classes=self.num_classes, form=self.form)
        weights.from_arrays(model, arrays)
        return model

    def _base_arrays(self) -> dict[str, np.ndarray]:
        return {path: np.array(keras.ops.convert_to_numpy(v)) for path, v in self.supernet.base_variables.items()}

    # State.

    def state_arrays(self) -> dict[str, np.ndarray]:
        arrays = {**self._shared_arrays(), **super().state_arrays()}
        candidates = enumerate(self._candidates[: len(self.trials)])
        return arrays | joined({f"candidate{number}": candidate for number, candidate in candidates})

    def _shared_arrays(self) -> dict[str, np.ndarray]:
        """The shared add-on weights and the optimizer's state."""
        addons = {path: np.array(keras.ops.convert_to_numpy(v)) for path, v in self._learned().items()}
        return joined({"supernet": addons, "optimizer": self._optimizer_arrays()})

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.check_identity(values)
        weights.assign(self._learned(), part_of("supernet", arrays))
        self._restored_optimizer = part_of("optimizer", arrays)
        super().restore(arrays, values)
        self._candidates = [self.candidate_arrays(arrays, number) for number in range(len(self.trials))]

    def candidate_arrays(self, arrays: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
        """Out of a state, the add-ons of trial `number`, from 0, by path."""
        return part_of(f"candidate{number}", arrays)

    def _learned(self) -> dict[str, keras.Variable]:
        """What training changes, by path; not the masks of a cycle, which are drawn anew."""
        return {path: v for path, v in self.supernet.addon_variables.items() if not path.endswith("/masks")}

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "genotype": self.genotype.digest,
            "base network": self._base_digest,
            "form": self.form.to_json(),
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
        }
