"""Warping by optical flow, and flow at other sizes; channels last."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sr_jax.ops.conv import no_terms
from sr_jax.ops.resize import interpolate
from sr_jax.types import AnyArray

_METHODS = ("bilinear", "nearest")
_PADDINGS = ("zeros", "border", "reflection")


class _Mode(NamedTuple):
  """What decides the program beside the shapes."""

  method: str
  padding: str
  align_corners: bool


def flow_warp(
  x: Float[Array, "b h w c"],
  flow: Float[Array, "b h w 2"],
  *,
  method: str = "bilinear",
  padding: str = "zeros",
  align_corners: bool = True,
) -> Float[Array, "b h w c"]:
  """Each pixel as x has it where the flow points.

  Args:
    x: Images or features.
    flow: (dx, dy) in pixels: pixel (y, x) is taken from (y + dy, x + dx).
    method: "bilinear", or "nearest" (halves to the even pixel), through which
      no gradient of the flow comes.
    padding: What lies outside of x: "zeros", "border" (the nearest pixel of the
      border) or "reflection".
    align_corners: Whether the corners' centres stay where they are when nothing
      flows. Without it the coordinates are stretched by `size / (size - 1)` and
      shifted by half a pixel, as in the reference, so zero flow moves x.

  Returns:
    In the type of x. Places are float32 (float64 for a float64 flow), however
    few bits x and flow have. It has reverse-mode derivatives, and no forward
    mode.

  Raises:
    ValueError: the shapes do not fit, or a mode is unknown.

  Source: BasicSR `flow_warp`, on PyTorch's `F.grid_sample`.
  """
  if method not in _METHODS:
    raise ValueError(f"method '{method}' is not one of {list(_METHODS)}")
  if padding not in _PADDINGS:
    raise ValueError(f"padding '{padding}' is not one of {list(_PADDINGS)}")
  if x.ndim != 4 or flow.shape != (*x.shape[:3], 2):
    raise ValueError(
      f"flow {flow.shape} must be (dx, dy) of every pixel of x {x.shape}, "
      "[b, h, w, 2] for [b, h, w, c]; resize_flow makes it another size"
    )
  if 0 in x.shape[1:3]:
    raise ValueError(f"x {x.shape} has no pixels")
  if jax.sharding.get_abstract_mesh().manual_axes:
    # Inside shard_map a gradient made by hand is not summed over devices. It is
    # where x and flow first come to vary over the same axes of the mesh.
    x, flow = (
      x + no_terms(flow).astype(x.dtype),
      flow + no_terms(x).astype(flow.dtype),
    )
  return _warp(x, flow, _Mode(method, padding, bool(align_corners)))


def resize_flow(
  flow: Float[AnyArray, "*b h w 2"],
  *,
  shape: Sequence[int] | None = None,
  scale: float | Sequence[float] | None = None,
  align_corners: bool = False,
) -> Float[AnyArray, "*b h2 w2 2"]:
  """Flow at another size: bilinear, its vectors scaled as the size is.

  Args:
    flow: (dx, dy) in pixels.
    shape: `(height, width)` of the result.
    scale: Instead, the factor of both sides, or `(vertical, horizontal)`; the
      result has `int(size * factor)` pixels. Exactly one of the two is given.
    align_corners: Map corner centres to corner centres.

  Returns:
    The same kind of array; (dx, dy) in pixels of the new size.

  Raises:
    ValueError: none or both of shape and scale, or a size without pixels.

  Source: BasicSR `resize_flow`.
  """
  if (shape is None) == (scale is None):
    raise ValueError(f"give shape or scale, one of them (got {shape}, {scale})")
  h, w = flow.shape[-3:-1]
  if scale is not None:
    factors = np.broadcast_to(np.asarray(scale, np.float64), (2,))
    shape = int(h * factors[0]), int(w * factors[1])
  rows, columns = shape or (0, 0)
  resized = interpolate(
    flow,
    shape=(rows, columns),
    method="bilinear",
    align_corners=align_corners,
  )
  return resized * np.asarray([columns / w, rows / h], flow.dtype)


class _Axis(NamedTuple):
  """Places along the rows or the columns, of every pixel of one image.

  Attributes:
    place: Where x is sampled.
    slope: Of that place by the flow; zero where it does not move.
  """

  place: Array
  slope: Array


def _axis(displacement: Array, axis: int, mode: _Mode) -> _Axis:
  """The rounding is that of the reference, by which nearest decides halves."""
  size = displacement.shape[axis]
  dtype = jnp.promote_types(displacement.dtype, jnp.float32)
  grid = jax.lax.broadcasted_iota(dtype, displacement.shape, axis)
  # The barriers keep XLA from multiplying by 1 / span and from taking the sums
  # of 1 together.
  span = jax.lax.optimization_barrier(jnp.asarray(max(size - 1, 1), dtype))
  unit = 2.0 * (grid + displacement.astype(dtype)) / span - 1.0
  unit = jax.lax.optimization_barrier(unit)
  if mode.align_corners:
    place = (unit + 1.0) / 2.0 * (size - 1)
    slope = jnp.full_like(place, size > 1)
  else:
    place = ((unit + 1.0) * size - 1.0) / 2.0
    slope = jnp.full_like(place, size / max(size - 1, 1))
  if mode.padding == "reflection":
    first, last = (
      (0.0, size - 1.0) if mode.align_corners else (-0.5, size - 0.5)
    )
    place, sign = _reflected(place, first, last)
    slope = slope * sign
  if mode.padding == "zeros":
    # Past one pixel outside nothing of x is seen.
    slope = slope * ((place >= -1) & (place < size))
    return _Axis(jnp.clip(place, -1, size), slope)
  slope = slope * ((place > 0) & (place < size - 1))
  return _Axis(jnp.clip(place, 0, size - 1), slope)


def _reflected(
  place: Array, first: float, last: float
) -> tuple[Array, Array | float]:
  """Places mirrored at both ends until they are between, and the direction."""
  length = last - first
  if length == 0:
    return jnp.zeros_like(place), 0.0
  distance = place - first
  sign = jnp.where(distance < 0, -1.0, 1.0)
  distance = jnp.abs(distance)
  extra = jnp.fmod(distance, length)
  back = jnp.floor(distance / length) % 2 == 1
  place = first + jnp.where(back, length - extra, extra)
  return place, jnp.where(back, -sign, sign)


class _Tap(NamedTuple):
  """One pixel that each pixel of the result is made of.

  Attributes:
    row: Its place in the image, row by row: [h, w].
    weight: Its part.
    by_flow: What a step of (dx, dy) adds to that: [h, w, 2].
  """

  row: Array
  weight: Array
  by_flow: Array


def _taps(flow: Array, mode: _Mode) -> list[_Tap]:
  """What one image is sampled at: four pixels around, or the nearest."""
  h, w = flow.shape[:2]
  x, y = _axis(flow[..., 0], 1, mode), _axis(flow[..., 1], 0, mode)
  if mode.method == "nearest":
    rows, columns = jnp.round(y.place), jnp.round(x.place)
    inside = _inside(rows, h) & _inside(columns, w)
    weight = inside.astype(x.place.dtype)
    return [_Tap(_row(rows, columns, h, w), weight, jnp.zeros_like(flow))]
  top, left = jnp.floor(y.place), jnp.floor(x.place)
  down, right = y.place - top, x.place - left
  taps = []
  for i, part_y, step_y in ((0, 1 - down, -1.0), (1, down, 1.0)):
    for j, part_x, step_x in ((0, 1 - right, -1.0), (1, right, 1.0)):
      inside = _inside(top + i, h) & _inside(left + j, w)
      by_flow = jnp.stack(
        [part_y * step_x * x.slope, part_x * step_y * y.slope], axis=-1
      )
      taps.append(
        _Tap(
          _row(top + i, left + j, h, w),
          part_y * part_x * inside,
          by_flow * inside[..., None],
        )
      )
  return taps


def _inside(place: Array, size: int) -> Array:
  # Not a number is inside, so that what it makes is seen.
  return ~((place < 0) | (place > size - 1))


def _row(rows: Array, columns: Array, h: int, w: int) -> Array:
  rows = jnp.clip(rows.astype(jnp.int32), 0, h - 1)
  return rows * w + jnp.clip(columns.astype(jnp.int32), 0, w - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _warp(x: Array, flow: Array, mode: _Mode) -> Array:
  return _forward(x, flow, mode)


# A network warps many times at few sizes: each is traced once.
@functools.partial(jax.jit, static_argnums=2, inline=True)
def _forward(x: Array, flow: Array, mode: _Mode) -> Array:
  def one(x: Array, flow: Array) -> Array:
    table = x.reshape(-1, x.shape[-1])
    total = sum(
      tap.weight[..., None] * _pixels(table, tap.row)
      for tap in _taps(flow, mode)
    )
    return jnp.asarray(total).astype(x.dtype)

  return jax.vmap(one)(x, flow)


def _pixels(table: Array, rows: Array) -> Array:
  return table.at[rows].get(mode="promise_in_bounds")


def _warp_fwd(x, flow, mode):
  return _warp(x, flow, mode), (x, flow)


def _warp_bwd(mode, residuals, g):
  """By hand: keeps x and the flow alone, and is the faster in a loop."""
  return _backward(*residuals, g, mode)


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _backward(
  x: Array, flow: Array, g: Array, mode: _Mode
) -> tuple[Array, Array]:
  def one(x: Array, flow: Array, g: Array) -> tuple[Array, Array]:
    h, w, c = x.shape
    taps = _taps(flow, mode)
    g = g.astype(jnp.promote_types(g.dtype, taps[0].weight.dtype))
    total = jnp.zeros((h * w, c), g.dtype)
    for tap in taps:
      part = (tap.weight[..., None] * g).reshape(-1, c)
      total = total.at[tap.row.reshape(-1)].add(part, mode="promise_in_bounds")
    x_gradient = total.reshape(x.shape).astype(x.dtype)
    if mode.method == "nearest":
      return x_gradient, jnp.zeros_like(flow)
    table = x.reshape(-1, c)
    by_flow = jnp.zeros(flow.shape, taps[0].by_flow.dtype)
    for tap in taps:
      # A product with ones: XLA's sum over channels takes up to ten times as
      # long on a CPU.
      product = g * _pixels(table, tap.row)
      product = jnp.matmul(
        product, jnp.ones((c,), g.dtype), precision="highest"
      )
      by_flow += tap.by_flow * product[..., None]
    return x_gradient, by_flow.astype(flow.dtype)

  return jax.vmap(one)(x, flow, g)


_warp.defvjp(_warp_fwd, _warp_bwd)
