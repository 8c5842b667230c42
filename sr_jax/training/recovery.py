"""What a run goes on from: the newest checkpoint that is whole."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from sr_jax import hosts
from sr_jax.training.checkpoints import (
  CheckpointError,
  Checkpoints,
  has_checkpoint,
)
from sr_jax.training.state import TrainState


class Recovery:
  """The checkpoints of a run, in two folders of its workdir.

  `checkpoints/` has those of the evaluations; which of them stay does not
  depend on how often the run was stopped. `stopped/` has the one of the last
  stop, until a later one of the former is whole.

  Attributes:
    warnings: What was passed over by `restore`.
  """

  def __init__(
    self, workdir: epath.PathLike, *, keep_last: int, keep_best: int
  ):
    self.warnings: list[str] = []
    workdir = epath.Path(workdir)
    self._stopped_in = workdir / "stopped"
    self._stopped: Checkpoints | None = None
    self._regular = Checkpoints(
      workdir / "checkpoints", keep_last=keep_last, keep_best=keep_best
    )
    # All processes see the same folder: none has made one yet.
    if hosts.on_all(self._stopped_in.is_dir()):
      self._stopped = self._open()

  def _open(self) -> Checkpoints:
    return Checkpoints(self._stopped_in, keep_last=1, keep_best=0)

  @property
  def newest(self) -> int | None:
    """Step of the newest checkpoint, be it a stop's."""
    stopped = self._stopped.latest if self._stopped else None
    return max(
      (stopped, self._regular.latest), key=lambda x: -1 if x is None else x
    )

  @property
  def last_good(self) -> int | None:
    """Step of the newest checkpoint of an evaluation."""
    return self._regular.latest

  def restore(
    self, state: TrainState, *, good: bool = False
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """Reads the newest checkpoint that is whole.

    Newer ones that are not are moved to `damaged/` and told in `warnings`.
    All processes call it together.

    Args:
      state: Shapes, dtypes and shardings to restore to.
      good: Only those of evaluations.

    Returns:
      The state and its place in the run; None where there is no checkpoint.

    Raises:
      CheckpointError: there are some, and none is whole or fits; nothing is
        moved then. Or one that is damaged cannot be moved.
    """
    folders = [self._regular]
    if self._stopped is not None and not good:
      folders.append(self._stopped)
    found = [(step, folder) for folder in folders for step in folder.steps]
    # Of two at a step, that of the evaluation: it is the later one.
    found.sort(key=lambda x: (x[0], x[1] is self._regular), reverse=True)
    failures: list[tuple[Checkpoints, int, CheckpointError]] = []
    for step, folder in found:
      try:
        restored = folder.restore(state, step)
      except CheckpointError as error:
        failures.append((folder, step, error))
        continue
      for damaged, at, error in failures:
        path = damaged.set_aside(at)
        why = " ".join(str(error.__cause__ or error).split())[:200]
        self.warnings.append(
          f"checkpoint {at} was damaged and is passed over; it lies in "
          f"{path} now, and the run goes on from step {step:,} ({why})"
        )
      return restored
    if len(failures) == 1:
      raise failures[0][2]
    if failures:
      first = failures[0][2]
      why = " ".join(str(first.__cause__ or first).split())[:200]
      raise CheckpointError(
        f"none of the checkpoints of steps {[x[1] for x in failures]} can be "
        f"read (the newest: {why}). Give another --workdir, or delete all of "
        "them to begin anew"
      )
    return None

  def save(
    self,
    state: TrainState,
    place: Mapping[str, Any],
    *,
    metrics: Mapping[str, float] | None,
  ) -> None:
    """Begins to write the checkpoint of an evaluation.

    Raises:
      CheckpointError: this one or the one before could not be written.
    """
    self._forget_stop()
    self._regular.save(state, place, metrics=metrics)

  def save_stop(self, state: TrainState, place: Mapping[str, Any]) -> None:
    """Writes that of a stop, and what was begun, to its end.

    Raises:
      CheckpointError: it could not be written.
    """
    self._regular.wait()
    if self._regular.latest != int(state.step):
      self._stopped = self._stopped or self._open()
      self._stopped.save(state, place)
      self._stopped.wait()

  def wait(self) -> None:
    """Returns when what was begun is written.

    Raises:
      CheckpointError: it could not be.
    """
    self._regular.wait()
    self._forget_stop()

  def _forget_stop(self) -> None:
    """Removes the checkpoint of a stop once a later one is whole."""
    if self._stopped is None:
      return
    self._regular.wait()
    newest, stopped = self._regular.latest, self._stopped.latest
    if stopped is None or (newest is not None and newest >= stopped):
      self._stopped.close()
      self._stopped = None
      hosts.on_all(True)  # all have closed it
      if jax.process_index() == 0:
        self._stopped_in.rmtree(missing_ok=True)

  def check(self) -> None:
    """Returns at once, if all that was begun could be written so far.

    Raises:
      CheckpointError: it could not.
    """
    self._regular.check()

  def close(self) -> None:
    """Ends the writing threads, after what they have begun."""
    for folder in (self._regular, self._stopped):
      if folder is not None:
        folder.close()


def can_go_on(workdir: epath.Path) -> bool:
  """Whether a workdir seems to hold a checkpoint; makes no folder."""
  return any(has_checkpoint(workdir / x) for x in ("checkpoints", "stopped"))
