"""A run's directory: who may write there, and its stages."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.errors import RunError, UserError
from nhn_tf.runs.journal import NAME, Journal
from nhn_tf.runs.open_stage import ReadyStage, ready
from nhn_tf.runs.record import StageRecord
from nhn_tf.runs.settings import Settings
from nhn_tf.settings import stages
from nhn_tf.settings.stages import CONTROLS, STAGES
from nhn_tf.storage import files, lock
from nhn_tf.values.genotype import Genotype


class RunDirectory:
    """A run's directory, held by one process at a time.

    Args:
      path: the directory; made when missing.

    Raises:
      RunError: the path holds something that is not a run.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(os.path.expanduser(path))
        try:
            is_file = self.path.exists() and not self.path.is_dir()
            is_other = (
                self.path.is_dir() and not (self.path / NAME).exists() and any(map(_is_foreign, self.path.iterdir()))
            )
        except OSError as error:
            raise RunError(f"the run directory {self.path} cannot be read: {error.strerror}.") from None
        if is_file:
            raise RunError(f"`model_dir` must be a directory. Received: {self.path}, which is a file.")
        if is_other:
            raise RunError(
                f"{self.path} is not empty and holds no run (no run.json).\n"
                f"Choose another `model_dir`, empty this one, or, if it is a run, write {{}} into its run.json."
            )
        self.journal = Journal(self.path)

    @contextlib.contextmanager
    def hold(self, *, preset: str = "", seed: int = 0) -> Iterator[RunDirectory]:
        """Locks the directory for this process and notes the call in `run.json`.

        Raises:
          RunError: another process holds the lock.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run directory {self.path}: {error.strerror}.") from None
        held = self.path / "lock"
        try:
            lock.take(held)
        except UserError:
            _remove_empty(made)
            raise
        try:
            self._tidy()
            self.journal.note_call(preset, seed)
            yield self
        except lock.LostError:
            raise
        except UserError:
            if made and {path.name for path in self.path.iterdir()} <= {"run.json", "lock"}:
                (self.path / "run.json").unlink(missing_ok=True)  # refused before it began
                lock.release(held)
                _remove_empty(made)
            raise
        finally:
            lock.release(held)

    def discard(self, names: Sequence[str], *, preset: str = "", seed: int = 0) -> None:
        """Removes what stages have left, and what the journal notes of them; `preset` and `seed` as for `hold`."""
        with self.hold(preset=preset, seed=seed):
            for name in names:
                if self.stage(name).path.exists():
                    files.remove_tree(self.stage(name).path)
            self.journal.forget(names)

    def _tidy(self) -> None:
        """Removes what killed processes left behind; the lock says that no other writes here."""
        for path in (self.path, *(self.path / stage.directory for stage in (*STAGES, *CONTROLS))):
            files.remove_leftovers(path)
            if (path / "done.json").exists():
                shutil.rmtree(path / "checkpoint", ignore_errors=True)
            files.remove_leftovers(path / "checkpoint")

    def stage(self, name: str) -> StageRecord:
        """The stage called `name` as it stands, whether or not it has begun."""
        return StageRecord(self.path, stages.find(name))

    @property
    def stages(self) -> dict[str, StageRecord]:
        """Every stage of the pipeline as it stands, by name, in its order."""
        return {stage.name: StageRecord(self.path, stage) for stage in STAGES}

    def ready(
        self,
        name: str,
        settings: Settings,
        *,
        source: StageRecord | None = None,
        input_genotype: Genotype | None = None,
    ) -> ReadyStage:
        """The stage called `name`, compared with what is asked of it; see `open_stage.ready`."""
        return ready(self.stage(name), self.journal, settings, source=source, input_genotype=input_genotype)

    def require(self, name: str, settings: Settings) -> StageRecord:
        """A finished stage.

        Args:
          name: of the stage.
          settings: of the stage that needs it; they go into the command that the error gives.

        Raises:
          RunError: the stage is not finished; the message gives the command that runs it.
        """
        stage = self.stage(name)
        if not stage.is_done:
            run = f"Run: {settings.command(name, self.path)}"
            if stage.has_begun:
                run = f"It has begun but not ended: give its command again, {self.path / 'run.json'} lists it."
            raise RunError(f"this needs the finished stage '{name}' in {self.path}.\n{run}")
        return stage


def _is_foreign(path: Path) -> bool:
    """Whether a process that was killed as it took hold of a run cannot have left this behind."""
    return path.name != "lock" and not (path.name.startswith(".") and path.name.endswith(files.TEMPORARY))


def _remove_empty(directories: Sequence[Path]) -> None:
    """Removes directories, each the next one's child, as far as nothing is in them."""
    with contextlib.suppress(OSError):
        for path in directories:
            path.rmdir()
