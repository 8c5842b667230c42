"""From a set's name to a stream of batches: the options, and grain's part.

grain orders the work, prefetches in threads or processes and keeps the place
in the stream; what a batch holds is decided in `crops`.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from sr_jax.data import builders, clips, sources, transforms
from sr_jax.data.crops import DAMAGED, Crops
from sr_jax.types import Batch

#: Decoded images are kept in memory up to this many bytes ("auto").
CACHE_BYTES = 2 << 30


class Loader:
  """An iterator of batches whose place can be saved and restored.

  Attributes:
    iterator: The grain iterator beneath. Its state is that of the batches
      handed out, whatever has been prefetched.
    num_images: What an epoch goes through, of all shards together: images, or
      the sub-images they were cut into; of clips windows of frames.
    fingerprint: Of the images' names and sizes, in their order: where it is
      another, a place in the stream is of other images.
    paired: Whether batches have "lr".
    bad: What was left out of the batches so far, files and records that
      cannot be read: each once, with the reason.
  """

  def __init__(
    self, iterator: grain.DatasetIterator, reader: Crops, bad: Sequence[str]
  ):
    self.iterator = iterator
    self.num_images = reader.num_images
    self.fingerprint = reader.fingerprint
    self.paired = reader.paired
    self.bad = list(bad)
    self._reader = reader
    self._damaged: set[tuple[int, int]] = set()

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    batch = dict(next(self.iterator))
    # Of each worker process it is told by the batches alone.
    for unit, frame in batch.pop(DAMAGED, np.empty((0, 2))).tolist():
      if (unit, frame) not in self._damaged:
        self._damaged.add((unit, frame))
        self.bad.append(self._reader.describe((unit, frame)))
    if len(self._damaged) > self._reader.max_bad:
      raise self._reader.too_many(self._damaged)
    return batch

  def get_state(self) -> dict[str, Any]:
    """The place in the stream, as JSON allows it."""
    return json.loads(json.dumps(self.iterator.get_state()))

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to the place that `get_state` gave, of a loader made alike.

    Raises:
      ValueError: the loader was not made alike.
    """
    try:
      self.iterator.set_state(state)
    except (IndexError, KeyError, TypeError, ValueError) as error:
      raise ValueError(
        "the saved place in the data is that of a loader with other "
        "num_workers or crops_per_image; set them back, or begin anew"
      ) from error

  def close(self) -> None:
    """Ends worker processes and threads."""
    self.iterator.close()


def make_loader(
  spec: str,
  *,
  batch_size: int,
  patch_size: int,
  scale: int,
  margin: int = 0,
  seed: int,
  data_dir: str | os.PathLike | None = None,
  cache_dir: str | os.PathLike | None = None,
  sub_image_size: int | None = None,
  sub_image_step: int = 240,
  scales: Sequence[float] = (1.0,),
  crops_per_image: int = 1,
  augment: bool = True,
  cache: bool | str = "auto",
  num_workers: int = 0,
  shard_index: int = 0,
  shard_count: int = 1,
  epochs: int | None = None,
  drop_remainder: bool = True,
  border: str = "symmetric",
  num_frames: int | None = None,
  interval: int | Sequence[int] = 1,
  random_reverse: bool = False,
  mirror: bool = False,
  max_bad: int = 0,
) -> Loader:
  """Opens a stream of training batches, building records where needed.

  Args:
    spec: A set ("t91"), "photos" (its training split), a folder, several
      joined by "+", or pairs as "HR_FOLDER:lr=LR_FOLDER"; see `sources`, and
      for clips `clips`.
    batch_size: Crops in a batch of this shard.
    patch_size: Side of the crop in HR pixels without margin, a multiple of
      scale.
    scale: HR side over LR side; crops start at multiples of it.
    margin: LR pixels of context on each side of the crop, so that "hr" has
      side `patch_size + 2 * margin * scale`. Paired sets need none and get
      none.
    seed: Of shuffling, cropping and flipping.
    data_dir: Directory that holds the named sets; by default the environment
      variable SR_JAX_DATA, else ~/data.
    cache_dir: Where builds are kept; by default the environment variable
      SR_JAX_CACHE, else ~/.cache/sr_jax/tfds.
    sub_image_size: Larger images are cut into tiles of this side when built.
      By default 480, and the frames of clips stay whole.
    sub_image_step: Distance between the tiles.
    scales: Sizes at which every image is taken; see `builders.prepare`.
    crops_per_image: Crops taken from an image, or a window of frames, each time
      it is read; a shuffle spreads them over the next `crops_per_image**2`
      batches.
    augment: Apply one of the eight flips and rotations.
    cache: Keep decoded images in memory. "auto" does so without workers, if
      they take less than CACHE_BYTES.
    num_workers: Processes that read and cut; 0 does it in a thread.
    shard_index: Which part this host reads.
    shard_count: Into how many parts the stream is divided. Together they see
      every image once an epoch.
    epochs: After how many the stream ends; None: never.
    drop_remainder: Leave out a last, smaller batch, and give every shard as
      many batches.
    border: How the image continues past its border, under the margin: as the
      degradation wants it, "symmetric" (MATLAB's bicubic), "edge" or
      "reflect".
    num_frames: Read clips, and take windows of so many frames.
    interval: Distance between the frames of a window, or several, of which
      each window draws one.
    random_reverse: Turn half of the windows round in time.
    mirror: Append to each window its frames backwards: 7 become 14.
    max_bad: How many images that cannot be decoded are left out, and damaged
      records replaced by the next whole one; `Loader.bad` tells them. With a
      frame that cannot be decoded its clip is left out.

  Returns:
    A loader of batches {"hr": uint8 [b, h, w, 3]}, of clips [b, t, h, w, 3],
    with "lr" where paired.

  Raises:
    FileNotFoundError: a set or folder is not there.
    ValueError: an argument is out of range; more images than max_bad are
      corrupt, one is too small for a crop or does not fit its LR partner, or a
      clip is too short (the file or clip is named). A batch raises it too, of
      damaged records.
  """
  _check_at_least(
    1,
    batch_size=batch_size,
    patch_size=patch_size,
    scale=scale,
    crops_per_image=crops_per_image,
    shard_count=shard_count,
  )
  if sub_image_size is not None:
    _check_at_least(1, sub_image_size=sub_image_size)
  intervals = (interval,) if isinstance(interval, int) else tuple(interval)
  _check_clip_options(num_frames, intervals, random_reverse, mirror)
  if border not in transforms.BORDERS:
    raise ValueError(f"border {border!r} is not one of {[*transforms.BORDERS]}")
  _check_at_least(
    0, margin=margin, seed=seed, num_workers=num_workers, max_bad=max_bad
  )
  if epochs is not None:
    _check_at_least(1, epochs=epochs)
  if patch_size % scale:
    raise ValueError(
      f"patch_size {patch_size} must be a multiple of scale {scale}; nearest: "
      f"{max(round(patch_size / scale), 1) * scale}"
    )
  if not 0 <= shard_index < shard_count:
    raise ValueError(
      f"shard_index {shard_index} must be in [0, shard_count {shard_count})"
    )
  if cache not in (True, False, "auto"):
    raise ValueError(f"cache {cache!r} is not True, False or 'auto'")

  if num_frames is None:
    found = sources.resolve(spec, data_dir=data_dir, scale=scale)
    sub_image_size = sub_image_size or 480
  else:
    found = clips.resolve_clips(spec, data_dir=data_dir, scale=scale)
  paired = found[0].lr is not None
  if any((source.lr is not None) != paired for source in found):
    raise ValueError(
      f"{spec!r} joins sets with and without LR images; give all or none "
      "their ':lr='"
    )
  built, bad = [], []
  for source in found:
    built.append(
      builders.prepare(
        source,
        sub_image_size=sub_image_size,
        sub_image_step=sub_image_step,
        scales=scales,
        scale=scale,
        cache_dir=cache_dir,
        max_bad=max_bad - len(bad),
      )
    )
    bad += built[-1].bad
  reader = Crops(
    built,
    batch_size=batch_size,
    patch_size=patch_size,
    scale=scale,
    margin=0 if paired else margin,
    seed=seed,
    crops_per_image=crops_per_image,
    augment=augment,
    shard_index=shard_index,
    shard_count=shard_count,
    epochs=epochs,
    drop_remainder=drop_remainder,
    paired=paired,
    border=border,
    num_frames=num_frames,
    intervals=intervals,
    random_reverse=random_reverse,
    mirror=mirror,
    max_bad=max_bad - len(bad),
  )
  small = reader.num_bytes < CACHE_BYTES and num_workers == 0
  reader.keep = small if cache == "auto" else bool(cache)
  # Reading runs without the interpreter's lock, cutting does not: a second
  # thread helps where records are read, and workers are that already.
  threads = 1 if reader.keep or num_workers else 2
  ahead = max(4 // crops_per_image**2, 1)  # chunks, so about 4 batches
  stream = grain.MapDataset.source(reader).to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * ahead)
  )
  if num_workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain hands absl's flags to its workers
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=ahead
      ),
      worker_init_fn=_live_and_die_with_parent,
    )
  if crops_per_image > 1:
    stream = grain.experimental.FlatMapIterDataset(
      stream,
      _Unstack(batch_size, drop_remainder, crops_per_image**2),  # pyright: ignore[reportCallIssue]
    )
  return Loader(iter(stream), reader, bad)


def _live_and_die_with_parent(index: int, count: int) -> None:
  """In each worker: outlives no run that was killed, and none but its own.

  A terminal and many schedulers signal all processes of a run at once; the
  run's own decides then what to do, and may need another batch for it.
  """
  del index, count
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def follow() -> None:
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=follow, daemon=True).start()


def _check_at_least(least: int, **values: int) -> None:
  for name, value in values.items():
    if value < least:
      raise ValueError(f"{name} {value} must be at least {least}")


def _check_clip_options(
  num_frames: int | None,
  intervals: Sequence[int],
  random_reverse: bool,
  mirror: bool,
) -> None:
  if num_frames is not None:
    _check_at_least(1, num_frames=num_frames)
    if not intervals:
      raise ValueError("interval is empty; give one number, or several")
    for interval in intervals:
      _check_at_least(1, interval=interval)
  elif random_reverse or mirror or intervals != (1,):
    raise ValueError(
      f"interval {intervals}, random_reverse {random_reverse} and mirror "
      f"{mirror} are of clips; give num_frames to read clips"
    )


class _Unstack(grain.experimental.FlatMapTransform):
  """A chunk as the batches it is made of."""

  def __init__(self, batch_size: int, drop_remainder: bool, max_fan_out: int):
    self.batch_size = batch_size
    self.drop_remainder = drop_remainder
    self.max_fan_out = max_fan_out

  def flat_map(self, element: Batch) -> list[Batch]:
    damaged = element.get(DAMAGED)
    images = {k: v for k, v in element.items() if k != DAMAGED}
    count = len(images["hr"])
    if self.drop_remainder:
      count -= count % self.batch_size
    batches = [
      {k: v[i : min(i + self.batch_size, count)] for k, v in images.items()}
      for i in range(0, count, self.batch_size)
    ]
    if damaged is not None and batches:
      batches[0][DAMAGED] = damaged
    return batches
