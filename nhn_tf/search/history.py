"""What a search has measured, in one small file: every architecture with its score, and every ranked candidate.

Letters: N rows, G genes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from nhn_tf.storage import files

NAME: Final = "history.npz"


class Table:
    """Architectures in the order in which they were measured, each with its score and a whole number.

    A gene is a whole number, in two bytes, or a bit; ENAS's 300 genes of 24 layers take 83 bytes.

    Args:
      tag: what the whole number is called, such as "epoch".
      numbers: how many genes are whole numbers; they come first.
      bits: how many are 0 or 1.
    """

    def __init__(self, tag: str, *, numbers: int, bits: int = 0):
        self.tag = tag
        self.numbers = numbers
        self.bits = bits
        self._columns: dict[str, np.ndarray] = {
            tag: np.zeros(0, np.int32),
            "numbers": np.zeros((0, numbers), np.int16),
            "bits": np.zeros((0, -(-bits // 8)), np.uint8),
            "score": np.zeros(0, np.float64),
            "accuracy": np.zeros(0, np.float64),
        }

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def tags(self) -> np.ndarray:
        """int32 [N]."""
        return self._columns[self.tag]

    @property
    def genes(self) -> np.ndarray:
        """int32 [N, G]."""
        bits = np.unpackbits(self._columns["bits"], axis=1, count=self.bits)
        return np.concatenate([self._columns["numbers"], bits], axis=1, dtype=np.int32)

    @property
    def scores(self) -> np.ndarray:
        """float64 [N]; NaN where an architecture could not be measured."""
        return self._columns["score"]

    @property
    def accuracies(self) -> np.ndarray:
        """float64 [N], in [0, 1]; NaN where it is not known beside the score."""
        return self._columns["accuracy"]

    def add(
        self,
        tags: int | Sequence[int],
        genes: np.ndarray,
        scores: Sequence[float] | np.ndarray,
        accuracies: Sequence[float] | np.ndarray = (),
    ) -> None:
        """Adds rows: a tag for all or each, genes int [n, G], scores float [n], and accuracies float [n] if known."""
        rows = {
            self.tag: np.broadcast_to(tags, len(scores)),
            "numbers": genes[:, : self.numbers],
            "bits": np.packbits(genes[:, self.numbers :].astype(bool), axis=1),
            "score": np.asarray(scores),
            "accuracy": np.asarray(accuracies) if len(accuracies) else np.full(len(scores), np.nan),
        }
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, rows[name].astype(column.dtype)])

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns by name; none without rows."""
        return dict(self._columns) if len(self) else {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes over what `arrays` returned; older tables had no accuracies.

        Raises:
          ValueError: they are not columns of such a table; it stays as it was.
        """
        rows = {len(array) for array in arrays.values()}
        if len(rows) == 1:
            arrays = {"accuracy": np.full(max(rows), np.nan), **arrays}
        fits = all(
            name in arrays and (arrays[name].dtype, arrays[name].shape[1:]) == (column.dtype, column.shape[1:])
            for name, column in self._columns.items()
        )
        if arrays and not (fits and len(arrays) == len(self._columns) and len(rows) == 1):
            raise ValueError(f"these are no columns of what a search has measured: {', '.join(sorted(arrays))}.")
        self._columns = {name: arrays.get(name, column[:0]) for name, column in self._columns.items()}


@dataclasses.dataclass(frozen=True)
class History:
    """The content of history.npz.

    Attributes:
      search: name of the search's class.
      measured: every architecture that was measured within an epoch (or cycle), with the number of that, from 0. Scores
        are rewards or fitnesses, whatever the objective: larger is better. Genes are those of ENAS's macro search
        (`Space`), of a location code (`LocationSpace`), or the number of an individual among a cycle's directions.
      ranked: every final candidate, best first, with the number of its source. Genes as before; of directions, a bit
        for each connection of each add-on.
      sources: what proposed the candidates, such as "controller" and "random".
      figure: what the scores of `ranked` are: "val_accuracy", "val_loss", or "val_reward" where that is maximised.
    """

    search: str
    measured: Table
    ranked: Table
    sources: tuple[str, ...]
    figure: str = "val_accuracy"

    def save(self, path: Path) -> None:
        """Writes it as one file, atomically."""
        tables = {"measured": self.measured, "ranked": self.ranked}
        arrays = joined({part: table.arrays() for part, table in tables.items()})
        kinds = {part: {"tag": t.tag, "numbers": t.numbers, "bits": t.bits} for part, t in tables.items()}
        values = {"search": self.search, "tables": kinds, "sources": list(self.sources), "figure": self.figure}
        files.save_sealed_npz(path, arrays, values)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> History:
        """Reads history.npz of a search's project, or of a run's stage.

        Raises:
          FileNotFoundError: there is none.
          DamagedFileError: it is no such file, or altered.
        """
        path = Path(directory) / NAME
        try:
            arrays, values = files.load_sealed_npz(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{directory} holds no {NAME} of a search") from None
        try:
            tables = {part: Table(**kind) for part, kind in values["tables"].items()}
            for part, table in tables.items():
                table.restore(part_of(part, arrays))
            sources, figure = tuple(values["sources"]), values.get("figure", "val_accuracy")
            return cls(values["search"], tables["measured"], tables["ranked"], sources, figure)
        except (KeyError, TypeError, ValueError) as error:
            raise files.DamagedFileError(f"{path} holds no history of a search ({error}). Restore a copy.") from None


def part_of(part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays called `part:name`, by name."""
    return {name.removeprefix(f"{part}:"): array for name, array in arrays.items() if name.startswith(f"{part}:")}


def joined(parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of some parts under names by which `part_of` finds them."""
    return {f"{part}:{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
