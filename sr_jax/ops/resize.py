"""Resampling as two small matrix products: MATLAB's imresize and PyTorch's.

Both are linear and separable, so each axis is one `[out, in]` matrix of
weights, computed once in float64 NumPy. On an accelerator the products run on
the matrix unit; on NumPy input they stay in float64.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sr_jax.types import AnyArray


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' cubic convolution kernel, support 4."""
  x = np.abs(x)
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return near * (x <= 1) + far * ((x > 1) & (x <= 2))


def _triangle(x: np.ndarray) -> np.ndarray:
  return np.maximum(1 - np.abs(x), 0)


def _box(x: np.ndarray) -> np.ndarray:
  return ((x >= -0.5) & (x < 0.5)).astype(np.float64)


def _lanczos3(x: np.ndarray) -> np.ndarray:
  return np.sinc(x) * np.sinc(x / 3) * (np.abs(x) < 3)


#: method -> (kernel, support, may be widened against aliasing)
_MATLAB_KERNELS: dict[str, tuple[Callable, float, bool]] = {
  "bicubic": (functools.partial(_cubic, a=-0.5), 4.0, True),
  "bilinear": (_triangle, 2.0, True),
  "lanczos3": (_lanczos3, 6.0, True),
  "box": (_box, 1.0, True),
  "nearest": (_box, 1.0, False),
}


@functools.lru_cache(maxsize=512)
def _matlab_weights(
  size: int, out: int, scale: float, method: str, antialias: bool
) -> np.ndarray:
  """One axis of imresize as a float64 matrix `[out, size]`."""
  kernel, support, may_widen = _MATLAB_KERNELS[method]
  shrink = scale if antialias and may_widen and scale < 1 else 1.0
  support = support / shrink
  center = (np.arange(out) + 0.5) / scale - 0.5
  taps = math.ceil(support) + 2
  index = np.floor(center - support / 2)[:, None] + np.arange(taps)
  weight = kernel((center[:, None] - index) * shrink)
  weight /= weight.sum(axis=1, keepdims=True)
  # Symmetric padding: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
  index = np.mod(index.astype(np.int64), 2 * size)
  index = np.where(index < size, index, 2 * size - 1 - index)
  matrix = np.zeros((out, size))
  np.add.at(matrix, (np.arange(out)[:, None], index), weight)
  matrix.setflags(write=False)
  return matrix


def imresize(
  image: Float[AnyArray, "*b h w c"],
  scale: float | int | None = None,
  *,
  shape: Sequence[int] | None = None,
  method: str = "bicubic",
  antialias: bool = True,
) -> Float[AnyArray, "*b h2 w2 c"]:
  """Resizes as MATLAB's imresize does.

  The papers made their low-resolution images with it. It is not
  `jax.image.resize`: borders are padded symmetrically, and there the two
  differ by up to 0.03.

  Args:
    image: Any float range; not clipped or rounded.
    scale: Factor for both axes; the output has `ceil(size * scale)` pixels.
      Write 1 / 3 for a third.
    shape: `(height, width)` of the output instead, each axis with its own
      factor. Exactly one of the two is given.
    method: bicubic (a = -0.5), bilinear, lanczos3, box or nearest.
    antialias: Widen the kernel when shrinking.

  Returns:
    The same kind of array: NumPy is computed in float64, JAX in float32 at
    the highest matmul precision; both come back in the dtype of `image`.

  Raises:
    ValueError: integer image, unknown method, or a bad size.

  Source: MATLAB R2018b imresize; equal to Octave's where it normalises.
  """
  if method not in _MATLAB_KERNELS:
    raise ValueError(
      f"method '{method}' is not one of {sorted(_MATLAB_KERNELS)}"
    )
  return resample(
    image,
    *(
      _matlab_weights(size, out, factor, method, bool(antialias))
      for size, out, factor in _plan(image, scale, shape, math.ceil)
    ),
  )


@functools.lru_cache(maxsize=512)
def _torch_weights(
  size: int, out: int, scale: float, method: str, align_corners: bool
) -> np.ndarray:
  """One axis of `F.interpolate` as a float64 matrix `[out, size]`."""
  position = np.arange(out)
  if method == "area":
    first = position * size // out
    last = -((position + 1) * size // -out)
    index = np.arange(size)
    inside = (index >= first[:, None]) & (index < last[:, None])
    return inside / inside.sum(axis=1, keepdims=True)
  if method == "nearest":
    # PyTorch computes this index in float32, and floor() keeps the difference.
    source = np.floor(position.astype(np.float32) * np.float32(1 / scale))
    index, weight = source[:, None], np.ones((out, 1))
  else:
    if align_corners:
      source = position * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
      source = (position + 0.5) / scale - 0.5
    taps = np.arange(-1, 3) if method == "bicubic" else np.arange(2)
    if method == "bilinear":
      source = np.maximum(source, 0)
    index = np.floor(source)[:, None] + taps
    distance = source[:, None] - index
    weight = (
      _cubic(distance, -0.75) if method == "bicubic" else _triangle(distance)
    )
  matrix = np.zeros((out, size))
  index = np.clip(index, 0, size - 1).astype(np.int64)
  np.add.at(matrix, (position[:, None], index), weight)
  matrix.setflags(write=False)
  return matrix


def interpolate(
  image: Float[AnyArray, "*b h w c"],
  scale: float | int | None = None,
  *,
  shape: Sequence[int] | None = None,
  method: str = "bilinear",
  align_corners: bool = False,
) -> Float[AnyArray, "*b h2 w2 c"]:
  """Resizes as `torch.nn.functional.interpolate` does, without antialiasing.

  Networks that were trained in PyTorch enlarge with it inside; it is neither
  `imresize` (bicubic has a = -0.75 here) nor `jax.image.resize`.

  Args:
    image: Any float range.
    scale: Factor for both axes; the output has `floor(size * scale)` pixels
      and coordinates use the factor as given.
    shape: `(height, width)` of the output instead.
    method: bilinear, bicubic, nearest (floor) or area.
    align_corners: Map corner centres to corner centres; bilinear and bicubic.

  Returns:
    The resized image, as `imresize` returns it.

  Raises:
    ValueError: integer image, unknown method, or a bad size.

  Source: PyTorch 2.14 `F.interpolate` (`recompute_scale_factor=None`).
  """
  methods = ("area", "bicubic", "bilinear", "nearest")
  if method not in methods:
    raise ValueError(f"method '{method}' is not one of {list(methods)}")
  if align_corners and method in ("area", "nearest"):
    raise ValueError(
      f"align_corners=True has no meaning for method '{method}'; leave it out"
    )
  plan = _plan(image, scale, shape, math.floor)
  if method == "nearest" and isinstance(scale, int):
    # A copy of each pixel, on every backend cheaper than a product.
    xp = image.__array_namespace__()
    return xp.repeat(xp.repeat(image, scale, axis=-3), scale, axis=-2)
  return resample(
    image,
    *(
      _torch_weights(size, out, factor, method, bool(align_corners))
      for size, out, factor in plan
    ),
  )


def _plan(
  image: AnyArray,
  scale: float | int | None,
  shape: Sequence[int] | None,
  rounding: Callable[[float], int],
) -> list[tuple[int, int, float]]:
  """`(size, out, factor)` of the height and of the width."""
  if image.ndim < 3:
    raise ValueError(
      f"image has shape {image.shape}; the rule is [..., height, width, "
      "channels]: add the channel axis with image[..., None]"
    )
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise ValueError(
      f"image is {image.dtype}; resizing needs floats: divide by 255, and "
      "round afterwards where 8 bits are meant"
    )
  if (scale is None) == (shape is None):
    raise ValueError(f"give scale or shape, one of them (got {scale}, {shape})")
  sizes = image.shape[-3:-1]
  if scale is not None:
    if not (np.ndim(scale) == 0 and 0 < scale < math.inf):
      raise ValueError(f"scale {scale} is not a positive number")
    plan = [(size, rounding(size * scale), float(scale)) for size in sizes]
  else:
    height_width = tuple(shape or ())
    if len(height_width) != 2:
      raise ValueError(f"shape {shape} is not (height, width)")
    plan = [
      (n, int(m), m / n) for n, m in zip(sizes, height_width, strict=True) if n
    ]
  if len(plan) < 2 or min(min(size, out) for size, out, _ in plan) < 1:
    raise ValueError(
      f"an image of {tuple(sizes)} pixels resized by scale={scale}, "
      f"shape={shape} has none left"
    )
  return plan


def resample(
  image: Float[AnyArray, "*b h w c"],
  rows: Float[np.ndarray, "h2 h"],
  columns: Float[np.ndarray, "w2 w"],
) -> Float[AnyArray, "*b h2 w2 c"]:
  """Applies a matrix to the rows, then one to the columns.

  Args:
    image: Any float range.
    rows: Weights of the input rows in each output row.
    columns: Likewise.

  Returns:
    The same kind of array, computed as `imresize` says.
  """
  if isinstance(image, np.ndarray):
    # matmul over the leading axes keeps BLAS; float64 throughout.
    out = np.einsum("oh,...hwc->...owc", rows, image, optimize=True)
    out = np.einsum("ow,...hwc->...hoc", columns, out, optimize=True)
    return out.astype(image.dtype, copy=False)
  dtype = jnp.promote_types(image.dtype, jnp.float32)
  contract = functools.partial(jnp.einsum, precision="highest")
  out = contract("oh,...hwc->...owc", jnp.asarray(rows, dtype), image)
  out = contract("ow,...hwc->...hoc", jnp.asarray(columns, dtype), out)
  return out.astype(image.dtype)
