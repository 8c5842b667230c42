"""Batches of crops by number: which images, which crops of them, cut out.

The unit of work is a chunk of images, not one crop: all its crops are placed
by a few vector operations and written straight into the batch, which is what
lets one thread cut tens of thousands of small crops a second.

Everything random is a function of (seed, position in the endless stream of
images): epoch `e` is a permutation keyed by (seed, e), and crop `p` takes the
`p`-th block of one counter-based Philox stream. So neither the number of
workers or hosts, nor the batch size, nor a restart changes what crop comes at
which position.

Of clips a window of frames stands for an image: an epoch goes through as many
of them as there are, and a crop is at the same place, and flipped the same
way, in all of its frames.

A record that cannot be read is replaced by the next that can, in the order of
the files: of that too nothing depends on what was read before.
"""

import functools
import json
import sys
import zlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from sr_jax.data import builders, temporal, transforms
from sr_jax.data.build_once import open_build
from sr_jax.types import Batch

#: Frames of the clips, or that they are images.
_Frames = np.ndarray | None

#: Where a batch tells `(unit, frame)` of the damaged records it did without.
DAMAGED = "damaged"

# Damaged records that a message names.
_TOLD = 20

#: Key of the stream that places crops; epoch e is shuffled by key e + 1.
_CROPS = 0


class _DamagedError(Exception):
  """A record cannot be read: `(unit, frame)` of it."""

  def __init__(self, place: tuple[int, int]):
    super().__init__(place)
    self.place = place


class Crops:
  """Random access to chunks of crops: what grain reads from.

  A chunk takes `group` images and gives `group * crops_per_image` crops.
  `group` is one batch where an image gives one crop; where it gives several,
  a chunk spans several batches, over which they are shuffled row by row.
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
    border: str = "symmetric",
    num_frames: int | None = None,
    intervals: Sequence[int] = (1,),
    random_reverse: bool = False,
    mirror: bool = False,
    max_bad: int = 0,
  ):
    self.seed, self.augment, self.paired = seed, augment, paired
    self.scale, self.crops_per_image = scale, crops_per_image
    self.num_frames, self.intervals = num_frames, tuple(intervals)
    self.random_reverse, self.mirror = random_reverse, mirror
    self.shard_index, self.shard_count = shard_index, shard_count
    self.group = batch_size * crops_per_image
    self.keep = False
    self.max_bad = max_bad
    self._kept: dict[tuple[int, int], list[np.ndarray]] = {}
    self._damaged: set[tuple[int, int]] = set()
    self._names: list[str] = []
    self._sizes: list[tuple[int, int]] = []
    self.units: list[tuple[str, str, range]] = []  # build, split, rows
    self.windows: list[transforms.Window] = []
    self.num_bytes = 0
    counts = []
    for builder in built:
      split = next(iter(builder.info.splits))
      for (name, tile), rows in zip(builder.units, builder.rows, strict=True):
        where = transforms.window(
          tile, patch_size=patch_size, scale=scale, margin=margin, border=border
        )
        if min(where.rows, where.columns) < 1:
          raise ValueError(_too_small(name, tile, patch_size, margin * scale))
        count = 1
        if num_frames is not None:
          count = temporal.num_windows(len(rows), num_frames, max(intervals))
        if count < 1:
          raise ValueError(_too_short(name, rows, num_frames, max(intervals)))
        counts.append(count)
        self.units.append((str(builder.data_path), split, rows))
        self._names.append(name)
        self._sizes.append((tile.height, tile.width))
        self.windows.append(where)
        self.num_bytes += 3 * tile.height * tile.width * len(rows)
    told = [self._names, self._sizes, [len(rows) for _, _, rows in self.units]]
    self.fingerprint = zlib.crc32(json.dumps(told).encode())
    self._rows = np.array([w.rows for w in self.windows])
    self._columns = np.array([w.columns for w in self.windows])
    self._lengths = np.array([len(rows) for _, _, rows in self.units])
    # Of what an epoch goes through: its unit, and which of the unit's it is.
    self._counts = np.array(counts)
    self._unit = np.repeat(np.arange(len(counts)), counts)
    self._part = np.concatenate([np.arange(count) for count in counts])
    self.side = patch_size + 2 * margin * scale
    if epochs is None:
      self._total, self._length = None, sys.maxsize
    else:
      self._total = epochs * self.num_images
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
        f"{self.num_images} {'windows' if num_frames else 'images'} give no "
        f"batch of {batch_size} in {epochs} epochs over {shard_count} shards; "
        "lower batch_size"
      )

  @property
  def num_images(self) -> int:
    """Images, or windows of frames, in an epoch of all shards together."""
    return len(self._unit)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Batch:
    while True:
      try:
        return self._chunk(index)
      except _DamagedError as error:
        self._damaged.add(error.place)
      if len(self._damaged) > self.max_bad:
        # The loader raises: an error of a worker process is not told as it is.
        none = np.zeros((self.group * self.crops_per_image, 1, 1, 3), np.uint8)
        return {"hr": none, DAMAGED: np.array(sorted(self._damaged))}

  def too_many(self, places: Collection[tuple[int, int]]) -> ValueError:
    """What to raise where more records are damaged than may be."""
    path = self.units[min(places)[0]][0]
    told = "; ".join(self.describe(place) for place in sorted(places)[:_TOLD])
    return ValueError(
      f"{len(places)} records are damaged, and {self.max_bad} may be skipped "
      f"(max_bad): {told}. Delete the folder {path}, and the next start builds "
      "it anew from the images"
    )

  def describe(self, place: tuple[int, int]) -> str:
    """Which record that is, and what is wrong with it."""
    unit, frame = place
    path, _, rows = self.units[unit]
    reason = "it can be read now"
    try:
      self._record(unit, frame)
    except _DamagedError as error:
      reason = " ".join(str(error.__cause__).split())[:200]
    what = f"frame {frame} of " if self.num_frames else ""
    return (
      f"record {rows[frame]} of {path} ({what}{self._names[unit]}): {reason}"
    )

  def _chunk(self, index: int) -> Batch:
    first, count = self._positions(index)
    times, n = self.crops_per_image, self.num_images
    positions = np.arange(first, first + count)
    images = np.empty(count, np.int64)
    for epoch in range(first // n, (first + count - 1) // n + 1):
      here = positions // n == epoch
      images[here] = self._order(epoch)[positions[here] % n]
    # Philox gives four words at each step of its counter: one step a crop.
    key = np.array([self.seed, _CROPS], np.uint64)
    philox = np.random.Philox(key=key, counter=first * times)
    draws = philox.random_raw(4 * count * times).reshape(-1, 4)
    images, missed = self._replace(images, draws[::times, 2:])
    frames = self._frames(images, draws[::times, 2:])
    units = np.repeat(self._unit[images], times)
    unit = (draws[:, :2] >> 11) * 2.0**-53
    rows = (unit[:, 0] * self._rows[units]).astype(np.int64)
    columns = (unit[:, 1] * self._columns[units]).astype(np.int64)
    flips = (draws[:, 2] & 7).astype(np.int64) * self.augment
    slot = self._slots(draws[:, 3])
    crops = np.stack([slot, units, rows, columns, flips], axis=1)
    batch = self._cut(crops.tolist(), frames)
    if missed:
      batch[DAMAGED] = np.array(sorted(missed))
    return batch

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_kept": {}}  # workers keep images of their own

  def _replace(
    self, images: np.ndarray, words: np.ndarray
  ) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """The images, other ones for the damaged; and the records of these.

    A window is judged by its own frames, as they are drawn at its position:
    else it would count what has been met before.
    """
    missed: set[tuple[int, int]] = set()
    damaged = sorted(self._damaged)
    suspect = np.isin(self._unit[images], [unit for unit, _ in damaged])
    if not suspect.any():
      return images, missed
    images = images.copy()
    for i in np.flatnonzero(suspect):
      for _ in range(self.num_images):
        frames = self._frames(images[i : i + 1], words[i : i + 1])
        window = [0] if frames is None else frames[0].tolist()
        unit = int(self._unit[images[i]])
        found = {(unit, frame) for frame in window}.intersection(damaged)
        if not found:
          break
        missed |= found
        images[i] = (images[i] + 1) % self.num_images
      else:
        raise ValueError(f"no record is whole: {self.describe(min(missed))}")
    return images, missed

  def _frames(self, images: np.ndarray, words: np.ndarray) -> _Frames:
    """The frames of each window, `[n, t]`; of images there are none."""
    if self.num_frames is None:
      return None
    units = self._unit[images]
    return temporal.draw_windows(
      words,
      lengths=self._lengths[units],
      parts=self._part[images],
      part_counts=self._counts[units],
      num_frames=self.num_frames,
      intervals=self.intervals,
      random_reverse=self.random_reverse,
    )

  def _slots(self, words: np.ndarray) -> np.ndarray:
    """Where in the chunk each crop goes: one image's to different batches.

    A row of the batches takes the crops of as many images as each gives crops,
    in an order drawn for that row: whatever rows a host has, it has these
    images to itself, and the rows are the same.
    """
    if self.crops_per_image == 1:
      return np.arange(len(words))
    row = np.arange(len(words)) // self.crops_per_image**2
    batch = np.empty_like(row)
    # By row, then by word; a row's crops stand together.
    batch[np.lexsort((words, row))] = (
      np.arange(len(words)) - row * self.crops_per_image**2
    )
    slot = np.empty_like(row)
    slot[np.lexsort((row, batch))] = np.arange(len(words))
    return slot

  def _cut(self, crops: list[list[int]], frames: _Frames) -> Batch:
    """Writes each crop `(slot, unit, row, column, flip)` to its slot."""
    count, side, small = len(crops), self.side, self.side // self.scale
    # An image is a clip of one frame.
    times = self.num_frames or 1
    hr = np.empty((count, times, side, side, 3), np.uint8)
    lr = None
    if self.paired:
      lr = np.empty((count, times, small, small, 3), np.uint8)
    pixels: list[list[np.ndarray]] = []
    for i, (slot, unit, row, column, flip) in enumerate(crops):
      if i % self.crops_per_image == 0:  # the crops of one come together
        window = [0] if frames is None else frames[i // self.crops_per_image]
        pixels = self._pixels(unit, [int(frame) for frame in window])
      where = self.windows[unit]
      for t, images in enumerate(pixels):
        crop = transforms.cut(images[0], where, row, column)
        hr[slot, t] = transforms.dihedral(crop, flip)
        if lr is not None:
          part = images[1][row : row + small, column : column + small]
          lr[slot, t] = transforms.dihedral(part, flip)
    batch: Batch = {"hr": hr} if lr is None else {"hr": hr, "lr": lr}
    if frames is None:
      return {key: value[:, 0] for key, value in batch.items()}
    if self.mirror:
      return {k: temporal.mirror_extend(v) for k, v in batch.items()}
    return batch

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
    return _permutation(self.seed, epoch, self.num_images)

  def _pixels(self, unit: int, frames: list[int]) -> list[list[np.ndarray]]:
    """HR, and LR where paired, of frames of a unit."""
    read = {}
    for frame in frames:
      if (unit, frame) not in self._kept:
        read[unit, frame] = self._record(unit, frame)
    if self.keep:
      self._kept |= read
      read = self._kept
    return [read[unit, frame] for frame in frames]

  def _record(self, unit: int, frame: int) -> list[np.ndarray]:
    path, split, rows = self.units[unit]
    height, width = self._sizes[unit]
    try:
      record = _open(path, split)[rows[frame]]
      images = [record[k] for k in ("hr", "lr") if k in record]
      for image, ratio in zip(images, (1, self.scale), strict=False):
        if image.shape != (height // ratio, width // ratio, 3):
          raise ValueError(f"an image in it is {image.shape}")
    except MemoryError:
      raise
    except Exception as error:  # the readers beneath raise many kinds
      raise _DamagedError((unit, frame)) from error
    return images


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  """Epoch's order. Sorting raw words is the same under any NumPy."""
  key = np.array([seed, epoch + 1], np.uint64)
  words = np.random.Philox(key=key).random_raw(size)
  return np.argsort(words, kind="stable")


@functools.cache
def _open(path: str, split: str):
  """One reader for each build and process; they do not travel to workers."""
  builder = open_build(path)
  return builder.as_data_source(split)  # pyright: ignore[reportCallIssue]


def _too_short(
  name: str, rows: range, num_frames: int | None, interval: int
) -> str:
  span = ((num_frames or 1) - 1) * interval + 1
  what = f" with interval {interval}" if interval > 1 else ""
  return (
    f"clip {name!r} has {len(rows)} frames, and a window of num_frames "
    f"{num_frames}{what} takes {span}; lower num_frames or "
    "interval, or remove the clip"
  )


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
