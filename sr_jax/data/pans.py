"""The clips that are always there: a window that glides over photographs.

What a smoke run of a video recipe trains on, as one of images does on the
photographs themselves. The motion is known: so many whole pixels a frame.
"""

import os
import pathlib
import shutil
import tempfile

import cv2
from etils import epath

from sr_jax.data import sources

#: Frames of a clip, and their side.
NUM_FRAMES, SIDE = 10, 256
#: Pixels that the window goes right and down from one frame to the next.
STEPS = ((3, 1), (-2, 2), (1, -3), (-1, 0))


def pans(split: str) -> list[tuple[str, tuple[epath.Path, ...]]]:
  """A clip of each photograph, written when first asked for.

  Args:
    split: "train" or "test", as the photographs have.

  Returns:
    `(name, frames in order of time)` of each.

  Raises:
    FileNotFoundError: the photographs are not installed.
    OSError: the cache's folder cannot be written to.
  """
  cache = os.environ.get("SR_JAX_CACHE") or "~/.cache/sr_jax/tfds"
  folder = pathlib.Path(cache).expanduser() / "pans" / f"{split}-2"
  if not folder.is_dir():
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = pathlib.Path(tempfile.mkdtemp(dir=folder.parent))
    try:
      _write(split, beside)
      beside.rename(folder)
    except BaseException as error:
      shutil.rmtree(beside, ignore_errors=True)
      # Another process was as fast.
      if not (isinstance(error, OSError) and folder.is_dir()):
        raise
  return [
    (clip.name, tuple(epath.Path(x) for x in sorted(clip.iterdir())))
    for clip in sorted(folder.iterdir())
  ]


def _write(split: str, folder: pathlib.Path) -> None:
  images = sources.load_images("photos", split=split)
  for index, (name, image) in enumerate(images):
    clip = folder / name
    clip.mkdir()
    right, down = STEPS[index % len(STEPS)]
    h, w = image.shape[:2]
    for i in range(NUM_FRAMES):
      # From the middle of the photograph.
      x = (w - SIDE) // 2 + right * (i - NUM_FRAMES // 2)
      y = (h - SIDE) // 2 + down * (i - NUM_FRAMES // 2)
      frame = image[y : y + SIDE, x : x + SIDE, ::-1]
      path = clip / f"{i:02d}.png"
      if not cv2.imwrite(str(path), frame):
        raise OSError(f"{path} could not be written")
