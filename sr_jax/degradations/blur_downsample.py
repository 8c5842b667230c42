"""Gaussian blur, then every n-th pixel: the BD of the video papers, and DUF's.

Two degradations go by the name BD. They differ in where the kernel stands:
BasicVSR's (`bd`) is centred on the low-resolution pixel, as MATLAB's bicubic
is; DUF's (`duf`) on the first of the pixels that it covers, 1.5 pixels up and
left of that at x4. A network trained for one loses 6 dB on the other.
"""

import functools
import math

import numpy as np
from jaxtyping import Float

from sr_jax.degradations.bicubic import check_crop, drop_margin, round_levels
from sr_jax.ops.resize import resample
from sr_jax.types import AnyArray

#: Low-resolution pixels of context that a crop needs on each side.
BD_MARGIN, DUF_MARGIN = 1, 2

#: Of BD: standard deviation in pixels, and taps (an even number of them).
_BD_SIGMA, _BD_TAPS = 1.6, 12
#: Standard deviation of DUF's kernel over the scale, and where it ends, in
#: standard deviations.
_DUF_SIGMA, _DUF_TRUNCATE = 0.4, 4.0


@functools.lru_cache(maxsize=512)
def _weights(
  size: int, scale: int, sigma: float, taps: int, center: float, border: str
) -> np.ndarray:
  """One axis as a float64 matrix `[size / scale, size]`."""
  offset = np.arange(taps) - (taps - 1) / 2
  weight = np.exp(-(offset**2) / (2 * sigma**2))
  weight /= weight.sum()
  out = size // scale
  reach = taps + scale
  inside = np.pad(np.arange(size), reach, mode=border)  # pyright: ignore
  position = scale * np.arange(out)[:, None] + center + offset
  index = inside[position.astype(np.int64) + reach]
  matrix = np.zeros((out, size))
  np.add.at(matrix, (np.arange(out)[:, None], index), weight)
  matrix.setflags(write=False)
  return matrix


def blur_downsample(
  hr: Float[AnyArray, "*b h w c"],
  *,
  scale: int,
  sigma: float,
  taps: int,
  center: float,
  border: str,
  margin: int = 0,
  quantize: bool = True,
) -> Float[AnyArray, "*b h2 w2 c"]:
  """Blurs by a gaussian window and keeps every `scale`-th pixel.

  Both are one small matrix product an axis, so the pixels that are dropped
  are never computed. NumPy in float64 is the offline image; on the device it
  is the same to the 8-bit level but for one value in a hundred thousand, where
  float32 rounds half a level to the other side.

  Args:
    hr: Ground truth with its margin, [0, 1].
    scale: Factor; height and width are multiples of it.
    sigma: Standard deviation of the window, in pixels.
    taps: Its length.
    center: Where it stands for the first output pixel, in pixels; half a
      pixel between two of them where `taps` is even.
    border: What lies outside the image: "edge" (MATLAB's replicate), "reflect"
      (without the border pixel, as PyTorch) or "symmetric".
    margin: Low-resolution pixels to drop from each side of the result.
    quantize: Clip and round to 8 bits, as an image file would hold it.

  Returns:
    `[..., h / scale - 2 * margin, w / scale - 2 * margin, c]`, [0, 1].

  Raises:
    ValueError: a size is no multiple of scale, the margin eats it all, or the
      window does not stand on pixels.

  Source: see `bd` and `duf`.
  """
  check_crop(hr, scale=scale, margin=margin)
  if (center - (taps - 1) / 2) % 1:
    raise ValueError(
      f"center {center} of {taps} taps falls between pixels; it must be half "
      "a pixel off where taps is even, and whole where it is odd"
    )
  rows, columns = (
    _weights(size, scale, sigma, taps, center, border)
    for size in hr.shape[-3:-1]
  )
  levels = drop_margin(resample(hr * 255.0, rows, columns), margin)
  return (round_levels(levels) if quantize else levels) / 255.0


def bd(
  hr: Float[AnyArray, "*b h w c"],
  *,
  scale: int = 4,
  margin: int = 0,
  quantize: bool = True,
) -> Float[AnyArray, "*b h2 w2 c"]:
  """The BD of BasicVSR, IconVSR and BasicVSR++, x4.

  With `margin=BD_MARGIN` the result equals, to the 8-bit level, the same crop
  of the image made offline from the whole picture, where the host cuts the
  crop at a multiple of `scale`, with `margin * scale` more pixels on each side,
  out of the image whose border pixels are repeated (`border="edge"`).

  Args:
    hr: Ground truth with its margin, [0, 1].
    scale: 4: it is defined for no other.
    margin: Low-resolution pixels to drop from each side of the result.
    quantize: Round to 8 bits.

  Returns:
    As `blur_downsample`.

  Raises:
    ValueError: as `blur_downsample`, or another scale.

  Source: BD_degradation.m of ckkelvinchan/BasicVSR-IconVSR: MATLAB's
    fspecial of 12 taps and sigma 1.6, imfilter with "replicate", rows and
    columns 2:4:end.
  """
  if scale != 4:
    raise ValueError(
      f"scale {scale}: BD is defined for x4 alone; take 'BI', or 'DUF' "
      "(x2, x3 and x4)"
    )
  # An even window stands half a pixel after the pixel that imfilter gives it
  # to; taking the second of every four puts it on the middle of the four.
  return blur_downsample(
    hr,
    scale=scale,
    sigma=_BD_SIGMA,
    taps=_BD_TAPS,
    center=1.5,
    border="edge",
    margin=margin,
    quantize=quantize,
  )


def duf(
  hr: Float[AnyArray, "*b h w c"],
  *,
  scale: int = 4,
  margin: int = 0,
  quantize: bool = True,
) -> Float[AnyArray, "*b h2 w2 c"]:
  """The blur and downsampling of DUF, which older papers call BD.

  Args:
    hr: Ground truth with its margin, [0, 1]; `border="reflect"` for the host.
    scale: Factor; 2, 3 or 4 in the paper.
    margin: Low-resolution pixels to drop from each side of the result.
    quantize: Round to 8 bits; DUF's own code does not.

  Returns:
    As `blur_downsample`.

  Raises:
    ValueError: as `blur_downsample`.

  Source: Jo et al. 2018 (DUF); BasicSR `duf_downsample`.
  """
  sigma = _DUF_SIGMA * scale
  return blur_downsample(
    hr,
    scale=scale,
    sigma=sigma,
    taps=2 * math.floor(_DUF_TRUNCATE * sigma + 0.5) + 1,
    center=0.0,
    border="reflect",
    margin=margin,
    quantize=quantize,
  )
