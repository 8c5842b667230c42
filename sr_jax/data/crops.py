"""Batches of crops by number: which images, which crops of them, cut out.

The unit of work is a chunk of images, not one crop: all its crops are placed
by a few vector operations and written straight into the batch, which is what
lets one thread cut tens of thousands of small crops a second.

Everything random is a function of (seed, position in the endless stream of
images): epoch `e` is a permutation keyed by (seed, e), and crop `p` takes the
`p`-th block of one counter-based Philox stream. So neither the number of
workers or hosts, nor the batch size, nor a restart changes what crop comes at
which position.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sr_jax.data import builders, transforms
from sr_jax.types import Batch

#: Key of the stream that places crops; epoch e is shuffled by key e + 1.
_CROPS = 0


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
    self._kept: dict[int, list[np.ndarray]] = {}
    self.records: list[tuple[str, str, int]] = []  # build, split, row
    self.windows: list[transforms.Window] = []
    self.num_bytes = 0
    for builder in built:
      split = next(iter(builder.info.splits))
      for i, (name, tile) in enumerate(builder.records):
        where = transforms.window(
          tile, patch_size=patch_size, scale=scale, margin=margin
        )
        if min(where.rows, where.columns) < 1:
          raise ValueError(_too_small(name, tile, patch_size, margin * scale))
        self.records.append((str(builder.data_path), split, i))
        self.windows.append(where)
        self.num_bytes += 3 * tile.height * tile.width
    self._rows = np.array([w.rows for w in self.windows])
    self._columns = np.array([w.columns for w in self.windows])
    self.side = patch_size + 2 * margin * scale
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
    flips = (draws[:, 2] & 7).astype(np.int64) * self.augment
    # One image's crops go to different places of the chunk.
    place = np.argsort(draws[:, 3]) if times > 1 else np.arange(count)
    slot = np.empty_like(place)
    slot[place] = np.arange(len(place))
    crops = np.stack([slot, images, rows, columns, flips], axis=1)
    return self._cut(crops.tolist())

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_kept": {}}  # workers keep images of their own

  def _cut(self, crops: list[list[int]]) -> Batch:
    """Writes each crop `(slot, image, row, column, flip)` to its slot."""
    count, side, small = len(crops), self.side, self.side // self.scale
    hr = np.empty((count, side, side, 3), np.uint8)
    lr = np.empty((count, small, small, 3), np.uint8) if self.paired else None
    last: int | None = None
    pixels: list[np.ndarray] = []
    for slot, image, row, column, flip in crops:
      if image != last:  # the crops of an image come one after another
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

  def _pixels(self, index: int) -> list[np.ndarray]:
    pixels = self._kept.get(index)
    if pixels is None:
      path, split, i = self.records[index]
      record = _open(path, split)[i]
      pixels = [record[key] for key in ("hr", "lr") if key in record]
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
  builder = tfds.builder_from_directory(path)
  return builder.as_data_source(split)  # pyright: ignore[reportCallIssue]


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
