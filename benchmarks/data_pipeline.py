"""Crops per second of our pipeline beside a PyTorch DataLoader, in one run.

`python benchmarks/data_pipeline.py [--images=FOLDER] [--json=FILE]`. Both sides
read 480x480 sub-images with the same number of worker processes, cut a random
crop of 128x128, turn it by one of the eight flips and rotations and hand out
RGB uint8 batches of 16. The peer decodes PNG files with OpenCV, as BasicSR
does; ours reads the records that sr_jax.data builds of those files. Further
lines show what bounds either. See README.md.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import cv2
import grain
import numpy as np
import torch
from absl import flags
from torch.utils import data as torch_data

from sr_jax.data import (
  builders,
  crops,
  load_images,
  make_loader,
  resolve,
  sources,
  transforms,
)

_SIZE = 480


def write_sub_images(folder: pathlib.Path, count: int) -> None:
  """480x480 PNG files: mosaics of four crops of the embedded photographs."""
  rng = np.random.default_rng(0)
  names = ["astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket"]
  splits = [load_images("photos", split=s) for s in ("train", "test")]
  photos = [x for n, x in itertools.chain(*splits) if n in names]
  half = _SIZE // 2
  for i in range(count):
    mosaic = np.empty((_SIZE, _SIZE, 3), np.uint8)
    for top, left in itertools.product((0, half), (0, half)):
      photo = photos[rng.integers(len(photos))]
      y = rng.integers(photo.shape[0] - half + 1)
      x = rng.integers(photo.shape[1] - half + 1)
      crop = photo[y : y + half, x : x + half, :: rng.choice((1, -1))]
      mosaic[top : top + half, left : left + half] = crop
    cv2.imwrite(str(folder / f"{i:04d}.png"), mosaic)


class TorchCrops(torch_data.Dataset):
  """What BasicSR's PairedImageDataset does, less its float conversion."""

  def __init__(self, paths: list[str], patch_size: int):
    self.paths, self.patch_size = paths, patch_size
    self.rng: np.random.Generator | None = None

  def __len__(self) -> int:
    return len(self.paths)

  def read(self, index: int) -> np.ndarray:
    """One image, BGR."""
    return cv2.imread(self.paths[index], cv2.IMREAD_COLOR)

  def __getitem__(self, index: int) -> torch.Tensor:
    if self.rng is None:  # one for each worker
      self.rng = np.random.default_rng(torch.initial_seed())
    image, size = self.read(index), self.patch_size
    top = int(self.rng.integers(image.shape[0] - size + 1))
    left = int(self.rng.integers(image.shape[1] - size + 1))
    crop = image[top : top + size, left : left + size]
    turns = int(self.rng.integers(8))
    if turns & 1:
      crop = cv2.flip(crop, 1)
    if turns & 2:
      crop = cv2.flip(crop, 0)
    if turns & 4:
      crop = cv2.transpose(crop)
    return torch.from_numpy(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB))


class TorchDecodedCrops(TorchCrops):
  """The same over files that hold decoded pixels (.npy, memory-mapped)."""

  def read(self, index: int) -> np.ndarray:
    """One image, BGR."""
    return np.load(self.paths[index] + ".npy", mmap_mode="r")


def torch_batches(dataset: TorchCrops, args) -> Iterator:
  sampler = torch_data.RandomSampler(
    dataset, replacement=True, num_samples=10**9
  )
  loader = torch_data.DataLoader(
    dataset,
    batch_size=args.batch_size,
    sampler=sampler,
    num_workers=args.workers,
    prefetch_factor=4,
  )
  return iter(loader)


class FileCrops(crops.Crops):
  """Our reader, but decoding the PNG file again for every crop."""

  paths: list[str]

  def _pixels(self, index: int) -> list[np.ndarray]:
    return [sources.read_image(self.paths[index])]


def our_batches_from_files(folder: str, paths: list[str], args) -> Iterator:
  reader = FileCrops(
    [builders.prepare(resolve(folder)[0])],
    batch_size=args.batch_size,
    patch_size=args.patch_size,
    scale=4,
    margin=0,
    seed=0,
    crops_per_image=1,
    augment=True,
    shard_index=0,
    shard_count=1,
    epochs=None,
    drop_remainder=True,
    paired=False,
  )
  reader.paths = paths
  stream = grain.MapDataset.source(reader).to_iter_dataset(
    grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
  )
  if args.workers:
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=args.workers, per_worker_buffer_size=4
      )
    )
  return iter(stream)


def processor_seconds() -> float:
  """Spent so far by this process and its workers (Linux)."""
  me, ticks = os.getpid(), 0
  for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = stat.read_text().rsplit(")", 1)[1].split()
    except OSError:
      continue  # it has ended
    if me in (int(stat.parent.name), int(fields[1])):
      ticks += int(fields[11]) + int(fields[12])
  return ticks / os.sysconf("SC_CLK_TCK")


def settle() -> None:
  """Waits until no loader is filling its buffers any more."""
  deadline, before = time.monotonic() + 30, -1.0
  while (now := processor_seconds()) > before + 0.02:
    if time.monotonic() > deadline:
      raise RuntimeError("the loaders never come to rest")
    before = now
    time.sleep(0.4)


def measure(batches: Iterator, drain: int, count: int) -> tuple[float, float]:
  """Crops per second, past the batches ready, and processor ms for each."""
  settle()
  for _ in range(drain):
    first = next(batches)
  size = len(first["hr"] if isinstance(first, dict) else first)
  spent, start = processor_seconds(), time.perf_counter()
  for _ in range(count):
    next(batches)
  seconds = time.perf_counter() - start
  spent = processor_seconds() - spent
  return count * size / seconds, 1e3 * spent / (count * size)


def parts(folder: str, args) -> dict[str, float]:
  """Processor time of each part of the work on one crop, in ms."""
  paths = [os.fspath(path) for path in resolve(folder)[0].hr]
  records = builders.prepare(resolve(folder)[0]).as_data_source("train")
  image = records[0]["hr"]
  (tile,) = transforms.tiles(*image.shape[:2], size=_SIZE, step=_SIZE)
  where = transforms.window(tile, patch_size=args.patch_size, scale=4, margin=0)
  out = np.empty((args.patch_size, args.patch_size, 3), np.uint8)

  def cut(i: int) -> None:
    out[:] = transforms.dihedral(
      transforms.cut(image, where, i % where.rows, 3), i % 8
    )

  def cost(work) -> float:
    work(0)
    times = []
    for i in range(200):
      start = time.thread_time()
      work(i % len(paths))
      times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)

  return {
    "decode a PNG (OpenCV)": cost(lambda i: cv2.imread(paths[i])),
    "read a record": cost(lambda i: records[i]),
    "cut and turn a crop": cost(cut),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", help="folder of 480x480 PNG sub-images")
  parser.add_argument("--json", type=pathlib.Path, help="also write rows here")
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--batch_size", type=int, default=16)
  parser.add_argument("--patch_size", type=int, default=128)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--batches", type=int, default=100, help="a round")
  args = parser.parse_args()
  flags.FLAGS.mark_as_parsed()
  with tempfile.TemporaryDirectory() as scratch:
    os.environ["SR_JAX_CACHE"] = os.path.join(scratch, "cache")
    folder = args.images
    if not folder:
      folder = os.path.join(scratch, "sub_images")
      os.mkdir(folder)
      write_sub_images(pathlib.Path(folder), 96)
    report(folder, pathlib.Path(scratch), args)


def report(folder: str, scratch: pathlib.Path, args) -> None:
  paths = [os.fspath(path) for path in resolve(folder)[0].hr]
  decoded = [os.fspath(scratch / os.path.basename(path)) for path in paths]
  for path, target in zip(paths, decoded, strict=True):
    np.save(target + ".npy", cv2.imread(path))
  png = sum(os.path.getsize(path) for path in paths)
  build = builders.prepare(resolve(folder)[0])
  record = sum(file.stat().length for file in build.data_path.iterdir())
  kilobytes = {
    "PNG": png / len(paths) / 1e3,
    "our record": record / len(paths) / 1e3,
    "decoded": 3 * _SIZE * _SIZE / 1e3,
  }
  print(
    f"{len(paths)} images, kB each: "
    + ", ".join(f"{name} {size:.0f}" for name, size in kilobytes.items())
    + f"; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
  )

  def ours(crops_per_image: int, workers: int, cache: bool = False):
    return make_loader(
      folder,
      batch_size=args.batch_size,
      patch_size=args.patch_size,
      scale=4,
      seed=0,
      num_workers=workers,
      crops_per_image=crops_per_image,
      cache=cache,
    )

  n = args.workers
  # The first is the peer and the second ours. PyTorch's go first: they fork.
  sides = {
    f"PyTorch DataLoader, PNG, {n} workers": torch_batches(
      TorchCrops(paths, args.patch_size), args
    ),
    f"PyTorch DataLoader, .npy, {n} workers": torch_batches(
      TorchDecodedCrops(decoded, args.patch_size), args
    ),
  }
  for batches in sides.values():
    next(batches)
  sides |= {
    f"ours (records), {n} workers": ours(1, n),
    f"ours, 4 crops an image, {n} workers": ours(4, n),
    f"ours, but PNG files, {n} workers": our_batches_from_files(
      folder, paths, args
    ),
    "ours (records), no workers": ours(1, 0),
    "ours, cached in memory, no workers": ours(1, 0, True),
  }
  rounds = {name: [] for name in sides}
  for _ in range(args.rounds):
    for name, batches in sides.items():
      # Two workers hold up to 8 chunks of 16 batches each ready there.
      times = 8 if "4 crops" in name else 1
      measured = measure(batches, 24 * times, args.batches * times)
      rounds[name].append(measured)
  rows = {
    name: [statistics.median(column) for column in zip(*values, strict=True)]
    for name, values in rounds.items()
  }
  peer_rate, peer_cost = next(iter(rows.values()))
  print(f"{'':38}{'crops/s':>9}{'ratio':>8}{'cpu ms a crop':>15}{'ratio':>8}")
  for name, (rate, cost) in rows.items():
    print(
      f"{name:38}{rate:9.0f}{rate / peer_rate:7.2f}x"
      f"{cost:15.2f}{peer_cost / cost:7.2f}x"
    )
  costs = parts(folder, args)
  for name, cost in costs.items():
    print(f"{name:38}{cost:9.3f} ms of processor time")
  if args.json:
    result = {"kB": kilobytes, "crops/s and cpu ms": rows, "ms": costs}
    args.json.write_text(json.dumps(result, indent=1))
  for batches in sides.values():
    if hasattr(batches, "close"):
      batches.close()


if __name__ == "__main__":
  main()
