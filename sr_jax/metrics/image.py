"""PSNR and SSIM: one implementation for training and for tables.

NumPy arrays are compared in float64, as the tables are; JAX arrays in float32
on the device, inside `jit` or not. The two agree to 1e-4 dB.
"""

import functools
import math
import operator

import numpy as np
from jaxtyping import Float, Shaped

from sr_jax.ops.color import rgb_to_y, to_float
from sr_jax.types import AnyArray

# SSIM of Wang et al.: an 11x11 gaussian window, sigma 1.5, and two constants
# that keep flat regions stable, for images in [0, 1].
_TAPS = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_TAPS = tuple(float(tap) for tap in _TAPS / _TAPS.sum())
_C1, _C2 = 0.01**2, 0.03**2


def psnr(
  sr: Shaped[AnyArray, "*b h w c"],
  hr: Shaped[AnyArray, "*b h w c"],
  *,
  crop_border: int,
  y_channel: bool,
) -> Float[AnyArray, "*b"]:
  """Peak signal-to-noise ratio of each image, in dB.

  Args:
    sr: Restored image, RGB or Y; float in [0, 1], or uint8 (over 255). Values
      are compared as they are: clip and round first where a table does.
    hr: Ground truth, same shape and range.
    crop_border: Pixels dropped from each edge first; the papers use the scale.
    y_channel: Compare luma (BT.601 studio swing, not rounded) instead of RGB.
      An image of one channel is taken to be Y already.

  Returns:
    One value per image; +inf where the two are equal, NaN where either is.

  Raises:
    ValueError: the shapes differ, or crop_border leaves no pixels.

  Source: Huynh-Thu & Ghanbari 2008; protocol of Dong et al. 2014, sec. 4.
  """
  sr, hr = _prepare(sr, hr, crop_border, y_channel)
  xp = sr.__array_namespace__()
  error = ((sr - hr) ** 2).mean(axis=(-3, -2, -1))
  equal = error == 0
  decibels = -10.0 * xp.log10(xp.where(equal, 1.0, error))
  return xp.where(equal, math.inf, decibels)


def ssim(
  sr: Shaped[AnyArray, "*b h w c"],
  hr: Shaped[AnyArray, "*b h w c"],
  *,
  crop_border: int,
  y_channel: bool,
  flavour: str = "per_channel",
) -> Float[AnyArray, "*b"]:
  """Structural similarity of each image, at most 1.

  Two definitions are in use, and tables differ by 0.02 between them:

  - "per_channel": an 11x11 window inside the image, each channel by itself,
    then the mean. The original, and what BasicSR and MMagic compute today.
  - "window_3d": an 11x11x11 window over rows, columns and channels, borders
    (of the channels too) repeated; every pixel counts. It scores higher.

  Args:
    sr: Restored image, as for `psnr`.
    hr: Ground truth, same shape and range.
    crop_border: Pixels dropped from each edge first; the papers use the scale.
    y_channel: Compare luma instead of RGB, as for `psnr`.
    flavour: "per_channel" or "window_3d".

  Returns:
    One value per image.

  Raises:
    ValueError: the shapes differ, the flavour is unknown, or what
      crop_border leaves is empty or smaller than the window ("per_channel").

  Source: Wang et al. 2004, eq. 13; "per_channel" BasicSR `calculate_ssim`,
    "window_3d" `_ssim_3d` of HINet's and NAFNet's BasicSR.
  """
  if flavour not in ("per_channel", "window_3d"):
    raise ValueError(f"flavour '{flavour}' is not 'per_channel' or 'window_3d'")
  shape = sr.shape
  sr, hr = _prepare(sr, hr, crop_border, y_channel)
  volume = flavour == "window_3d"
  if not volume and min(sr.shape[-3:-1]) < len(_TAPS):
    raise ValueError(
      f"sr {shape} with crop_border {crop_border} leaves {sr.shape[-3:-1]} "
      f"pixels, fewer than SSIM's {len(_TAPS)}x{len(_TAPS)} window; give a "
      "larger image or a smaller crop_border"
    )

  def blur(x: AnyArray) -> AnyArray:
    for axis in (-3, -2, -1) if volume else (-3, -2):
      x = _blur(x, axis, pad=volume)
    return x

  mean_sr, mean_hr = blur(sr), blur(hr)
  var_sr = blur(sr * sr) - mean_sr**2
  var_hr = blur(hr * hr) - mean_hr**2
  covariance = blur(sr * hr) - mean_sr * mean_hr
  luminance = (2 * mean_sr * mean_hr + _C1) / (mean_sr**2 + mean_hr**2 + _C1)
  structure = (2 * covariance + _C2) / (var_sr + var_hr + _C2)
  xp = sr.__array_namespace__()
  return xp.asarray((luminance * structure).mean(axis=(-3, -2, -1)))


def _prepare(
  sr: AnyArray, hr: AnyArray, crop_border: int, y_channel: bool
) -> tuple[AnyArray, AnyArray]:
  """Both images as floats, cropped, as RGB or Y."""
  if sr.shape != hr.shape or sr.ndim < 3:
    raise ValueError(
      f"sr {sr.shape} and hr {hr.shape} must be of one shape [..., height, "
      "width, channels]; crop hr to a multiple of the scale first"
    )
  if crop_border < 0 or min(sr.shape[-3:-1]) <= 2 * crop_border:
    raise ValueError(
      f"crop_border {crop_border} leaves no pixels of sr {sr.shape}; it must "
      "be from 0 to less than half the height and width"
    )

  def prepare(image: AnyArray) -> AnyArray:
    height, width = image.shape[-3:-1]
    rows = slice(crop_border, height - crop_border)
    columns = slice(crop_border, width - crop_border)
    image = to_float(image[..., rows, columns, :])
    return rgb_to_y(image) if y_channel and image.shape[-1] != 1 else image

  return prepare(sr), prepare(hr)


def _blur(x: AnyArray, axis: int, *, pad: bool) -> AnyArray:
  """The gaussian window along one axis, as a sum of shifted slices."""
  xp = x.__array_namespace__()
  x = xp.moveaxis(x, axis, -1)
  if pad:
    border = [(0, 0)] * (x.ndim - 1) + [(len(_TAPS) // 2,) * 2]
    x = xp.pad(x, border, mode="edge")
  size = x.shape[-1] - len(_TAPS) + 1
  taps = [tap * x[..., i : i + size] for i, tap in enumerate(_TAPS)]
  return xp.moveaxis(functools.reduce(operator.add, taps), -1, axis)
