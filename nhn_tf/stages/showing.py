"""What TensorBoard shows of a stage beside its curves: kernels, what a search chooses, what it found.

All of it after few epochs, evenly spread, so that it costs little time and space (`docs/tensorboard.md`). It depends on
the state of the training or the search alone, so that a resumed one shows the same.

Letters: n kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from matplotlib.figure import Figure

from nhn_tf import pruning
from nhn_tf.models import keras_graph
from nhn_tf.pruning.criteria import kernel_std
from nhn_tf.report import choices, drawing, figures
from nhn_tf.runs.board import TENSORBOARD, TRAIN, Board
from nhn_tf.runs.event_writer import EventWriter
from nhn_tf.search import DirectionSearch, EnasSearch, LocationSearch
from nhn_tf.search.searcher import Searcher
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.randomness import Stream

PICTURES: Final = 8
HISTOGRAMS: Final = 40
"""So many of each tag a stage has at most, and one after the first epoch. Of ten pictures TensorBoard shows all."""
DRAWN: Final = 256
"""Architectures of the controller that its probabilities are taken from: they are right to 0.03 (one deviation)."""
RANKING: Final = "ranking"
"""The runs below hold the scores of a search's final candidates, one for each source."""


def is_due(epoch: int, total: int, most: int) -> bool:
    """Whether to show something after `epoch` (from 1) of `total`: the first, and `most` evenly spread, to the last."""
    return epoch == 1 or epoch * most // total > (epoch - 1) * most // total


class NetworkView:
    """A network in training: its graph, how its prunable kernels vary, which share is left, and at last the strongest.

    Args:
      board: where it is shown.
      model: the network.
      epochs: of the training.
    """

    def __init__(self, board: Board, model: keras.Model, epochs: int):
        self._board = board
        self._epochs = epochs
        self._model = model
        try:
            self._layers = pruning.prunable(model)
        except ValueError:  # it has none
            self._layers = {}
        self._is_masked = bool(pruning.masked_layers(model))
        if not board.first_step:  # else an earlier process has shown it
            nodes = keras_graph.trace(model).nodes.values()
            board.run(TRAIN).graph((node.name, node.kind.__name__, node.parents, node.shape) for node in nodes)

    def epoch(self, epoch: int) -> None:
        """Shows the network after epoch `epoch` (from 1), if it is due."""
        if not is_due(epoch, self._epochs, HISTOGRAMS):
            return
        events, masks = self._board.run(TRAIN), pruning.masks_of(self._model)
        kernels = {name: keras.ops.convert_to_numpy(layer.kernel) for name, layer in self._layers.items()}
        for name, kernel in kernels.items():
            std = kernel_std(kernel)
            kept = std[masks[name]] if name in masks else std
            if kept.size:
                events.histogram(f"kernel_std/{name}", kept, epoch)
        if self._is_masked:
            events.scalar("kept", 1.0 - masks.sparsity, epoch)
        if epoch == self._epochs and (squares := choices.strongest(kernels, masks)):
            show(events, "kernels", choices.of_kernels({"The strongest kernels": squares}), epoch)


class SearchView:
    """A search under way: what it chooses, the best that it has seen, its shared add-ons, its final candidates.

    Args:
      board: where it is shown.
      searcher: the search.
      state: what `state` returned of the search that this one goes on with.
    """

    def __init__(self, board: Board, searcher: Searcher, state: Mapping[str, Any] | None = None):
        self._board = board
        self._searcher = searcher
        self._best: dict[str, Any] = dict((state or {}).get("best", {}))  # its score and genes, and whether it is drawn
        self._updates: list[Mapping[str, Any]] = []  # the controller's, of the epoch under way
        self.step()

    @property
    def state(self) -> dict[str, Any]:
        """What pictures to come depend on besides the search, as a JSON value."""
        return {"best": self._best}

    def step(self) -> None:
        """Looks at what is done of the epoch under way."""
        if self._searcher.progress:
            self._updates = list(self._searcher.progress.done.get("controller", ()))

    def epoch(self, epoch: int) -> None:
        """Shows the search after epoch `epoch` (from 1), if it is due."""
        self._learn()
        self._updates = []
        searcher = self._searcher
        if is_due(epoch, searcher.length, HISTOGRAMS):
            for name, std in addon_std(searcher).items():
                self._board.run(TRAIN).histogram(f"kernel_std/{name}", std, epoch)
        if not is_due(epoch, searcher.length, PICTURES):
            return
        if isinstance(searcher, EnasSearch):
            genes = searcher.controller.sample(DRAWN, searcher.rng(Stream.SHOWN_ARCHITECTURES, epoch))
            self._picture("choices", choices.of_controller(genes, searcher.space), epoch)
        if isinstance(searcher, LocationSearch):
            genes, locations = searcher.population.genes, searcher.evolution.locations
            self._picture("population", choices.of_population(genes, locations), epoch)
        if self._best and not self._best["drawn"]:
            title = f"The best of {searcher.unit}s 1 to {epoch}: {self._best['score']:.4f}"
            self._draw(self._genotype(self._best["genes"]), title, epoch)
            self._best["drawn"] = True

    def found(self, stage: Path) -> None:
        """Shows what the finished search has found, and the scores of its candidates, in the stage's directory."""
        best = self._searcher.get_best_trials(1)[0]
        self._draw(best.genotype, f"Found: {best.score:.4f}", self._searcher.length + 1)
        self._board.flush()
        if isinstance(self._searcher, DirectionSearch):
            return  # two candidates are no ranking
        ranked, sources = self._searcher.ranked, self._searcher.sources
        for number in np.unique(ranked.tags):
            events = EventWriter(stage / TENSORBOARD / RANKING / sources[number])
            scores = ranked.scores[ranked.tags == number]  # best first
            for place, score in enumerate(scores[np.isfinite(scores)], 1):
                events.scalar(f"{self._searcher.figure}_by_place", score, place)
            events.close()

    def _learn(self) -> None:
        """Takes in the best candidate of the epoch that has ended, if none before was as good."""
        searcher = self._searcher
        score, genes = -np.inf, np.zeros(0, np.int32)
        if isinstance(searcher, EnasSearch) and self._updates:
            rewards = np.concatenate([np.array(update["rewards"], float) for update in self._updates])
            first = int(np.argmax(np.nan_to_num(rewards, nan=-np.inf)))
            score, genes = float(rewards[first]), np.concatenate([u["genes"] for u in self._updates])[first]
        elif isinstance(searcher, LocationSearch):
            score, genes = searcher.history[-1]["best_fitness"], searcher.population.genes[0]
        if score > self._best.get("score", -np.inf):
            self._best = {"score": score, "genes": genes.tolist(), "drawn": False}

    def _genotype(self, genes: list[int]) -> Genotype:
        searcher, row = self._searcher, np.array(genes, np.int32)
        if isinstance(searcher, LocationSearch):
            return dataclasses.replace(searcher.genotype, addons=searcher.evolution.locations.to_addons(row))
        return Genotype.from_genes(searcher.space, row)

    def _draw(self, genotype: Genotype, title: str, epoch: int) -> None:
        self._picture("architecture", drawing.draw(genotype, title=title), epoch)

    def _picture(self, tag: str, figure: Figure, epoch: int) -> None:
        show(self._board.run(TRAIN), tag, figure, epoch)


def show(events: EventWriter, tag: str, figure: Figure, step: int) -> None:
    """Adds a figure as an image."""
    height, width = figures.pixels(figure)
    events.image(tag, figures.png(figure), step, height=height, width=width)


def addon_std(searcher: Searcher) -> dict[str, np.ndarray]:
    """How the shared add-ons' kernels vary, float32 [n] by layer; none where the search has no add-ons."""
    if isinstance(searcher, DirectionSearch):
        return {name: kernel_std(kernel).ravel() for name, kernel in searcher.supernet.kernels.items()}
    found: dict[str, np.ndarray] = {}
    if isinstance(searcher, LocationSearch):
        for path, variable in searcher.supernet.addon_variables.items():
            layer, _, name = path.partition("/")
            if name.startswith("kernel"):  # of one of the layer's sources
                std = kernel_std(keras.ops.convert_to_numpy(variable)).ravel()
                found[layer] = np.concatenate([found.get(layer, std[:0]), std])
    return found
