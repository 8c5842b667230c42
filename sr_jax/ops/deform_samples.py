"""Bilinear samples of an image off its grid, and the way back.

A table has for each place above and left of a pixel the four pixels around it,
one row a deformable group, so that a sample is one row. Both ways move whole
rows. A TPU pads rows to 128 numbers, which four pixels of a few channels fill
better than one would, and a sample takes one gather there in place of four.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array


class Geometry(NamedTuple):
  """What decides the program beside shapes."""

  stride: int
  padding: int
  dilation: int
  groups: int
  deformable_groups: int


class Places(NamedTuple):
  """Where an image is sampled: arrays `[..., groups * taps]`, of outputs.

  Attributes:
    rows: Of the table.
    down: Distance from the upper two pixels, [0, 1).
    right: Distance from the left two pixels, [0, 1).
  """

  rows: Array
  down: Array
  right: Array


def make_table(x: Array, geometry: Geometry) -> Array:
  """Row `((i + 1) * (w + 1) + j + 1) * groups + group`: pixels around a place.

  They are (i, j), (i, j + 1), (i + 1, j) and (i + 1, j + 1), i from -1 to h and
  j from -1 to w - 1; 0 where they are not in x, as all of the last i.
  """
  h, w, c = x.shape
  dg = geometry.deformable_groups
  x = jnp.pad(x, ((1, 2), (1, 1), (0, 0))).reshape(h + 3, w + 2, dg, c // dg)
  pixels = (x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:])
  return jnp.concatenate(pixels, axis=-1).reshape(-1, 4 * c // dg)


def fold_table(
  table: Array, shape: tuple[int, ...], geometry: Geometry
) -> Array:
  """Transpose of `make_table`: adds up what each pixel got as one of four."""
  h, w, c = shape
  dg = geometry.deformable_groups
  table = table.reshape(h + 2, w + 1, dg, 4 * c // dg)[:-1]
  first, second, third, fourth = jnp.split(table, 4, axis=-1)
  x = first[1:, 1:] + second[1:, :-1] + third[:-1, 1:] + fourth[:-1, :-1]
  return x.reshape(shape)


def sample_places(offset: Array, shape, taps, geometry: Geometry) -> Places:
  """Of an image of that shape, for all outputs at once.

  Within a chunk, XLA would compute the rows anew for every channel.
  """
  h, w = shape[:2]
  kh, kw = taps[:2]
  dg = geometry.deformable_groups
  dtype = jnp.promote_types(offset.dtype, jnp.float32)
  offset = offset.astype(dtype).reshape(*offset.shape[:2], -1, 2)
  taps_of = np.indices((kh, kw), np.int32).reshape(2, -1)
  y, x = (
    (
      lax.broadcasted_iota(jnp.int32, offset.shape[:3], axis) * geometry.stride
      + (np.tile(taps_of[axis], dg) * geometry.dilation - geometry.padding)
    ).astype(dtype)
    + offset[..., axis]
    for axis in (0, 1)
  )
  # Where no pixel is in the image, one of the last rows, so that nothing is
  # sampled and nothing passed back.
  inside = (y > -1) & (y < h) & (x > -1) & (x < w)
  upper, left = jnp.floor(y), jnp.floor(x)
  i = jnp.where(inside, upper, h).astype(jnp.int32) + 1
  j = jnp.where(inside, left, -1).astype(jnp.int32) + 1
  group = np.repeat(np.arange(dg, dtype=np.int32), kh * kw)
  return Places((i * (w + 1) + j) * dg + group, y - upper, x - left)


def take_samples(table: Array, rows: Array) -> Array:
  """`[outputs, groups * taps, 4, channels]`, of one group."""
  rows = table.at[rows].get(mode="promise_in_bounds")
  return rows.reshape(*rows.shape[:-1], 4, -1)


def corner_weights(places: Places, mask: Array | None) -> Array:
  """Of the four pixels of a sample: bilinear, times the mask."""
  _, down, right = places
  up, left = 1 - down, 1 - right
  weights = [up * left, up * right, down * left, down * right]
  if mask is not None:
    weights = [w * mask.astype(w.dtype) for w in weights]
  # Else XLA would compute them anew for every channel.
  return lax.optimization_barrier(jnp.stack(weights, axis=-1))


def sum_channels(a: Array) -> Array:
  """Sum of the last axis, by halves: on a CPU XLA's takes ten times as long."""
  while (n := a.shape[-1]) > 1:
    if n % 2:
      a = jnp.concatenate([a, jnp.zeros_like(a[..., :1])], axis=-1)
    first, second = jnp.split(a, 2, axis=-1)
    a = first + second
  return a[..., 0]


def place_gradients(
  by_pixel: Array, places: Places, mask: Array | None
) -> tuple[Array, Array | None]:
  """By offset and mask, of what four pixels of weight 1 would add."""
  _, down, right = places
  first, second, third, fourth = (by_pixel[..., i] for i in range(4))
  left, right_side = third - first, fourth - second
  by_y = (1 - right) * left + right * right_side
  upper, lower = second - first, fourth - third
  by_x = (1 - down) * upper + down * lower
  by_offset, by_mask = jnp.stack([by_y, by_x], axis=-1), None
  if mask is not None:
    by_offset *= mask.astype(by_offset.dtype)[..., None]
    by_mask = first + right * upper + down * by_y
    by_mask = by_mask.astype(mask.dtype)
  return by_offset.reshape(len(by_offset), -1), by_mask
