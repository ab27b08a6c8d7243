"""What is read of a stage, begun or finished: by the stages behind it, by the report, by the export."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from nhn_tf.errors import RunError
from nhn_tf.settings.stages import Stage
from nhn_tf.storage import files
from nhn_tf.values.genotype import Genotype

Table = list[dict[str, float]]

CONFIG_KEYS: Final = ("stage", "seed", "data", "compute", "config")
"""What config.json must have."""


@dataclasses.dataclass(frozen=True)
class Done:
    """The content of done.json.

    Attributes:
      stage: the stage's name.
      metrics: its figures.
      genotype: digest of the genotype that it left.
      weights: digest of the weights that it left.
      config_digest: of everything that decided its result.
      wall_s: seconds it took, those of interrupted processes included.
      input_genotype: digest of the genotype that it began from, if any.
      rate_scale: what divergences have left of the learning rate.
      images: how many images there were, by part, and classes.
      device: what it ran on.
      backend: Keras's.
      schema: of the file.
    """

    stage: str
    metrics: Mapping[str, Any]
    genotype: str
    weights: str
    config_digest: str
    wall_s: float
    input_genotype: str | None = None
    rate_scale: float = 1.0
    images: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    device: str = ""
    backend: str = ""
    schema: int = 1

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


_DONE_KEYS: Final = tuple(f.name for f in dataclasses.fields(Done) if f.default is f.default_factory is dataclasses.MISSING)
_DONE_KINDS: Final[Mapping[str, Any]] = {"stage": str, "metrics": dict, "wall_s": (int, float), "device": str}


class StageRecord:
    """A stage as it stood when the record was made; nothing here writes.

    A file is read when it is first asked for, and once. `RunDirectory.stage` makes a new record each time.

    Args:
      run: the run's directory.
      stage: the stage.

    Attributes:
      path: the stage's directory, which need not exist.
      has_begun: whether it has a config.json.
      is_done: whether it has a done.json.
    """

    def __init__(self, run: Path, stage: Stage):
        self.run = run
        self.stage = stage
        self.path = run / stage.directory
        self.has_begun = (self.path / "config.json").exists()
        self.is_done = (self.path / "done.json").exists()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def directory(self) -> str:
        return self.stage.directory

    @property
    def state(self) -> str:
        return "finished" if self.is_done else "unfinished" if self.has_begun else "not begun"

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json: what the stage was begun with.

        Raises:
          DamagedFileError: it is missing, altered, or lacks an entry.
        """
        return self._sealed("config.json", CONFIG_KEYS)

    @functools.cached_property
    def done(self) -> Done:
        """The content of done.json: what the stage finished with.

        Raises:
          DamagedFileError: it is missing, altered, lacks an entry, or is another stage's.
        """
        value = self._sealed("done.json", _DONE_KEYS)
        for key, kind in _DONE_KINDS.items():
            if not isinstance(value.get(key, ""), kind):
                raise files.DamagedFileError(f"{self / 'done.json'} has no usable entry {key!r}.\n{self._again()}")
        if value["stage"] != self.name:
            raise files.DamagedFileError(f"{self / 'done.json'} is that of stage {value['stage']!r}.\n{self._again()}")
        known = {field.name for field in dataclasses.fields(Done)}
        return Done(**{name: entry for name, entry in value.items() if name in known})

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The figures of the finished stage; none before."""
        return self.done.metrics if self.is_done else {}

    @functools.cached_property
    def history(self) -> Table:
        """metrics.csv, a row for each epoch or cycle, without empty cells and what is not finite; none without a file.

        Raises:
          DamagedFileError: it is not readable, or holds something else than numbers.
        """
        history = []
        for number, row in enumerate(_read_csv(self / "metrics.csv"), 2):
            try:
                values = {name: float(cell) for name, cell in row.items() if cell}
            except ValueError:
                raise files.DamagedFileError(
                    f"{self / 'metrics.csv'}, line {number}: not a number. Delete it or restore a copy."
                ) from None
            history.append({name: value for name, value in values.items() if math.isfinite(value)})
        return history

    @functools.cached_property
    def layers(self) -> list[dict[str, str]]:
        """layers.csv, the per-layer table of pruning; none without a file.

        Raises:
          DamagedFileError: it is not readable.
        """
        return _read_csv(self / "layers.csv")

    @functools.cached_property
    def trials(self) -> list[dict[str, str]]:
        """trials.csv, the ranked candidates of a search, the best first; none without a file.

        Raises:
          DamagedFileError: it is not readable.
        """
        return _read_csv(self / "trials.csv")

    def genotype(self) -> Genotype:
        """The genotype that the finished stage left.

        Raises:
          DamagedFileError: it is damaged, or another one has taken its place.
          OpError: an op of one's own is not registered, or makes another layer than then.
        """
        with self._reading("genotype.json"):
            genotype = Genotype.load(self.path)
        self.check_own("genotype.json", genotype.digest, self.done.genotype)
        self.check_own_ops(genotype.space.ops)
        return genotype

    def check_own_ops(self, ops: Iterable[str]) -> None:
        """Refuses ops that make other layers than when the stage was begun.

        Raises:
          OpError: it names the first.
        """
        if before := self.config.get("own_ops"):
            from nhn_tf.layers import own_op  # Keras loads only where there are ops of one's own

            own_op.check_same(before, own_op.digests(ops), f"stage '{self.name}' in {self.run}")

    def weights(self) -> dict[str, np.ndarray]:
        """The weights that the finished stage left, by variable path.

        Raises:
          DamagedFileError: they are damaged, or others have taken their place.
        """
        with self._reading("weights.npz"):
            arrays = files.load_npz(self / "weights.npz")
        self.check_own("weights.npz", files.digest_arrays(arrays), self.done.weights)
        return arrays

    def check_own(self, name: str, found: str, expected: str) -> None:
        """Refuses a file whose digest is not the one that the stage finished with.

        Raises:
          DamagedFileError: the digests differ.
        """
        if found != expected:
            raise files.DamagedFileError(
                f"{self / name} is not what stage '{self.name}' finished with: its digest is {found}, not "
                f"{expected}.\n{self._again()}"
            )

    def check_data(self, digest: str) -> None:
        """Compares the images at hand with those that the stage has seen.

        Raises:
          RunError: they are others.
        """
        before = self.config.get("data_digest")
        if before != digest:
            raise RunError(
                f"stage '{self.name}' in {self.run} has seen other images (digest {before}, now {digest}).\n"
                f"Give the same `data_dir`, or another `model_dir`."
            )

    def _sealed(self, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        """A JSON file of the stage that must have some entries."""
        with self._reading(name):
            value = files.read_sealed(self / name)
            if not set(keys) <= set(value):
                raise files.DamagedFileError(f"{self / name} is damaged: it must hold {', '.join(keys)}.")
        return value

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Says of a file that is missing or damaged what to do about it."""
        try:
            yield
        except FileNotFoundError:
            message = f"{self / name} is missing. Restore a copy."
            raise files.DamagedFileError(f"{message}\n{self._again()}") from None
        except files.DamagedFileError as error:
            raise files.DamagedFileError(f"{error}\n{self._again()}") from None

    def _again(self) -> str:
        """What to do about a stage whose files are damaged."""
        command = f"{self.stage.command} --model_dir={self.run}"
        return f"Or begin the stage again, with its settings of before and --overwrite: {command}"


def _read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none when there is no file."""
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise files.DamagedFileError(
            f"{path} is not a readable CSV file ({error}). Delete it or restore a copy."
        ) from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise files.DamagedFileError(
                f"{path}, line {number}: not as many cells as columns. Delete it or restore a copy."
            )
    return rows
