"""From a set's name or a folder's path to image files, and to their pixels.

A spec names what to read: a set (`"t91"`), a folder (`"/my/photos"`,
`"gs://bucket/photos"`), several joined by `+` (`"t91+bsd200"`), and, where
low-resolution images are given too, `HR:lr=LR_FOLDER`. Of video `clips` finds
the files, by the same spec.
"""

import dataclasses
import difflib
import importlib.util
import os
from collections.abc import Sequence
from typing import overload

import cv2
import numpy as np
from etils import epath

from sr_jax.data import benchmarks
from sr_jax.files import is_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")

#: Photographs inside scikit-image's wheel that are in the public domain or
#: CC0; docs/data.md lists each licence, and what was left out and why.
PHOTOS: dict[str, tuple[str, ...]] = {
  "train": (
    "brick.png",
    "camera.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "rocket.jpg",
  ),
  "test": ("astronaut.png", "chelsea.png", "coffee.png"),
}

_PAIR = ":lr="


class UnreadableError(ValueError):
  """A file that is no image, or is one no longer."""


@dataclasses.dataclass(frozen=True)
class Source:
  """The files of one set or folder, sorted by name.

  Attributes:
    name: The set's name, or the folder's.
    split: "train" or "test"; only `photos` has both.
    hr: High-resolution files; of video the frames of one clip after another.
    lr: Their low-resolution partners in the same order, or None.
    clips: Of video, the name of each clip and how many frames it has.
  """

  name: str
  split: str
  hr: tuple[epath.Path, ...]
  lr: tuple[epath.Path, ...] | None = None
  clips: tuple[tuple[str, int], ...] = ()


def data_root(data_dir: str | os.PathLike | None = None) -> epath.Path:
  """The directory of the named sets: argument, SR_JAX_DATA, or ~/data."""
  return epath.Path(
    data_dir or os.environ.get("SR_JAX_DATA") or "~/data"
  ).expanduser()


def resolve(
  spec: str,
  *,
  data_dir: str | os.PathLike | None = None,
  split: str = "train",
  scale: int | None = None,
) -> list[Source]:
  """Finds the files that a spec names.

  Args:
    spec: See this module's docstring.
    data_dir: Directory that holds the named sets; by default the environment
      variable SR_JAX_DATA, else ~/data.
    split: "train" or "test". A set or folder other than `photos` is one split
      and comes whole under either name.
    scale: HR side over LR side, with which the LR files' names may end
      (`0001x4.png` beside `0001.png`).

  Returns:
    One source for each part between `+`.

  Raises:
    FileNotFoundError: a set or folder is not there; says where to get it.
    ValueError: a folder has no images, or a named set not its own number of
      them; an HR file has no LR partner, or an LR file no HR.
  """
  sources = []
  for name, lr_folder in parse(spec, split):
    source = _find(name, data_root(data_dir), split)
    if lr_folder:
      lr = _list_images(epath.Path(lr_folder).expanduser())
      source = dataclasses.replace(source, lr=pair(source.hr, lr, scale))
    sources.append(source)
  return sources


def parse(spec: str, split: str) -> list[tuple[str, str]]:
  """The parts between `+`: what to read, and where its LR images are, or "".

  Raises:
    ValueError: the split is not "train" or "test".
  """
  if split not in PHOTOS:
    raise ValueError(f"split {split!r} is not one of {sorted(PHOTOS)}")
  # A folder may have a plus sign in its name.
  parts = [spec] if _is_folder(spec) else spec.split("+")
  found = (part.strip().partition(_PAIR) for part in parts)
  return [(name.strip(), lr_folder.strip()) for name, _, lr_folder in found]


def read_image(path: epath.PathLike) -> np.ndarray:
  """Decodes one file into RGB.

  A grey image becomes three equal channels. 16 bits are rounded to 8. An
  alpha channel is dropped where it is opaque everywhere, and refused where it
  is not: what colour lies under it is nobody's intention. EXIF orientation is
  not applied, so that an HR file and its LR partner stay alike.

  Args:
    path: Local or `gs://`.

  Returns:
    uint8 `[h, w, 3]`.

  Raises:
    UnreadableError: the file cannot be decoded.
    ValueError: it has transparency, or holds floats.
  """
  data = np.frombuffer(epath.Path(path).read_bytes(), np.uint8)
  try:
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is not None:
      return _rgb(image, path)
  except (cv2.error, MemoryError):  # a size that no image has
    pass
  raise UnreadableError(
    f"{path} ({data.size} bytes) cannot be decoded as an image: it is "
    "corrupt, cut short, or of another format; replace it or move it away"
  )


def _rgb(image, path):
  """uint8 `[h, w, 3]` of what OpenCV decoded."""
  if image.dtype == np.uint16:
    image = np.rint(image / 257).astype(np.uint8)
  if image.dtype != np.uint8:
    raise ValueError(
      f"{path} holds {image.dtype} pixels; convert it to 8 or 16 bits"
    )
  if image.ndim == 2:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
  if image.shape[-1] == 4:
    if (image[..., 3] != 255).any():
      raise ValueError(
        f"{path} is partly transparent; flatten it onto a background first"
      )
    image = image[..., :3]
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Images(Sequence[tuple[str, np.ndarray]]):
  """`(name, uint8 [h, w, 3])` of each file, decoded when asked for."""

  def __init__(self, paths: Sequence[epath.Path]):
    self.paths = tuple(paths)

  def __len__(self) -> int:
    return len(self.paths)

  @overload
  def __getitem__(self, index: int) -> tuple[str, np.ndarray]: ...
  @overload
  def __getitem__(self, index: slice) -> "Images": ...
  def __getitem__(self, index):
    if isinstance(index, slice):
      return Images(self.paths[index])
    path = self.paths[index]
    return path.stem, read_image(path)

  def is_grey(self, index: int) -> bool:
    """Whether the file has one channel, which equal channels do not tell.

    The papers take a grey file for Y as it is, and convert an RGB one even
    where it shows no colour: Set14 has one of each.
    """
    data = np.frombuffer(self.paths[index].read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return image is not None and image.ndim == 2


def load_images(
  spec: str,
  *,
  data_dir: str | os.PathLike | None = None,
  split: str | None = None,
) -> Images:
  """The whole images of a set or folder, for evaluation.

  Args:
    spec: A set's name in upper or lower case, a folder, or several joined by
      `+`.
    data_dir: Directory that holds the named sets; by default the environment
      variable SR_JAX_DATA, else ~/data.
    split: "test" unless given: `photos` has one of its own.

  Returns:
    A sequence of `(name, image)` sorted by file name, the image RGB uint8
    `[h, w, 3]` decoded as it is taken. Grey images have three equal channels.

  Raises:
    FileNotFoundError: the set or folder is not there.
    ValueError: it is empty or incomplete; on access, a file is corrupt.
  """
  found = resolve(spec, data_dir=data_dir, split=split or "test")
  return Images([path for source in found for path in source.hr])


def _is_folder(spec: str) -> bool:
  return os.sep in spec and epath.Path(spec).expanduser().is_dir()


def _find(name: str, root: epath.Path, split: str) -> Source:
  known = name.lower()
  if known == "photos":
    return Source("photos", split, _photos(split))
  if known in benchmarks.NAMED_SETS:
    return Source(known, split, _named(known, root))
  folder = epath.Path(name).expanduser()
  if not name or not folder.is_dir():
    if known in benchmarks.NAMED_CLIPS:
      raise ValueError(
        f"{name!r} is a set of clips: give num_frames to train on it, and its "
        "name among --benchmarks to evaluate; to take its frames for images, "
        "give the folder of one clip"
      )
    names = ["photos", *benchmarks.NAMED_SETS]
    of_clips = ["pans", *benchmarks.NAMED_CLIPS]
    near = difflib.get_close_matches(known, [*names, *of_clips], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise FileNotFoundError(
      f"{name!r} is neither a folder nor a known set.{hint} "
      f"Sets: {', '.join(names)}; of clips: {', '.join(of_clips)}."
    )
  return Source(folder.name, split, _list_images(folder))


def _photos(split: str) -> tuple[epath.Path, ...]:
  # find_spec and not an import: skimage.data would offer to download.
  spec = importlib.util.find_spec("skimage")
  if spec is None or spec.origin is None:
    raise FileNotFoundError(
      "'photos' are the photographs in scikit-image's wheel, which is not "
      "installed; pip install scikit-image"
    )
  folder = epath.Path(spec.origin).parent / "data"
  paths = tuple(folder / name for name in PHOTOS[split])
  for path in paths:
    if not path.exists():
      raise FileNotFoundError(
        f"{path} is missing: this scikit-image does not bundle it; pip "
        "install 'scikit-image>=0.24,<0.27'"
      )
  return paths


def _named(name: str, root: epath.Path) -> tuple[epath.Path, ...]:
  info = benchmarks.NAMED_SETS[name]
  counts = []
  for folder in info.folders:
    path = ignoring_case(root, folder)
    images = image_files(path) if path else ()
    if len(images) == info.count:
      return images
    if images:
      counts.append(f"{path} holds {len(images)}")
  if counts:
    raise ValueError(
      f"{name!r} has {info.count} images, but {'; '.join(counts)}. Complete "
      "it, or give the folder's path in place of the name to take it as it is."
    )
  if info.parts:
    try:
      return tuple(p for part in info.parts for p in _named(part, root))
    except FileNotFoundError:
      pass  # the message below names them both
  raise FileNotFoundError(
    f"{name!r} is not in {root}. Get it from {info.where} and put its "
    f"{info.count} images (PNG, JPEG, WebP, BMP or TIFF) into "
    f"{root / info.folders[0]}; or say where it is with --data_dir or the "
    "environment variable SR_JAX_DATA."
  )


def ignoring_case(root: epath.Path, folder: str) -> epath.Path | None:
  """The folder under a root, in upper or lower case, if it is there."""
  for part in folder.split("/"):
    if not root.is_dir():
      return None
    found = [p for p in root.iterdir() if p.name.lower() == part.lower()]
    if not found:
      return None
    root = sorted(found)[0]
  return root


def image_files(folder: epath.Path) -> tuple[epath.Path, ...]:
  """The images in a folder, by name; none where there is no folder."""
  if not folder.is_dir():
    return ()
  files = (
    path
    for path in folder.iterdir()
    if path.suffix.lower() in SUFFIXES
    and not path.name.startswith(".")
    and is_file(path)
  )
  return tuple(sorted(files, key=lambda path: path.name))


def _list_images(folder: epath.Path) -> tuple[epath.Path, ...]:
  if not folder.is_dir():
    raise FileNotFoundError(f"the folder {folder} does not exist")
  files = image_files(folder)
  if not files:
    inside = sorted(p.name for p in folder.iterdir() if image_files(p))
    hint = f"; its subfolders {inside} do: give one of them" if inside else ""
    raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)}){hint}")
  return files


def pair(
  hr: tuple[epath.Path, ...], lr: tuple[epath.Path, ...], scale: int | None
) -> tuple[epath.Path, ...]:
  """The LR partners of HR files, by name.

  Raises:
    ValueError: a file has none.
  """
  by_stem = {path.stem: path for path in lr}
  partners = []
  for path in hr:
    names = [path.stem, *([f"{path.stem}x{scale}"] if scale else [])]
    found = [by_stem.pop(name) for name in names if name in by_stem]
    if not found:
      raise ValueError(
        f"{path} has no partner in {lr[0].parent}: "
        f"{' or '.join(map(repr, names))} is not there"
      )
    partners.append(found[0])
  if by_stem:
    path = min(by_stem.values())
    raise ValueError(f"{path} has no partner in {hr[0].parent}")
  return tuple(partners)
