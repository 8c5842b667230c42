"""RGB and YCbCr, BT.601 in studio swing: MATLAB's rgb2ycbcr and its inverse.

Y fills 16 to 235 of 255 and the chroma 16 to 240, so a float image in [0, 1]
has its Y in [16/255, 235/255]. The papers compare this Y; the full swing of
JPEG (OpenCV's `cvtColor`) is another one and gives other tables.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from sr_jax.types import AnyArray

# Rows are R, G, B; columns Y, Cb, Cr; for RGB in [0, 1] and YCbCr in [0, 255].
_FORWARD = np.array(
  [
    [65.481, -37.797, 112.0],
    [128.553, -74.203, -93.786],
    [24.966, 112.0, -18.214],
  ]
)
_OFFSET = np.array([16.0, 128.0, 128.0])
_INVERSE = np.linalg.inv(_FORWARD)


def to_float(image: Shaped[AnyArray, "*b"]) -> Float[AnyArray, "*b"]:
  """The image in the floats that figures and losses are computed in.

  Args:
    image: float in [0, 1], or uint8 in [0, 255], which is divided by 255.

  Returns:
    [0, 1]; float64 for NumPy, float32 for JAX (wider where it already was).

  Raises:
    ValueError: neither float nor uint8.
  """
  xp = image.__array_namespace__()
  dtype = np.float64 if xp is np else jnp.float32
  if image.dtype == np.uint8:
    return image.astype(dtype) / 255.0
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise ValueError(
      f"image is {image.dtype}; the rule is float in [0, 1] or uint8 in "
      "[0, 255]: convert it to one of them"
    )
  return image.astype(jnp.promote_types(image.dtype, dtype))


def to_8_bits(image: Float[AnyArray, "*b"]) -> UInt8[np.ndarray, "*b"]:
  """Clips [0, 1] and rounds to the nearest of 256 levels."""
  return np.round(np.clip(np.asarray(image, np.float64), 0, 1) * 255).astype(
    np.uint8
  )


def rgb_to_ycbcr(
  image: Shaped[AnyArray, "*b h w 3"],
) -> Shaped[AnyArray, "*b h w 3"]:
  """Luma and chroma of an RGB image.

  Args:
    image: RGB; float in [0, 1], or uint8.

  Returns:
    Y, Cb, Cr in the dtype of `image`: [16, 235] and [16, 240] over 255 for
    float, unrounded; rounded levels for uint8.

  Raises:
    ValueError: not three channels, or neither float nor uint8.

  Source: ITU-R BT.601; MATLAB rgb2ycbcr.
  """
  _check_channels(image)
  return _like(image, (_mix(to_float(image), _FORWARD) + _OFFSET) / 255.0)


def ycbcr_to_rgb(
  image: Shaped[AnyArray, "*b h w 3"],
) -> Shaped[AnyArray, "*b h w 3"]:
  """The inverse of `rgb_to_ycbcr`.

  Args:
    image: YCbCr as `rgb_to_ycbcr` returns it.

  Returns:
    RGB in the dtype of `image`. Float is not clipped (most YCbCr triples lie
    outside the RGB cube); uint8 is rounded and clipped to [0, 255].

  Raises:
    ValueError: not three channels, or neither float nor uint8.

  Source: ITU-R BT.601; MATLAB ycbcr2rgb.
  """
  _check_channels(image)
  return _like(image, _mix(to_float(image) * 255.0 - _OFFSET, _INVERSE))


def rgb_to_y(
  image: Shaped[AnyArray, "*b h w 3"],
) -> Shaped[AnyArray, "*b h w 1"]:
  """The luma alone: the first channel of `rgb_to_ycbcr`.

  Args:
    image: RGB; float in [0, 1], or uint8.

  Returns:
    Y in the dtype of `image`; float unrounded, in [16/255, 235/255].

  Raises:
    ValueError: not three channels, or neither float nor uint8.

  Source: ITU-R BT.601; MATLAB rgb2ycbcr.
  """
  _check_channels(image)
  y = (_mix(to_float(image), _FORWARD[:, :1]) + _OFFSET[:1]) / 255.0
  return _like(image, y)


def _check_channels(image: AnyArray) -> None:
  if image.ndim < 3 or image.shape[-1] != 3:
    raise ValueError(
      f"image has shape {image.shape}; the rule is [..., height, width, 3]: "
      "channels last, and a grey image has no chroma to convert"
    )


def _mix(image: AnyArray, matrix: np.ndarray) -> AnyArray:
  """`image @ matrix` over the channels, elementwise.

  A matrix product would be rounded to bfloat16 on a TPU.
  """
  r, g, b = (image[..., i : i + 1] * matrix[i] for i in range(3))
  return r + g + b


def _like(image: AnyArray, out: AnyArray) -> AnyArray:
  """`out` in [0, 1] in the dtype of `image`, rounded for uint8."""
  if image.dtype == np.uint8:
    out = (out * 255.0).round().clip(0, 255)
  return out.astype(image.dtype)
