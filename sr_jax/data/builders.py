"""TFDS builders: images and clips to ArrayRecord files, without TensorFlow.

Records hold decoded pixels. A PNG takes 5 to 10 times longer to decode than
such a record takes to read, and every crop pays for it (docs/data.md has the
measurement and what it costs on disk). Of a clip each frame is a record of its
own, so that a window of frames is read without the rest.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.progress
import tensorflow_datasets as tfds
from etils import epath

from sr_jax.data import sources, transforms
from sr_jax.data.build_once import build, quiet
from sr_jax.ops import resize

#: Goes into the cache key: raise it when records change their meaning.
_VERSION = "1.0.0"


@dataclasses.dataclass(kw_only=True, eq=False)
class SubImagesConfig(tfds.core.BuilderConfig):
  """What a build is made from; `name` identifies all of it.

  Attributes:
    source: The files.
    sub_image_size: Larger images are cut into tiles of this side; None: none.
    sub_image_step: Distance between tiles.
    scales: Sizes at which every image is taken; 1.0 is the image itself.
    scale: HR side over LR side of a paired source, else None.
    max_bad: How many files may be left out because they cannot be read.
  """

  source: sources.Source
  sub_image_size: int | None
  sub_image_step: int
  scales: tuple[float, ...]
  scale: int | None
  max_bad: int


class SubImages(
  tfds.core.GeneratorBasedBuilder,
  skip_registration=True,  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
):
  """Sub-images of a set or folder: `hr`, `lr` where paired, and `name`.

  Of clips they are those of the frames: first all of the first frame, then all
  of the second. What a crop is cut from, its unit, is a sub-image; of a clip
  it is the same sub-image of all frames.
  """

  VERSION = tfds.core.Version(_VERSION)
  builder_config: SubImagesConfig

  def _info(self) -> tfds.core.DatasetInfo:
    pixels = tfds.features.Tensor(
      shape=(None, None, 3),
      dtype=np.uint8,
      encoding=tfds.features.Encoding.BYTES,
    )
    features = {"hr": pixels, "name": tfds.features.Text()}
    if self.builder_config.source.lr:
      features["lr"] = pixels
    return tfds.core.DatasetInfo(
      builder=self,
      description="Images for super-resolution, cut into sub-images.",
      features=tfds.features.FeaturesDict(features),
      # The pipeline shuffles; records stay in the order of the files.
      disable_shuffling=True,
      metadata=tfds.core.MetadataDict(),
    )

  @property
  def units(self) -> list[tuple[str, transforms.Tile]]:
    """File or clip, and place in it, of each unit in order."""
    stored = (self.info.metadata or {})["records"]
    return [
      (name, transforms.Tile(*place, edges=tuple(edges)))
      for name, *place, edges in stored
    ]

  @property
  def rows(self) -> list[range]:
    """The records of each unit: one, or of a clip one a frame."""
    metadata = self.info.metadata or {}
    spans = metadata.get("clips") or [
      (i, i + 1, 1) for i in range(len(metadata["records"]))
    ]
    return [range(*span) for span in spans]

  @property
  def bad(self) -> list[str]:
    """What was left out: the file, and why."""
    return list((self.info.metadata or {}).get("bad", ()))

  def _split_generators(self, dl_manager):
    del dl_manager
    return {self.builder_config.source.split: self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict]]:
    config, row = self.builder_config, 0
    source = config.source
    units, spans, bad = [], [], []
    console = rich.console.Console(stderr=True)
    files = iter(
      rich.progress.track(
        range(len(source.hr)),
        f"Preparing {source.name}",
        console=console,
        disable=not console.is_terminal,
        transient=True,
      )
    )
    groups = source.clips or [(str(path), 1) for path in source.hr]
    for name, length in groups:
      first, tiles, spoilt = row, [], False
      for i in itertools.islice(files, length):
        if spoilt:
          continue
        try:
          images = _read(config, i)
        # Not an OSError: storage that fails today may not tomorrow, and what
        # is built is kept.
        except sources.UnreadableError as error:
          bad.append(str(error))
          if not config.max_bad:
            raise
          if len(bad) > config.max_bad:
            raise _too_many(bad, config.max_bad) from error
          spoilt = True
          continue
        found = []
        for tile, example in _examples(config, i, *images):
          yield row, example
          row += 1
          found.append(tile)
        if tiles and found != tiles:
          raise ValueError(_uneven(name, source.hr[i], found, tiles))
        tiles = found
      if spoilt:  # of a clip the frames before are there, and not used
        continue
      for k, tile in enumerate(tiles):
        units.append([name, *dataclasses.astuple(tile)])
        spans.append([first + k, row, len(tiles)])
    if not units:
      raise ValueError(f"nothing of {source.name!r} can be read: {bad[0]}")
    metadata = self.info.metadata
    if metadata is not None:  # it never is: _info made it
      metadata["records"] = units
      if source.clips:
        metadata["clips"] = spans
      if bad:
        metadata["bad"] = bad


def prepare(
  source: sources.Source,
  *,
  sub_image_size: int | None = 480,
  sub_image_step: int = 240,
  scales: Sequence[float] = (1.0,),
  scale: int | None = None,
  cache_dir: str | os.PathLike | None = None,
  max_bad: int = 0,
) -> SubImages:
  """Builds a source's records, or finds them built.

  The build is stored under a key made of the files' names, sizes and times
  and of these options, so that a changed folder is built anew. It is moved
  into place when whole: an interrupted one is never taken for it.

  Args:
    source: From `sources.resolve` or `clips.resolve_clips`.
    sub_image_size: Images with a longer side are cut into tiles of this side;
      None leaves them whole.
    sub_image_step: Distance between them.
    scales: Sizes at which every image is taken, by MATLAB's bicubic; FSRCNN's
      augmentation is (1.0, 0.9, 0.8, 0.7, 0.6).
    scale: HR side over LR side, needed where the source is paired.
    cache_dir: Where builds are kept; by default the environment variable
      SR_JAX_CACHE, else ~/.cache/sr_jax/tfds.
    max_bad: How many files that cannot be read are left out, and told by
      `SubImages.bad`; with a frame its clip is.

  Returns:
    The builder, built.

  Raises:
    ValueError: an option is out of range, or more images are corrupt, or one
      does not fit its LR partner (names the file), or the frames of a clip
      differ in size, or cache_dir is not a file system or full, or the build
      in it is damaged.
  """
  if sub_image_size and not 1 <= sub_image_step <= sub_image_size:
    raise ValueError(
      f"sub_image_step {sub_image_step} must be between 1 and sub_image_size "
      f"{sub_image_size}: a larger one would leave pixels out"
    )
  if not scales or not all(0 < s <= 1 for s in scales):
    raise ValueError(
      f"scales {tuple(scales)} must be one or more sizes in (0, 1]"
    )
  if source.lr:
    _check_pair_options(source, sub_image_step, scales, scale)
  root = cache_dir or os.environ.get("SR_JAX_CACHE") or "~/.cache/sr_jax/tfds"
  if "://" in os.fspath(root):
    raise ValueError(
      f"cache_dir {os.fspath(root)!r} (or SR_JAX_CACHE) must be on a mounted "
      "file system: ArrayRecord files are not read from object stores. Images "
      "may lie there."
    )
  config = SubImagesConfig(
    name="",
    source=source,
    sub_image_size=sub_image_size,
    sub_image_step=sub_image_step,
    scales=tuple(scales),
    scale=scale if source.lr else None,
    max_bad=max_bad,
  )
  config.name = f"{source.name}-{source.split}-{_digest(config)}"
  with quiet():
    builder = _open(config, epath.Path(root).expanduser())
    if not builder.is_prepared():
      build(builder, config.source.name)
  if len(builder.bad) > max_bad:  # built where more were allowed
    raise _too_many(builder.bad, max_bad)
  return builder


def _open(config: SubImagesConfig, root: epath.Path) -> SubImages:
  """A build, or where one will be."""
  try:
    builder = SubImages(
      config=config, data_dir=root, file_format="array_record"
    )
    if builder.is_prepared():
      _ = builder.units, builder.rows, builder.bad
    return builder
  except (MemoryError, ImportError):
    raise
  except Exception as error:  # of protobuf, json and tfds, of many kinds
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
      raise
    folder = root / "sub_images" / config.name
    raise ValueError(
      f"the records of {config.source.name!r} in {folder} are damaged "
      f"({type(error).__name__}); delete that folder, and they are built again"
    ) from error


def _check_pair_options(source, step, scales, scale) -> None:
  if scale is None:
    raise ValueError(f"{source.name!r} is paired with LR images: give scale")
  if tuple(scales) != (1.0,):
    raise ValueError(
      f"scales {tuple(scales)} cannot be used with the LR images of "
      f"{source.name!r}: only HR images can be resized; leave it at (1.0,)"
    )
  if math.gcd(step, transforms.ALIGN) % scale:
    raise ValueError(
      f"sub_image_step {step} must be a multiple of scale {scale}, and scale "
      f"divide {transforms.ALIGN}, to cut HR and LR at the same places"
    )


def _digest(config: SubImagesConfig) -> str:
  source = config.source
  files = []
  for path in (*source.hr, *(source.lr or ())):
    stat = path.stat()
    files.append([str(path), stat.length, stat.mtime])
  key: list[Any] = [_VERSION, config.sub_image_size, config.sub_image_step]
  key.append(config.scales)
  key += [config.scale, bool(source.lr), files]
  if source.clips:
    key.append(source.clips)
  text = json.dumps(key)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(
  config: SubImagesConfig, i: int
) -> tuple[np.ndarray, np.ndarray | None]:
  """One file, and its LR partner where it is paired."""
  path = config.source.hr[i]
  image = sources.read_image(path)
  if not config.source.lr:
    return image, None
  lr = sources.read_image(config.source.lr[i])
  return _match(image, lr, config.scale, path, config.source.lr[i]), lr


def _examples(
  config: SubImagesConfig, i: int, image: np.ndarray, lr: np.ndarray | None
) -> Iterator[tuple[transforms.Tile, dict]]:
  """`(tile, example)` of each sub-image of one file."""
  path, ratio = config.source.hr[i], config.scale or 1
  for size in config.scales:
    hr = image if size == 1 else _resize(image, size)
    side = config.sub_image_size or max(hr.shape[:2])
    for tile in transforms.tiles(
      *hr.shape[:2], size=side, step=config.sub_image_step
    ):
      example = {"hr": _crop(hr, tile), "name": path.name}
      if lr is not None:
        example["lr"] = _crop(lr, tile, ratio)
      yield tile, example


def _too_many(bad: list[str], max_bad: int) -> ValueError:
  return ValueError(
    f"{len(bad)} files cannot be read, and {max_bad} may be left out "
    f"(max_bad): {'; '.join(bad)}"
  )


def _uneven(
  clip: str,
  path: epath.Path,
  found: list[transforms.Tile],
  tiles: list[transforms.Tile],
) -> str:
  size, before = (
    f"{max(t.top + t.height for t in x)}x{max(t.left + t.width for t in x)}"
    for x in (found, tiles)
  )
  return (
    f"{path} is {size}, but the frames before it of clip {clip!r} are "
    f"{before}; the frames of a clip have one size"
  )


def _resize(image: np.ndarray, size: float) -> np.ndarray:
  small = resize.imresize(image / 255.0, size)
  return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)


def _match(hr, lr, scale, hr_path, lr_path) -> np.ndarray:
  """The HR image cut to the multiple of scale that its LR image shows."""
  size = tuple(lr.shape[:2])
  if size != (hr.shape[0] // scale, hr.shape[1] // scale):
    raise ValueError(
      f"hr {tuple(hr.shape[:2])} is not {scale}x lr {size}; check scale, or "
      f"the pair {hr_path} and {lr_path}"
    )
  return hr[: size[0] * scale, : size[1] * scale]


def _crop(
  image: np.ndarray, tile: transforms.Tile, ratio: int = 1
) -> np.ndarray:
  top, left = tile.top // ratio, tile.left // ratio
  bottom = (tile.top + tile.height) // ratio
  right = (tile.left + tile.width) // ratio
  return np.ascontiguousarray(image[top:bottom, left:right])
