"""From records to batches of crops: shuffled, sharded, resumable.

The unit of work is a chunk of images, not one crop: all its crops are placed
by a few vector operations and written straight into the batch, which is what
lets one thread cut tens of thousands of small crops a second.

Everything random is a function of (seed, position in the endless stream of
images): epoch `e` is a permutation keyed by (seed, e), and crop `p` takes the
`p`-th block of one counter-based Philox stream. So neither the number of
workers or hosts, nor the batch size, nor a restart changes what crop comes at
which position.
"""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from sr_jax.data import builders, sources, transforms
from sr_jax.types import Batch

#: Decoded images are kept in memory up to this many bytes ("auto").
CACHE_BYTES = 2 << 30

#: Key of the stream that places crops; epoch e is shuffled by key e + 1.
_CROPS = 0


class Loader:
  """An iterator of batches whose place can be saved and restored.

  Attributes:
    iterator: The grain iterator beneath, which Orbax saves as it is. Its state
      is that of the batches handed out, whatever has been prefetched.
    num_images: Records in an epoch: images, or the sub-images they were cut
      into, of all shards together.
    paired: Whether batches have "lr".
  """

  def __init__(
    self, iterator: grain.DatasetIterator, *, num_images: int, paired: bool
  ):
    self.iterator = iterator
    self.num_images = num_images
    self.paired = paired

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    return next(self.iterator)

  def get_state(self) -> dict[str, Any]:
    """The place in the stream, as JSON allows it."""
    return json.loads(json.dumps(self.iterator.get_state()))

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to the place that `get_state` gave, of a loader made alike."""
    self.iterator.set_state(state)

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
  sub_image_size: int = 480,
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
) -> Loader:
  """Opens a stream of training batches, building records where needed.

  Args:
    spec: A set ("t91"), "photos" (its training split), a folder, several
      joined by "+", or pairs as "HR_FOLDER:lr=LR_FOLDER"; see `sources`.
    batch_size: Crops in a batch of this shard.
    patch_size: Side of the crop in HR pixels without margin, a multiple of
      scale.
    scale: HR side over LR side; crops start at multiples of it.
    margin: LR pixels of context on each side of the crop, so that "hr" has
      side `patch_size + 2 * margin * scale`; past the image's border it is
      mirrored, as in MATLAB. Paired sets need none and get none.
    seed: Of shuffling, cropping and flipping.
    data_dir: Directory that holds the named sets; by default the environment
      variable SR_JAX_DATA, else ~/data.
    cache_dir: Where builds are kept; by default the environment variable
      SR_JAX_CACHE, else ~/.cache/sr_jax/tfds.
    sub_image_size: Larger images are cut into tiles of this side when built.
    sub_image_step: Distance between the tiles.
    scales: Sizes at which every image is taken; see `builders.prepare`.
    crops_per_image: Crops taken from an image each time it is read, spread by
      a shuffle over the next `crops_per_image**2` batches.
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

  Returns:
    A loader of batches {"hr": uint8 [b, h, w, 3]}, with "lr" where paired.

  Raises:
    FileNotFoundError: a set or folder is not there.
    ValueError: an argument is out of range; an image is corrupt, too small
      for a crop, or does not fit its LR partner (the file is named).
  """
  _check_at_least(
    1,
    batch_size=batch_size,
    patch_size=patch_size,
    scale=scale,
    crops_per_image=crops_per_image,
    shard_count=shard_count,
    sub_image_size=sub_image_size,
  )
  _check_at_least(0, margin=margin, seed=seed, num_workers=num_workers)
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

  found = sources.resolve(spec, data_dir=data_dir, scale=scale)
  paired = found[0].lr is not None
  if any((source.lr is not None) != paired for source in found):
    raise ValueError(
      f"{spec!r} joins sets with and without LR images; give all or none "
      "their ':lr='"
    )
  built = [
    builders.prepare(
      source,
      sub_image_size=sub_image_size,
      sub_image_step=sub_image_step,
      scales=scales,
      scale=scale,
      cache_dir=cache_dir,
    )
    for source in found
  ]
  crops = Crops(
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
  )
  small = crops.num_bytes < CACHE_BYTES and num_workers == 0
  crops.keep = small if cache == "auto" else bool(cache)
  # Decoding runs without the interpreter's lock, cutting does not.
  threads = 1 if crops.keep else 2
  stream = grain.MapDataset.source(crops).to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
  )
  if num_workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # grain hands absl's flags to its workers
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=4
      )
    )
  if crops_per_image > 1:
    stream = grain.experimental.FlatMapIterDataset(
      stream, _Unstack(batch_size, drop_remainder, crops_per_image**2)
    )
  return Loader(iter(stream), num_images=len(crops.records), paired=paired)


def _check_at_least(least: int, **values: int) -> None:
  for name, value in values.items():
    if value < least:
      raise ValueError(f"{name} {value} must be at least {least}")


class Crops:
  """Random access to chunks of crops: what grain reads from.

  A chunk takes `group` images and gives `group * crops_per_image` crops.
  `group` is one batch where an image gives one crop; where it gives several,
  a chunk spans several batches, over which they are shuffled.
  """

  def __init__(
    self,
    built: Sequence[builders.SubImages],
    *,
    batch_size: int,
    patch_size: int,
    scale: int,
    margin: int,
    seed: int,
    crops_per_image: int,
    augment: bool,
    shard_index: int,
    shard_count: int,
    epochs: int | None,
    drop_remainder: bool,
    paired: bool,
  ):
    self.seed, self.augment, self.paired = seed, augment, paired
    self.scale, self.crops_per_image = scale, crops_per_image
    self.shard_index, self.shard_count = shard_index, shard_count
    self.group = batch_size * crops_per_image
    self.keep = False
    self._kept: dict[int, tuple[np.ndarray, ...]] = {}
    self.records = [
      (str(builder.data_path), split, i)
      for builder in built
      for split in builder.info.splits
      for i in range(len(builder.info.metadata["records"]))
    ]
    rows = [r for b in built for r in b.info.metadata["records"]]
    self.windows = []
    for name, top, left, height, width, edges in rows:
      tile = transforms.Tile(top, left, height, width, tuple(edges))
      where = transforms.window(
        tile, patch_size=patch_size, scale=scale, margin=margin
      )
      if min(where.rows, where.columns) < 1:
        raise ValueError(_too_small(name, tile, patch_size, margin * scale))
      self.windows.append(where)
    self._rows = np.array([w.rows for w in self.windows])
    self._columns = np.array([w.columns for w in self.windows])
    self.side = patch_size + 2 * margin * scale
    self.num_bytes = sum(3 * r[3] * r[4] for r in rows)
    if epochs is None:
      self._total, self._length = None, sys.maxsize
    else:
      self._total = epochs * len(self.records)
      full, rest = divmod(self._total, self.group * shard_count)
      share = rest // shard_count
      if drop_remainder and share * crops_per_image < batch_size:
        share = 0
      more = share > 0 if drop_remainder else shard_index < rest
      self._full, self._rest = full, rest
      self._drop = drop_remainder
      self._length = full + more
    if not self._length:
      raise ValueError(
        f"{len(self.records)} images give no batch of {batch_size} in "
        f"{epochs} epochs over {shard_count} shards; lower batch_size"
      )

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Batch:
    first, count = self._positions(index)
    times, n = self.crops_per_image, len(self.records)
    positions = np.arange(first, first + count)
    images = np.empty(count, np.int64)
    for epoch in range(first // n, (first + count - 1) // n + 1):
      here = positions // n == epoch
      images[here] = self._order(epoch)[positions[here] % n]
    images = np.repeat(images, times)
    # Philox gives four words at each step of its counter: one step a crop.
    key = np.array([self.seed, _CROPS], np.uint64)
    philox = np.random.Philox(key=key, counter=first * times)
    draws = philox.random_raw(4 * len(images)).reshape(-1, 4)
    unit = (draws[:, :2] >> 11) * 2.0**-53
    rows = (unit[:, 0] * self._rows[images]).astype(np.int64)
    columns = (unit[:, 1] * self._columns[images]).astype(np.int64)
    flips = (draws[:, 2] & 7) * self.augment
    # One image's crops go to different places of the chunk.
    place = np.argsort(draws[:, 3]) if times > 1 else np.arange(count)
    slot = np.empty_like(place)
    slot[place] = np.arange(len(place))
    return self._cut(
      zip(
        slot.tolist(),
        images.tolist(),
        rows.tolist(),
        columns.tolist(),
        flips.tolist(),
        strict=True,
      ),
      len(images),
    )

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_kept": {}}  # workers keep images of their own

  def _cut(self, crops, count: int) -> Batch:
    """Writes each crop to its slot. Crops of an image come in a row."""
    side, small = self.side, self.side // self.scale
    hr = np.empty((count, side, side, 3), np.uint8)
    lr = np.empty((count, small, small, 3), np.uint8) if self.paired else None
    last, pixels = None, ()
    for slot, image, row, column, flip in crops:
      if image != last:
        last, pixels = image, self._pixels(image)
      where = self.windows[image]
      hr[slot] = transforms.dihedral(
        transforms.cut(pixels[0], where, row, column), flip
      )
      if lr is not None:
        part = pixels[1][row : row + small, column : column + small]
        lr[slot] = transforms.dihedral(part, flip)
    return {"hr": hr} if lr is None else {"hr": hr, "lr": lr}

  def _positions(self, index: int) -> tuple[int, int]:
    """First position and number of the images of this shard's chunk."""
    first = (index * self.shard_count + self.shard_index) * self.group
    if self._total is None or index < self._full:
      return first, self.group
    # What is left of the last epoch is shared evenly.
    first = self._full * self.shard_count * self.group
    share, odd = divmod(self._rest, self.shard_count)
    odd = 0 if self._drop else odd
    before = self.shard_index * share + min(self.shard_index, odd)
    return first + before, share + (self.shard_index < odd)

  def _order(self, epoch: int) -> np.ndarray:
    return _permutation(self.seed, epoch, len(self.records))

  def _pixels(self, index: int) -> tuple[np.ndarray, ...]:
    pixels = self._kept.get(index)
    if pixels is None:
      path, split, i = self.records[index]
      record = _open(path, split)[i]
      pixels = tuple(record[key] for key in ("hr", "lr") if key in record)
      if self.keep:
        self._kept[index] = pixels
    return pixels


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """Epoch's order. Sorting raw words is the same under any NumPy."""
  key = np.array([seed, epoch + 1], np.uint64)
  words = np.random.Philox(key=key).random_raw(size)
  return np.argsort(words, kind="stable")


@functools.cache
def _open(path: str, split: str):
  """One reader for each build and process; they do not travel to workers."""
  return tfds.builder_from_directory(path).as_data_source(split)


def _too_small(
  name: str, tile: transforms.Tile, patch_size: int, pad: int
) -> str:
  top, bottom, left, right = tile.edges
  need = (
    patch_size + pad * (2 - top - bottom),
    patch_size + pad * (2 - left - right),
  )
  whole = all(tile.edges)
  what = "" if whole else f"a sub-image of size {tile.height}x{tile.width} of "
  size = f" ({tile.height}x{tile.width})" if whole else ""
  fix = "lower patch_size or remove the file"
  if not whole:
    fix = "raise sub_image_size or lower patch_size"
  return (
    f"{what}{name}{size} is smaller than a crop, which takes at least "
    f"{need[0]}x{need[1]} pixels of it (patch_size {patch_size}); {fix}"
  )


@dataclasses.dataclass(frozen=True)
class _Unstack(grain.experimental.FlatMapTransform):
  """A chunk as the batches it is made of."""

  batch_size: int
  drop_remainder: bool
  max_fan_out: int

  def flat_map(self, element: Batch) -> list[Batch]:
    count = len(element["hr"])
    if self.drop_remainder:
      count -= count % self.batch_size
    return [
      {k: v[i : min(i + self.batch_size, count)] for k, v in element.items()}
      for i in range(0, count, self.batch_size)
    ]
