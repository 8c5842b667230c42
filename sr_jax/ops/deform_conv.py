"""Modulated deformable convolution (DCNv2), channels last."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Sampled values of an image and a chunk of outputs, all taps.
_CHUNK_VALUES = 2**18


class _Static(NamedTuple):
  """What decides the program beside the shapes."""

  stride: int
  padding: int
  dilation: int
  groups: int
  deformable_groups: int


def deform_conv2d(
  x: Float[Array, "b h w cin"],
  offset: Float[Array, "b h_out w_out 2*taps"],
  kernel: Float[Array, "kh kw cin_per_group cout"],
  *,
  mask: Float[Array, "b h_out w_out taps"] | None = None,
  stride: int = 1,
  padding: int = 0,
  dilation: int = 1,
  groups: int = 1,
  deformable_groups: int = 1,
) -> Float[Array, "b h_out w_out cout"]:
  """Convolution whose taps sample x at learned places, weighted by a mask.

  Args:
    x: Batch of feature maps.
    offset: Of each tap of each output, in pixels; 0 is a plain convolution.
      Channels are deformable group, then tap (row by row), then (dy, dx).
    kernel: Taps, not flipped; `cin / groups` channels in.
    mask: Weight of each sample; channels are deformable group, then tap.
    stride: Step between outputs, in both directions.
    padding: Zeros around x, on every edge.
    dilation: Step between taps, in both directions.
    groups: Of channels that are convolved apart.
    deformable_groups: Of channels of x that share offsets and mask.

  Returns:
    In the type of x and kernel.

  Raises:
    ValueError: shapes do not fit, channels do not divide by the groups, or
      an argument is out of range.

  Source: Zhu et al. 2019, "Deformable ConvNets v2", eq. 1;
    `torchvision.ops.deform_conv2d`.
  """
  static = _Static(stride, padding, dilation, groups, deformable_groups)
  _check(x, offset, kernel, mask, static)
  return _deform(x, offset, mask, kernel, static)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _deform(x, offset, mask, kernel, static):
  return _forward(x, offset, mask, kernel, static)


def _deform_fwd(x, offset, mask, kernel, static):
  return _deform(x, offset, mask, kernel, static), (x, offset, mask, kernel)


def _deform_bwd(static, residuals, g):
  return _backward(*residuals, g, static)


_deform.defvjp(_deform_fwd, _deform_bwd)


class _Samples(NamedTuple):
  """Where a chunk of one image is sampled: corners and fractions.

  Attributes:
    corners: Rows of the table, `[4, n, taps, dg]`: the pixels above left, above
      right, below left and below right.
    fy: Distance from the upper corners, `[n, taps, dg]`.
    fx: Distance from the left ones.
    inside: Whether the place moves with the offset, and is not off the image.
  """

  corners: Array
  fy: Array
  fx: Array
  inside: Array


def _table(x: Array, static: _Static) -> Array:
  """Rows of an image's channels, a deformable group each; a rim of zeros."""
  b, h, w, c = x.shape
  dg = static.deformable_groups
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return x.reshape(b, (h + 2) * (w + 2) * dg, c // dg)


def _places(offset, index, shape, taps, out_width, static: _Static) -> _Samples:
  """Samples of outputs number `index` of one image."""
  _, h, w, _ = shape
  kh, kw = taps
  dg = static.deformable_groups
  dtype = jnp.promote_types(offset.dtype, jnp.float32)
  offset = offset.astype(dtype).reshape(-1, dg, kh * kw, 2).swapaxes(1, 2)
  tap = jnp.arange(kh * kw)
  row = (index // out_width * static.stride - static.padding)[:, None]
  col = (index % out_width * static.stride - static.padding)[:, None]
  row = row + tap // kw * static.dilation
  col = col + tap % kw * static.dilation
  y = row.astype(dtype)[..., None] + offset[..., 0]
  x = col.astype(dtype)[..., None] + offset[..., 1]
  inside = (y > -1) & (y < h) & (x > -1) & (x < w)
  y, x = jnp.clip(y, -1, h), jnp.clip(x, -1, w)
  top = jnp.clip(jnp.floor(y), -1, h - 1)
  left = jnp.clip(jnp.floor(x), -1, w - 1)
  first = (top.astype(jnp.int32) + 1) * (w + 2) + left.astype(jnp.int32) + 1
  group = jnp.arange(dg)
  corners = jnp.stack(
    [(first + step) * dg + group for step in (0, 1, w + 2, w + 3)]
  )
  return _Samples(corners, y - top, x - left, inside)


def _take(table: Array, rows: Array) -> Array:
  return jnp.take(table, rows, axis=0, mode="clip")


def _weights(s: _Samples) -> Array:
  """Of the four corners."""
  top, left = 1 - s.fy, 1 - s.fx
  return jnp.stack([top * left, top * s.fx, s.fy * left, s.fy * s.fx])


def _chunks(array: Array | None, size: int) -> Any:
  """[b, h, w, c] as chunks of outputs: [chunk, b, size, c]."""
  if array is None:
    return None
  b, h, w, c = array.shape
  count = -(-h * w // size)
  array = jnp.pad(
    array.reshape(b, h * w, c), ((0, 0), (0, count * size - h * w), (0, 0))
  )
  return array.reshape(b, count, size, c).swapaxes(0, 1)


def _chunk_size(offset: Array, kernel: Array, cin: int) -> int:
  outputs = offset.shape[1] * offset.shape[2]
  taps = kernel.shape[0] * kernel.shape[1]
  size = max(1, min(outputs, _CHUNK_VALUES // (taps * cin)))
  return -(-outputs // -(-outputs // size))


def _grouped(columns: Array, groups: int) -> Array:
  """[b, n, taps, dg, c/dg] as [b, n, taps, groups, c/groups]."""
  b, n, taps = columns.shape[:3]
  return columns.reshape(b, n, taps, groups, -1)


def _grouped_kernel(kernel: Array, groups: int) -> Array:
  kh, kw, c, cout = kernel.shape
  return kernel.reshape(kh * kw, c, groups, cout // groups)


def _modulation(mask, like, static):
  if mask is None:
    return None
  shape = (*mask.shape[:2], static.deformable_groups, -1)
  return mask.astype(like.dtype).reshape(shape).swapaxes(2, 3)


def _forward(x, offset, mask, kernel, static):
  taps = kernel.shape[:2]
  table = _table(x, static)
  dtype = jnp.result_type(x, kernel)
  weights = _grouped_kernel(kernel, static.groups).astype(dtype)
  size = _chunk_size(offset, kernel, x.shape[-1])
  width = offset.shape[2]

  def chunk(args):
    start, offset, mask = args
    index = start + jnp.arange(size)
    places = functools.partial(
      _places,
      index=index,
      shape=x.shape,
      taps=taps,
      out_width=width,
      static=static,
    )
    s = jax.vmap(places)(offset)
    w = _weights(s)
    m = _modulation(mask, w, static)
    if m is not None:
      w = w * m
    columns = sum(
      w[i][..., None] * jax.vmap(_take)(table, s.corners[:, i])
      for i in range(4)
    )
    columns = _grouped(columns.astype(dtype), static.groups)
    return jnp.einsum(
      "bntgi,tigo->bngo",
      columns,
      weights,
      preferred_element_type=jnp.promote_types(dtype, jnp.float32),
    ).astype(dtype)

  offsets = _chunks(offset, size)
  starts = jnp.arange(offsets.shape[0]) * size
  y = lax.map(chunk, (starts, offsets, _chunks(mask, size)))
  y = y.swapaxes(0, 1).reshape(x.shape[0], -1, kernel.shape[-1])
  rows, cols = offset.shape[1:3]
  return y[:, : rows * cols].reshape(x.shape[0], rows, cols, -1)


def _backward(x, offset, mask, kernel, g, static):
  """Gradients of all four, from samples that are taken again."""
  taps = kernel.shape[:2]
  table = _table(x, static)
  dtype = jnp.result_type(x, kernel)
  wide = jnp.promote_types(dtype, jnp.float32)
  weights = _grouped_kernel(kernel, static.groups).astype(dtype)
  size = _chunk_size(offset, kernel, x.shape[-1])
  width = offset.shape[2]
  dg = static.deformable_groups

  def chunk(sums, args):
    start, offset, mask, g = args
    index = start + jnp.arange(size)
    places = functools.partial(
      _places,
      index=index,
      shape=x.shape,
      taps=taps,
      out_width=width,
      static=static,
    )
    s = jax.vmap(places)(offset)
    w = _weights(s)
    m = _modulation(mask, w, static)
    values = [jax.vmap(_take)(table, s.corners[:, i]) for i in range(4)]
    columns = sum(w[i][..., None] * values[i] for i in range(4))
    if m is not None:
      columns = columns * m[..., None]
    columns = _grouped(columns.astype(dtype), static.groups)
    g = g.reshape(*g.shape[:2], static.groups, -1)
    kernel_sum = jnp.einsum(
      "bntgi,bngo->tigo", columns, g, preferred_element_type=wide
    )
    pulled = jnp.einsum(
      "bngo,tigo->bntgi", g, weights, preferred_element_type=wide
    )
    pulled = pulled.reshape(*pulled.shape[:3], dg, -1)
    q = [jnp.sum(pulled * value, axis=-1) for value in values]
    dm = None
    if m is not None:
      dm = sum(w[i] * q[i] for i in range(4))
      dm = dm.swapaxes(2, 3).reshape(*g.shape[:2], -1).astype(mask.dtype)
    by_y = (1 - s.fx) * (q[2] - q[0]) + s.fx * (q[3] - q[1])
    by_x = (1 - s.fy) * (q[1] - q[0]) + s.fy * (q[3] - q[2])
    by = jnp.stack([by_y, by_x], axis=-1)
    scale = s.inside if m is None else s.inside * m
    by = (by * scale[..., None]).swapaxes(2, 3)
    by = by.reshape(*g.shape[:2], -1).astype(offset.dtype)
    if m is not None:
      w = w * m
    x_sum = sums[0]
    for i in range(4):
      x_sum = jax.vmap(lambda t, r, v: t.at[r].add(v, mode="clip"))(
        x_sum, s.corners[:, i], w[i][..., None] * pulled
      )
    return (x_sum, sums[1] + kernel_sum), (by, dm)

  offsets = _chunks(offset, size)
  starts = jnp.arange(offsets.shape[0]) * size
  sums = jnp.zeros(table.shape, wide), jnp.zeros(weights.shape, wide)
  (x_sum, kernel_sum), (by, dm) = lax.scan(
    chunk, sums, (starts, offsets, _chunks(mask, size), _chunks(g, size))
  )

  def whole(a):
    if a is None:
      return None
    rows, cols = offset.shape[1:3]
    a = a.swapaxes(0, 1).reshape(x.shape[0], -1, a.shape[-1])
    return a[:, : rows * cols].reshape(x.shape[0], rows, cols, -1)

  b, h, w, c = x.shape
  x_sum = x_sum.reshape(b, h + 2, w + 2, c)[:, 1:-1, 1:-1]
  return (
    x_sum.astype(x.dtype),
    whole(by),
    whole(dm),
    kernel_sum.reshape(kernel.shape).astype(kernel.dtype),
  )


def _check(x, offset, kernel, mask, static):
  pass
