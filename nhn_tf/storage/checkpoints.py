"""The checkpoints of a stage: an npz each, sealed with digests, the newest two kept."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nhn_tf.storage import files


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a stage after some whole epochs, or within the one behind them.

    Attributes:
      epoch: finished epochs (or cycles).
      arrays: every variable, optimizer slot and other array, by name.
      values: a JSON value for the rest: history, baselines, best so far.
      step: steps done of the epoch under way.
    """

    epoch: int
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]
    step: int = 0


class Checkpoints:
    """A directory of checkpoints, numbered as they are written.

    Args:
      directory: where they lie; made with the first one.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._newest: Path | None = None  # the last one that was written or loaded
        self._last_whole: Path | None = None  # the last one of whole epochs

    def save(self, checkpoint: Checkpoint, *, config: str, seconds: float) -> None:
        """Writes a checkpoint; of those before it one stays.

        That is the last one of whole epochs if this is written within an epoch, else the last one that was written or
        loaded here.

        Args:
          checkpoint: to be written.
          config: digest of the configuration that it belongs to.
          seconds: spent on the stage so far.
        """
        values = {
            **checkpoint.values,
            "epoch": checkpoint.epoch,
            "step": checkpoint.step,
            "seconds": seconds,
            "config_digest": config,
        }
        others = self._paths()
        path = self.directory / f"{int(others[0].stem) + 1 if others else 1:06d}.npz"
        files.save_sealed_npz(path, checkpoint.arrays, values)
        before = self._newest if self._newest in others else others[0] if others else None
        if checkpoint.step and self._last_whole in others:
            before = self._last_whole
        with files.writing(self.directory):
            for old in others:
                if old != before:
                    old.unlink()
        self._newest = path
        if not checkpoint.step:
            self._last_whole = path

    def load(self, config: str, *, whole_epochs: bool = False) -> Checkpoint | None:
        """The newest readable checkpoint of the configuration with that digest; None when there is none.

        A damaged one is named on stderr and passed over for the one before it. With `whole_epochs` one that was written
        within an epoch is passed over, too, if there is another.

        Raises:
          DamagedFileError: there are checkpoints, but none can be read. Beginning again would replace them, so that
            is left to the user.
        """
        faults = []
        newest: tuple[Path, Checkpoint] | None = None
        whole: tuple[Path, Checkpoint] | None = None
        for path in self._paths():
            try:
                found = path, read_checkpoint(path, config)
            except files.DamagedFileError as error:
                print(f"warning: passing over a damaged checkpoint: {error}", file=sys.stderr)
                faults.append(path)
                continue
            newest = newest or found
            if not found[1].step:
                whole = found
                break
        if newest is None:
            if faults:
                raise files.DamagedFileError(
                    f"no checkpoint of this stage can be read: {', '.join(map(str, faults))}.\n"
                    f"Restore one of them, or give `overwrite` to begin the stage again."
                )
            return None
        self._last_whole = whole[0] if whole else None
        self._newest, checkpoint = whole if whole_epochs and whole else newest
        return checkpoint

    def _paths(self) -> list[Path]:
        """From the newest to the oldest."""
        found = [path for path in self.directory.glob("*.npz") if path.stem.isdecimal()]
        return sorted(found, key=lambda path: int(path.stem), reverse=True)


def read_checkpoint(path: Path, config: str) -> Checkpoint:
    """A checkpoint of the configuration with digest `config`.

    Raises:
      DamagedFileError: it is damaged, or of another configuration.
    """
    arrays, values = files.load_sealed_npz(path)
    if values.get("config_digest") != config:
        raise files.DamagedFileError(f"{path} is no checkpoint of this stage's configuration.")
    return Checkpoint(values["epoch"], arrays, values, values["step"])
