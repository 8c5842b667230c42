"""Checkpoints of the state and of the place in the data, by orbax."""

import contextlib
import itertools
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import (
  AnyPreservationPolicy,
  BestN,
  LatestN,
)

from sr_jax import hosts, sharding
from sr_jax.files import is_disk_full, write_whole
from sr_jax.training import metadata
from sr_jax.training.state import TrainState
from sr_jax.training.stopping import hidden_stop

#: Entry of the data by which they, and the state, are known to be whole.
_DIGEST = "digest"

_ASIDE = b"""Checkpoints that could not be read, by their steps. Nothing
reads them again; delete them when you like.
"""


class CheckpointError(RuntimeError):
  """A checkpoint could not be written or read."""


class _Manager(ocp.CheckpointManager):
  """One that leaves notices of a preemption to `StopRequests`.

  orbax's threads would ask jax's service with the step of a checkpoint, and set
  back the count by which processes agree on where to stop.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


class Checkpoints:
  """The checkpoints of one run, written beside the training.

  Each is whole or absent: orbax writes to a temporary folder and renames it.
  The newest `keep_last` stay, and the `keep_best` of highest PSNR. Only the
  metric is lost of one whose metrics cannot be read.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    *,
    keep_last: int = 2,
    keep_best: int = 1,
  ):
    self._directory = epath.Path(directory)
    problem = metadata.mend(self._directory)
    if problem:
      raise CheckpointError(f"checkpoints cannot be read: {problem}")
    policies: list[Any] = [LatestN(n=keep_last)]
    if keep_best:
      policies.append(
        BestN(
          get_metric_fn=_psnr,
          n=keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._manager = _Manager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies),
        # Without it orbax would not write the metrics down.
        best_fn=_psnr,
        # A folder that a killed run left half written is of no use.
        cleanup_tmp_directories=True,
      ),
      item_names=("state", "data"),
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
      },
    )

  @property
  def steps(self) -> list[int]:
    """Steps of the checkpoints that are whole, oldest first."""
    return sorted(self._manager.all_steps())

  @property
  def latest(self) -> int | None:
    """Step of the newest whole checkpoint."""
    return self._manager.latest_step()

  def save(
    self,
    state: TrainState,
    data: Mapping[str, Any],
    *,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Begins to write a checkpoint of `state.step`.

    Copies to the host before it returns, and writes beside the training; a
    failure to write is raised by the next call, or by `wait`.

    Raises:
      CheckpointError: this one or the one before could not be written.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=ocp.args.JsonSave({**data, _DIGEST: _digest(state, data)}),
        ),
        metrics=dict(metrics) if metrics else None,
        force=True,  # else skipped while the last one is still being written
      )
    except Exception as error:
      raise self.explained(error, step) from error

  def restore(
    self, state: TrainState, step: int
  ) -> tuple[TrainState, dict[str, Any]]:
    """Reads one back. All processes call it together.

    Args:
      state: Shapes, dtypes and shardings to restore to.
      step: Which.

    Returns:
      The state and the place in the data.

    Raises:
      CheckpointError: there is none, it does not fit the state, or some
        process cannot read its part; on every process.
      Stopped, KeyboardInterrupt: a signal came meanwhile; it is no damage.
    """
    restored, failure, stop = None, None, None
    handled = sys.exception()
    try:
      restored = self._read(state, step)
    except CheckpointError as error:
      failure = error
    except Exception as error:
      failure = self._unreadable(step, error)
      stop = hidden_stop(error, handled)
    if stop is not None:
      raise stop
    # Before the digest, to which all add their part.
    if not hosts.on_all(failure is None) or restored is None:
      raise failure or self._unreadable(
        step, ValueError("another process cannot read its part")
      )
    state, data = restored
    # orbax itself does not see that a bit of an array has turned.
    digest = data.pop(_DIGEST, None)
    if digest != _digest(state, data):
      raise self._unreadable(
        step, ValueError("its content is not what was saved")
      )
    return state, data

  def _read(
    self, state: TrainState, step: int
  ) -> tuple[TrainState, dict[str, Any]]:
    """This process's part, whatever becomes of the others'.

    By orbax's handlers: its manager has a barrier after each reading, at which
    processes that could read would meet those that could not at another one.
    """
    if step not in self._manager.all_steps():
      raise CheckpointError(
        f"no checkpoint of step {step} in {self._directory}; there are "
        f"{self.steps}"
      )
    self._check_parameters(state, step)
    folder = self._directory / str(step)
    with contextlib.closing(ocp.JsonCheckpointHandler()) as reader:
      data = reader.restore(folder / "data", args=ocp.args.JsonRestore())
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
      args = ocp.args.StandardRestore(state)
      return reader.restore(folder / "state", args=args), dict(data)

  def _unreadable(self, step: int, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    told = CheckpointError(
      f"checkpoint {step} in {self._directory} cannot be read ({reason}). If "
      "it is of another optimizer, give another --workdir; if it is damaged, "
      f"delete {self._directory / str(step)}"
    )
    told.__cause__ = error
    return told

  def _check_parameters(self, state: TrainState, step: int) -> None:
    """Compares shapes before anything is read: orbax tells it in pages."""
    tree = self._manager.item_metadata(step)["state"].tree
    for leaf in jax.tree.leaves(tree):
      # Stored in pieces, which may say they are larger than the whole.
      storage = getattr(leaf, "storage", None)
      chunks = getattr(storage, "chunk_shape", None) or ()
      if any(c > max(n, 1) for c, n in zip(chunks, leaf.shape, strict=False)):
        raise ValueError(f"an array of {leaf.shape} in pieces of {chunks}")
    stored = _parameters(tree)
    wanted = _parameters(state)
    differing = [
      f"{path} is {wanted.get(path)} here and {stored.get(path)} there"
      for path in sorted(stored.keys() | wanted.keys())
      if stored.get(path) != wanted.get(path)
    ]
    if differing:
      raise CheckpointError(
        f"checkpoint {step} in {self._directory} is of another model: "
        f"{differing[0]}, and {len(differing) - 1} more. Give another --workdir"
      )

  def set_aside(self, step: int) -> epath.Path:
    """Moves one that is of no use out of the way, and says where it is.

    All processes call it together.

    Raises:
      CheckpointError: it cannot be moved; on every process.
    """
    base = self._directory.parent / "damaged"
    names = (f"{step}.{i}" if i else str(step) for i in itertools.count())
    target = next(base / name for name in names if not (base / name).exists())
    target = epath.Path(hosts.from_first(str(target)))
    moved, failure = True, None
    if jax.process_index() == 0:
      try:
        base.mkdir(parents=True, exist_ok=True)
        # In a bucket a folder is there once there is a file in it.
        write_whole(base / "README.txt", _ASIDE)
        (self._directory / str(step)).rename(target)
      except Exception as error:  # of a bucket, of any kind
        moved, failure = False, error
    if not hosts.on_all(moved):  # and until it is done
      raise CheckpointError(
        f"checkpoint {step} in {self._directory} is damaged, and cannot be "
        f"moved to {target}; delete it, and start the same command again"
      ) from failure
    self._manager.reload()
    return target

  def check(self) -> None:
    """Returns at once, if all that was begun could be written so far.

    Raises:
      CheckpointError: it could not.
    """
    # orbax has an error of its threads ready for whoever waits for them.
    if not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns when what was begun is written.

    Raises:
      CheckpointError: it could not be.
    """
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self.explained(error) from error

  def close(self) -> None:
    """Ends the writing threads, after what they have begun."""
    self._manager.close()

  def explained(
    self, error: Exception, step: int | None = None
  ) -> CheckpointError:
    """What happened, what is safe and what to do, in one message."""
    what = "the run's files" if step is None else f"checkpoint {step}"
    # A failed write must not count as the last good one.
    self._manager.reload()
    last = self.latest
    safe = f"checkpoint {last} is whole" if last is not None else "none is left"
    if is_disk_full(error):
      return CheckpointError(
        f"disk full: {what} could not be written to {self._directory}; {safe}. "
        "Free some space and start the same command again, and it goes on "
        "from there"
      )
    return CheckpointError(
      f"{what} could not be written to {self._directory}; {safe}: {error}"
    )


def _psnr(metrics: Mapping[str, float]) -> float:
  return metrics.get("psnr", -math.inf)


def _parameters(state: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of all networks' parameters, by path."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  shapes = {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in leaves
  }
  return {k: v for k, v in shapes.items() if k.split("/")[1:2] == ["params"]}


def _digest(state: TrainState, data: Mapping[str, Any]) -> list[int]:
  """A sum of each array's bits, whatever its sharding; and one of the data."""
  leaves = jax.tree.leaves(state)
  mesh = getattr(leaves[0].sharding, "mesh", None)
  whole = sharding.replicated(mesh) if mesh is not None else None
  sums = jax.jit(_sums, out_shardings=whole)(leaves)
  text = json.dumps(data, sort_keys=True)
  return [zlib.crc32(text.encode()), *jax.device_get(sums).tolist()]


def _sums(leaves: Sequence[jax.Array]) -> jax.Array:
  def of(x: jax.Array) -> jax.Array:
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    x = x.astype(kind) if x.dtype == bool else x
    bits = jax.lax.bitcast_convert_type(x, kind)
    return jnp.sum(bits, dtype=jnp.uint32)  # in any order the same

  return jnp.stack([of(x) for x in leaves])


def has_checkpoint(directory: epath.PathLike) -> bool:
  """Whether a folder seems to hold one, without making the folder."""
  directory = epath.Path(directory)
  if not directory.is_dir():
    return False
  return any(path.name.isdigit() for path in directory.iterdir())


def abstract(state: Any, shardings: Any) -> Any:
  """Shapes, dtypes and shardings, for `Checkpoints.restore`."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    shardings,
  )
