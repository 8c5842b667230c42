"""Low resolution, bicubic, networks and ground truth, ready to be looked at."""

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import UInt8

from sr_jax import degradations
from sr_jax.evaluation.benchmark import crop_to_multiple
from sr_jax.inference import with_chroma
from sr_jax.ops.color import rgb_to_ycbcr, to_8_bits
from sr_jax.ops.resize import imresize

Picture = UInt8[np.ndarray, "h w 3"]

LOW_RESOLUTION = "low resolution"
BICUBIC = "bicubic"
GROUND_TRUTH = "ground truth"

#: Height of the line of text over a picture, in pixels.
_CAPTION = 18


def panels(
  image: UInt8[np.ndarray, "h w c"],
  outputs: Mapping[str, np.ndarray],
  *,
  scale: int,
  degradation: str = "BI",
) -> dict[str, np.ndarray]:
  """One picture as every method restores it, all of one size.

  Args:
    image: Ground truth, RGB or grey (`benchmark.ground_truth`); cropped to a
      multiple of the scale here.
    outputs: What each network made of it: `[h, w, 1]` Y or `[h, w, 3]` RGB,
      8 bits, of the cropped size. Y is shown in the colours of bicubic
      interpolation, as the papers do.
    scale: Enlargement.
    degradation: How the low-resolution picture is made.

  Returns:
    RGB pictures, in order: low resolution (its pixels enlarged), bicubic,
    the outputs under their names, ground truth.
  """
  grey = image.shape[-1] == 1
  hr = crop_to_multiple(image.repeat(3, axis=-1) if grey else image, scale)
  height, width = hr.shape[:2]
  made = degradations.find(degradation)
  lr = to_8_bits(np.asarray(made.downsample(hr / 255.0, scale=scale)))
  bicubic = to_8_bits(imresize(lr / 255.0, shape=(height, width)))
  result = {
    LOW_RESOLUTION: lr.repeat(scale, axis=0).repeat(scale, axis=1),
    BICUBIC: bicubic,
  }
  for name, output in outputs.items():
    if output.shape[-1] == 3:
      result[name] = output
    elif grey:
      result[name] = output.repeat(3, axis=-1)
    else:
      chroma = np.asarray(rgb_to_ycbcr(bicubic / 255.0))[..., 1:]
      result[name] = with_chroma(output / 255.0, chroma)
  result[GROUND_TRUTH] = hr
  return result


def busiest_window(
  pictures: Mapping[str, np.ndarray], size: int
) -> tuple[slice, slice]:
  """Rows and columns of the square where bicubic is furthest from the truth.

  It is chosen without looking at the networks, so it favours none.

  Args:
    pictures: From `panels`.
    size: Side in pixels; less where the picture is smaller.
  """
  error = (pictures[GROUND_TRUTH] / 255.0 - pictures[BICUBIC] / 255.0) ** 2
  error = error.sum(axis=-1)
  rows, columns = (min(size, length) for length in error.shape)
  total = np.pad(error, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
  inside = (
    total[rows:, columns:]
    - total[:-rows, columns:]
    - total[rows:, :-columns]
    + total[:-rows, :-columns]
  )
  top, left = np.unravel_index(inside.argmax(), inside.shape)
  return slice(top, top + rows), slice(left, left + columns)


def side_by_side(
  pictures: Mapping[str, np.ndarray], *, gap: int = 4
) -> UInt8[np.ndarray, "h w 3"]:
  """The pictures in a row on white, each under its name."""
  parts = []
  for name, picture in pictures.items():
    height, width = picture.shape[:2]
    part = np.full((_CAPTION + height, width + gap, 3), 255, np.uint8)
    part[_CAPTION:, :width] = picture
    face, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    cv2.putText(part, name, (2, 12), face, size, (0, 0, 0), 1, cv2.LINE_AA)
    parts.append(part)
  return np.concatenate(parts, axis=1)[:, :-gap]
