"""NIQE: how far an image's statistics are from those of pristine photographs.

No reference image is needed, so it can judge what a PSNR punishes: texture
that is plausible and not the original's. Lower is better.

The normalised image is kept in float32, as the reference has it, and all else
is computed in float64. The first decides figures: where an image is flat, the
filter's last digit would be noise in float64, and half of the noise would
count as negative pixels and half as positive ones. In float32 it is zero.
"""

import dataclasses
import os

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float, Shaped
from scipy import ndimage, special

from sr_jax.files import check_source
from sr_jax.npz import read_npz
from sr_jax.ops.color import rgb_to_y, to_float
from sr_jax.ops.resize import imresize
from sr_jax.types import AnyArray

#: Side of a block at full size, in pixels; half of it at half size.
_BLOCK = 96
#: Of one block at both sizes.
_NUM_FEATURES = 36
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))

_KEYS = {
  "mean": "mu_pris_param",
  "covariance": "cov_pris_param",
  "window": "gaussian_window",
}


def _moment_ratio(shape: np.ndarray) -> np.ndarray:
  """Squared mean magnitude over variance of a generalised gaussian."""
  one, two, three = (special.gamma(k / shape) for k in (1, 2, 3))
  return two**2 / (one * three)


# A shape is found as the one of this grid whose ratio is nearest. The ratio
# grows with the shape, so that is a search among the ratios' midpoints.
_SHAPES = np.arange(0.2, 10.001, 0.001)
_MIDPOINTS = np.convolve(_moment_ratio(_SHAPES), (0.5, 0.5), mode="valid")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NiqePrior:
  """The statistics of pristine photographs that images are compared with.

  Attributes:
    mean: Of the 36 features of their blocks.
    covariance: Of the same, 36x36.
    window: Weights of the local mean, 7x7, which sum to 1.
    name: What a protocol calls it.

  Raises:
    ValueError: another shape, or a number that is not finite.
  """

  mean: Float[np.ndarray, "_"]
  covariance: Float[np.ndarray, "_ _"]
  window: Float[np.ndarray, "_ _"]
  name: str = "unnamed"

  def __post_init__(self):
    shapes = {
      "mean": (_NUM_FEATURES,),
      "covariance": (_NUM_FEATURES, _NUM_FEATURES),
      "window": (7, 7),
    }
    for field, shape in shapes.items():
      value = getattr(self, field)
      if value.shape != shape:
        raise ValueError(
          f"{field} of NIQE prior '{self.name}' has shape {value.shape}, not "
          f"{shape}"
        )
      if not np.isfinite(value).all():
        raise ValueError(
          f"{field} of NIQE prior '{self.name}' holds numbers that are not "
          "finite"
        )


def load_prior(path: str | os.PathLike) -> NiqePrior:
  """Reads a prior from the file that BasicSR and MMagic have it in.

  Args:
    path: An .npz with the arrays `mu_pris_param` (1, 36), `cov_pris_param`
      (36, 36) and `gaussian_window` (7, 7).

  Returns:
    The prior, named after the file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such file.
  """
  path = epath.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
      f"there is no NIQE prior {path}: bring the file niqe_pris_params.npz of "
      "BasicSR (in its folder basicsr/metrics) and put it there"
    )
  check_source(path)
  try:
    found = read_npz(path.read_bytes())
    if missing := [key for key in _KEYS.values() if key not in found]:
      raise ValueError(f"it lacks {missing}")
    if any(found[key].size > _NUM_FEATURES**2 for key in _KEYS.values()):
      raise ValueError("its arrays are larger")
    arrays = {
      field: np.asarray(found[key], np.float64) for field, key in _KEYS.items()
    }
  except ValueError as error:
    raise ValueError(
      f"{path} is not a NIQE prior ({error}); the rule is an .npz of numbers "
      f"with the arrays {list(_KEYS.values())}, as BasicSR's "
      "niqe_pris_params.npz is"
    ) from error
  if arrays["mean"].shape == (1, _NUM_FEATURES):
    arrays["mean"] = arrays["mean"][0]
  return NiqePrior(**arrays, name=path.name)


def niqe(
  image: Shaped[AnyArray, "*b h w c"],
  *,
  prior: NiqePrior,
  crop_border: int = 0,
  colour: str = "Y",
) -> Float[np.ndarray, "*b"]:
  """Natural image quality evaluator of each image; lower is better.

  Args:
    image: RGB, or one channel, which is judged as it is; float in [0, 1], or
      uint8. What is judged is rounded to 8 bits first, as MATLAB does.
    prior: From `load_prior`.
    crop_border: Pixels dropped from each edge first. What is left is cut at
      the bottom and the right to a multiple of 96.
    colour: What RGB is turned into: "Y" (BT.601 studio swing), as tables of
      super-resolution have it, or "grey" (full swing), as the authors' code.

  Returns:
    One value per image, in float64. NaN where it is undefined: fewer than two
    blocks have any texture, or the image has values that are not finite.

  Raises:
    ValueError: neither one channel nor three, neither float nor uint8, an
      unknown colour, or crop_border leaves fewer than two blocks of 96x96.

  Source: Mittal et al. 2013; the authors' MATLAB code, and BasicSR
    `calculate_niqe`, whose float32 figures differ by less than 5e-4.
  """
  if colour not in ("Y", "grey"):
    raise ValueError(f"colour '{colour}' is not 'Y' or 'grey'")
  image = np.asarray(image)
  if image.ndim < 3 or image.shape[-1] not in (1, 3):
    raise ValueError(
      f"image has shape {image.shape}; the rule is [..., height, width, "
      "channels] with 1 or 3 channels"
    )
  height, width = (size - 2 * crop_border for size in image.shape[-3:-1])
  rows, columns = height // _BLOCK, width // _BLOCK
  if crop_border < 0 or min(rows, columns) < 1 or rows * columns < 2:
    raise ValueError(
      f"image {image.shape} with crop_border {crop_border} leaves {height}x"
      f"{width} pixels; NIQE needs two blocks of {_BLOCK}x{_BLOCK} or more: "
      "give a larger image or a smaller crop_border, which is 0 or more"
    )
  down = slice(crop_border, crop_border + rows * _BLOCK)
  right = slice(crop_border, crop_border + columns * _BLOCK)
  image = np.asarray(to_float(image[..., down, right, :]))
  levels = _levels(image, colour)
  batch = levels.shape[:-2]
  values = [_niqe(x, prior) for x in levels.reshape(-1, *levels.shape[-2:])]
  return np.array(values, np.float64).reshape(batch)


def _levels(
  image: Float[np.ndarray, "*b h w c"], colour: str
) -> Float[np.ndarray, "*b h w"]:
  """What is judged: whole numbers, [0, 255]."""
  # A pixel halfway between two levels is common, and where it falls moves the
  # figure by up to 1e-3: float32 decides, and OpenCV, as in the reference.
  image = image.astype(np.float32)
  if image.shape[-1] == 1:
    grey = image
  elif colour == "Y":
    grey = rgb_to_y(image)
  else:
    rows = np.ascontiguousarray(image[..., ::-1]).reshape(-1, 1, 3)
    grey = cv2.cvtColor(rows, cv2.COLOR_BGR2GRAY)
  grey = np.asarray(grey).reshape(image.shape[:-1]) * np.float32(255)
  return np.round(grey)


def _niqe(levels: Float[np.ndarray, "h w"], prior: NiqePrior) -> float:
  """Distance of one image's blocks to the prior."""
  if not np.isfinite(levels).all():
    return np.nan
  half = np.asarray(imresize(levels[..., None], 0.5)[..., 0])
  features = np.concatenate(
    [
      _features(_blocks(_normalise(x, prior.window), size))
      for x, size in ((levels, _BLOCK), (half, _BLOCK // 2))
    ],
    axis=1,
  )
  # A block without negative or without positive pixels has no fit. Its shapes
  # count in the mean all the same, as in the authors' code.
  fitted = features[~np.isnan(features).any(axis=1)]
  if len(fitted) < 2:
    return np.nan
  away = prior.mean - np.nanmean(features, axis=0)
  both = (prior.covariance + np.cov(fitted, rowvar=False)) / 2
  return float(np.sqrt(away @ np.linalg.pinv(both) @ away))


def _normalise(
  x: Float[np.ndarray, "h w"], window: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "h w"]:
  """Local mean taken off, local deviation divided out: eq. 1."""

  def blur(x: np.ndarray) -> np.ndarray:
    return ndimage.convolve(x, window, mode="nearest")  # float32, as x is

  mean = blur(x)
  deviation = np.sqrt(np.abs(blur(x * x) - mean * mean))
  return (x - mean) / (deviation + 1)


def _blocks(
  x: Float[np.ndarray, "h w"], size: int
) -> Float[np.ndarray, "n k k"]:
  rows, columns = (n // size for n in x.shape)
  x = x.astype(np.float64).reshape(rows, size, columns, size)
  return x.swapaxes(1, 2).reshape(-1, size, size)


def _features(blocks: Float[np.ndarray, "n k k"]) -> Float[np.ndarray, "n 18"]:
  """Fits to the pixels, and to their products with four neighbours.

  The neighbour of a pixel at the edge is on the other side of its block.
  """
  shape, left, right = _fit(blocks)
  features = [shape, (left + right) / 2]
  for shift in _SHIFTS:
    shape, left, right = _fit(blocks * np.roll(blocks, shift, axis=(1, 2)))
    factor = special.gamma(2 / shape) / special.gamma(1 / shape)
    features += [shape, (right - left) * factor, left, right]
  return np.stack(features, axis=1)


def _fit(
  x: Float[np.ndarray, "n k k"],
) -> tuple[
  Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]
]:
  """Shape and both widths of an asymmetric generalised gaussian, by moments.

  Source: Lasmar et al. 2009.
  """
  axes = (1, 2)
  square = x * x
  with np.errstate(divide="ignore", invalid="ignore"):
    left, right = (
      np.sqrt((square * side).sum(axes) / side.sum(axes))
      for side in (x < 0, x > 0)
    )
    skew = left / right
    ratio = np.abs(x).mean(axes) ** 2 / square.mean(axes)
  ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
  nearest = np.searchsorted(_MIDPOINTS, ratio)
  shape = _SHAPES[np.where(np.isnan(ratio), 0, nearest)]
  width = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
  return shape, left * width, right * width
