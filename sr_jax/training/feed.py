"""The batches of a run, as its config asks for them, or word that none come."""

import multiprocessing
import queue
import threading
from typing import Any

import jax

from sr_jax import data, hosts
from sr_jax.training.experiment import Experiment
from sr_jax.types import Batch, Config

#: As a flag gives it, and as the loader takes it.
_CACHE = {"auto": "auto", "True": True, "False": False}

#: Seconds that are given to workers that hang to end.
_CLOSING = 20.0


def open_loader(config: Config, parts: Experiment) -> data.Loader:
  """This process's part of the stream.

  Raises:
    ValueError, FileNotFoundError: the data are of no use.
  """
  fields = config.data
  options: dict[str, Any] = {}
  if parts.degradation:
    options["border"] = parts.degradation.border
  if parts.num_frames:
    options |= {
      "num_frames": fields.num_frames,
      "interval": fields.interval,
      "random_reverse": fields.random_reverse,
      "mirror": fields.mirror,
    }
  else:  # the frames of clips stay whole
    options["sub_image_size"] = fields.sub_image_size
  return data.make_loader(
    fields.train,
    batch_size=fields.batch_size // jax.process_count(),
    patch_size=fields.patch_size,
    scale=parts.scale,
    margin=parts.margin,
    seed=config.seed,
    data_dir=fields.data_dir or None,
    sub_image_step=fields.sub_image_step,
    scales=tuple(fields.scales),
    crops_per_image=fields.crops_per_image,
    augment=fields.augment,
    cache=_CACHE.get(str(fields.cache), str(fields.cache)),
    num_workers=fields.num_workers,
    max_bad=fields.max_bad,
    shard_index=jax.process_index(),
    shard_count=jax.process_count(),
    **options,
  )


class StalledError(RuntimeError):
  """No batch came for too long."""


class Watched:
  """A loader, each batch of which is waited for only so long.

  Another thread draws, one batch when one is asked for: the place in the
  stream stays that of the batches handed out.

  Args:
    loader: What it draws from.
    timeout: Seconds to wait for a batch; 0 waits for ever.

  Attributes:
    bad: What was left out, by all processes, as far as `new_bad` was asked.

  Raises:
    ValueError: timeout is negative.
  """

  def __init__(self, loader: data.Loader, timeout: float):
    if not timeout >= 0:
      raise ValueError(
        f"config.data.timeout {timeout} must be seconds, and 0 is for ever"
      )
    self._loader, self._timeout = loader, timeout
    self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    self._drawn: queue.SimpleQueue[Any] = queue.SimpleQueue()
    self._stalled = False
    self._thread: threading.Thread | None = None
    self.num_images, self._here = loader.num_images, loader.bad
    self._told_here = 0
    self.bad: list[str] = []
    self.fingerprint = loader.fingerprint
    self.get_state, self.set_state = loader.get_state, loader.set_state

  def __iter__(self) -> "Watched":
    return self

  def __next__(self) -> Batch:
    if not self._timeout:
      return next(self._loader)
    if self._thread is None:
      # A daemon: one that hangs must not hold up the end of the process.
      self._thread = threading.Thread(target=self._draw, daemon=True)
      self._thread.start()
    self._asked.put(True)
    try:
      batch, error = self._drawn.get(timeout=self._timeout)
    except queue.Empty:
      self._stalled = True
      raise StalledError(
        f"no batch came for {self._timeout:g} s (config.data.timeout): reading "
        "or a worker process hangs. Mostly it is storage that does not answer "
        "(a network file system, a mounted bucket), a worker that was stopped, "
        "or memory that ran out; config.data.num_workers=0 reads in this "
        "process. The same command goes on from the newest checkpoint"
      ) from None
    if error is not None:
      raise error
    return batch

  def new_bad(self, limit: int) -> list[str]:
    """What has been left out since it was last asked, by all processes.

    Each once: what is wrong with a set's files all of them find. All must call
    it together.

    Raises:
      ValueError: on all of them, where it is more than `limit` by now.
    """
    here, self._told_here = self._here[self._told_here :], len(self._here)
    found = [text for of_one in hosts.gather(here) for text in of_one]
    new = [x for x in dict.fromkeys(found) if x not in self.bad]
    self.bad += new
    if len(self.bad) > limit:
      raise ValueError(
        f"{len(self.bad)} files and records cannot be read, and "
        f"config.data.max_bad is {limit}: {'; '.join(new)}"
      )
    return new

  def _draw(self) -> None:
    while self._asked.get():
      try:
        drawn = next(self._loader), None
      except BaseException as error:
        drawn = None, error
      self._drawn.put(drawn)

  def close(self) -> None:
    """Ends workers and threads; a thread that hangs ends with the process."""
    self._asked.put(False)
    if self._thread is not None and not self._stalled:
      self._thread.join(_CLOSING)
      self._stalled = self._thread.is_alive()
    if not self._stalled:
      self._loader.close()
      return
    closing = threading.Thread(target=self._loader.close, daemon=True)
    closing.start()
    closing.join(_CLOSING)
    # A worker that hangs, or was stopped, would outlive this process; without
    # it the rest can end.
    for worker in multiprocessing.active_children() * closing.is_alive():
      worker.kill()
    closing.join(_CLOSING)
