"""Modulated deformable convolution (DCNv2), channels last.

A table has for each place above and left of a pixel the four pixels around it,
one row a deformable group, so that a bilinear sample is one row. Samples of
some outputs at a time, all taps, go through one matrix product. The gradient
takes them again, and adds rows to a table of sums. A TPU is as slow with a row
of few channels as with one of 128, and so gains most by this.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sr_jax.ops.conv import no_terms

# Sampled values of a chunk on a CPU: they and their rows stay in its cache.
_CACHED_VALUES = 2**17

# Elsewhere the samples of a chunk are about as many as half of x has values,
# whatever the mesh, but of no fewer outputs than this.
_MIN_OUTPUTS = 256


class _Static(NamedTuple):
  """What decides the program beside shapes."""

  stride: int
  padding: int
  dilation: int
  groups: int
  deformable_groups: int


class _Places(NamedTuple):
  """Where an image is sampled: arrays `[..., groups * taps]`, of outputs.

  Attributes:
    rows: Of the table.
    down: Distance from the upper two pixels, [0, 1].
    right: Distance from the left two pixels, [0, 1].
    inside: Whether any of the four pixels is in the image.
  """

  rows: Array
  down: Array
  right: Array
  inside: Array


def deform_conv2d(
  x: Float[Array, "b h w cin"],
  offset: Float[Array, "b h_out w_out two_taps"],
  kernel: Float[Array, "kh kw cin_group cout"],
  *,
  mask: Float[Array, "b h_out w_out taps"] | None = None,
  stride: int = 1,
  padding: int = 0,
  dilation: int = 1,
  groups: int = 1,
  deformable_groups: int = 1,
) -> Float[Array, "b h_out w_out cout"]:
  """Convolution whose taps sample x off the grid, bilinearly.

  Coordinates and their weights are float32 (or float64) whatever x is.

  Args:
    x: Batch of feature maps; zero outside.
    offset: Of each tap of each output, in pixels. Channels are deformable
      group, then tap (row by row), then (dy, dx).
    kernel: Taps, not flipped; `cin / groups` channels in.
    mask: Factor of each sample. Channels are deformable group, then tap.
    stride: Step between outputs, in both directions.
    padding: Zeros around x, on every edge.
    dilation: Step between taps, in both directions.
    groups: Parts of the channels that are convolved apart.
    deformable_groups: Parts of x's channels, each with its offsets and mask.

  Returns:
    Height `(h + 2 * padding - dilation * (kh - 1) - 1) // stride + 1`, width
    likewise. It has reverse-mode derivatives, and no forward mode. The
    gradient of an offset is that of the cell its sample is in, which on a
    pixel is the cell below and to the right, and 0 outside.

  Raises:
    ValueError: an argument is out of range, channels do not divide by groups,
      or the shapes of x, offset, kernel and mask do not fit each other.

  Source: Zhu et al. 2019, "Deformable ConvNets v2", eq. 1;
    `torchvision.ops.deform_conv2d`.
  """
  static = _Static(stride, padding, dilation, groups, deformable_groups)
  _check_range(static)
  _check_shapes(x, offset, kernel, mask, static)
  if groups % deformable_groups and deformable_groups % groups:
    # Smaller groups, some of which have the same offsets.
    parts = math.lcm(groups, deformable_groups)
    repeat = functools.partial(
      _repeat_groups, parts=deformable_groups, times=parts // deformable_groups
    )
    offset, mask = repeat(offset), None if mask is None else repeat(mask)
    static = static._replace(deformable_groups=parts)
  if jax.sharding.get_abstract_mesh().manual_axes:
    # As in conv.py: all vary over the same axes of a mesh.
    zero = sum(no_terms(a) for a in (x, offset, kernel))
    zero = zero if mask is None else zero + no_terms(mask)
    x, offset, kernel, mask = jax.tree.map(
      lambda a: a + zero.astype(a.dtype), (x, offset, kernel, mask)
    )
  return _deform(x, offset, kernel, mask, static)


def _repeat_groups(a: Array, parts: int, times: int) -> Array:
  split = a.reshape(*a.shape[:3], parts, -1)
  return jnp.repeat(split, times, 3).reshape(*a.shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _deform(x, offset, kernel, mask, static: _Static) -> Array:
  return _forward(x, offset, kernel, mask, static)


def _deform_fwd(x, offset, kernel, mask, static):
  y = _deform(x, offset, kernel, mask, static)
  return y, (x, offset, kernel, mask)


def _deform_bwd(static, residuals, g):
  return _backward(*residuals, g, static)


_deform.defvjp(_deform_fwd, _deform_bwd)


@functools.partial(jax.jit, static_argnums=4, inline=True)
def _forward(x, offset, kernel, mask, static: _Static) -> Array:
  def image(x, offset, mask, *, kernel, count):
    return _image_forward(x, offset, kernel, mask, static, count)

  return _each_image(image, (x, offset, mask), kernel)


@functools.partial(jax.jit, static_argnums=5, inline=True)
def _backward(x, offset, kernel, mask, g, static: _Static) -> tuple:
  def image(x, offset, mask, g, *, kernel, count):
    return _image_backward(x, offset, kernel, mask, g, static, count)

  by_x, by_offset, by_mask, by_kernel = _each_image(
    image, (x, offset, mask, g), kernel
  )
  by_kernel = _kernel_of(by_kernel.sum(0), kernel.shape)
  return by_x, by_offset, by_kernel.astype(kernel.dtype), by_mask


def _each_image(image, images: tuple, kernel: Array) -> Any:
  """Calls `image`, on a CPU one after the other and else on all at once.

  Of a batch that is sharded, devices could not take one image after the other.
  A CPU's cache holds the samples of one image, but not those of a batch.
  """
  x, offset = images[:2]
  outputs = offset.shape[1] * offset.shape[2]
  taps = kernel.shape[0] * kernel.shape[1]
  cached = max(1, _CACHED_VALUES // (taps * x.shape[-1]))
  some = max(_MIN_OUTPUTS, outputs // (2 * taps))

  def on_cpu(images, kernel):
    call = functools.partial(image, kernel=kernel, count=-(-outputs // cached))
    return lax.map(lambda a: call(*a), images)

  def elsewhere(images, kernel):
    call = functools.partial(image, kernel=kernel, count=-(-outputs // some))
    return jax.vmap(call)(*images)

  return lax.platform_dependent(images, kernel, cpu=on_cpu, default=elsewhere)


def _image_forward(x, offset, kernel, mask, static, count: int) -> Array:
  table = _table(x, static)
  dtype, wide = _types(x, kernel)
  matrix = _matrix(kernel.astype(dtype), static)

  def chunk(_, part):
    places, mask = part
    samples = _samples(table, places.rows)
    columns = _columns(samples, _weights(places, mask), dtype, static)
    return None, _product(columns, matrix, wide).astype(dtype)

  places = _places(offset, x.shape, kernel.shape, static)
  _, y = lax.scan(chunk, None, _split((places, mask), count))
  return _join(y, offset.shape)


def _image_backward(x, offset, kernel, mask, g, static, count: int) -> tuple:
  """By x, offset, mask, and by the kernel as a matrix."""
  table = _table(x, static)
  dtype, wide = _types(x, kernel)
  matrix = _matrix(kernel.astype(dtype), static)

  def chunk(sums, part):
    places, mask, g = part
    samples = _samples(table, places.rows)
    weights = _weights(places, mask)
    columns = _columns(samples, weights, dtype, static)
    by_matrix, by_columns = _product_gradients(columns, matrix, g, wide)
    by_sample = by_columns.reshape(*places.rows.shape, 1, -1)
    # Of each of the four pixels, were its weight 1.
    by_pixel = _sum_channels(samples * by_sample)
    by_offset, by_mask = _place_gradients(by_pixel, places, mask)
    by_table = (weights[..., None] * by_sample).astype(wide)
    by_table = by_table.reshape(*places.rows.shape, -1)
    by_table = sums[0].at[places.rows].add(by_table, mode="promise_in_bounds")
    ys = by_offset.astype(offset.dtype), by_mask
    return (by_table, sums[1] + by_matrix), ys

  # In the type that x and g have on a mesh, were they to vary over it.
  zero = no_terms(x) * no_terms(g)
  sums = jnp.zeros(table.shape, wide) + zero.astype(wide)
  matrix_sums = jnp.zeros(
    (matrix.shape[-1], *matrix.shape[:-1]), wide
  ) + zero.astype(wide)
  places = _places(offset, x.shape, kernel.shape, static)
  parts = _split((places, mask, g), count)
  sums, (by_offset, by_mask) = lax.scan(chunk, (sums, matrix_sums), parts)
  by_x = _fold(sums[0], x.shape, static).astype(x.dtype)
  by_offset = _join(by_offset, offset.shape)
  if by_mask is not None:
    by_mask = _join(by_mask, offset.shape)
  return by_x, by_offset, by_mask, sums[1]


def _types(x: Array, kernel: Array) -> tuple[Any, Any]:
  """Of products, and of their sums."""
  dtype = jnp.result_type(x, kernel)
  return dtype, jnp.promote_types(dtype, jnp.float32)


def _table(x: Array, static: _Static) -> Array:
  """Row `((i + 1) * (w + 1) + j + 1) * groups + group`: pixels around a place.

  They are (i, j), (i, j + 1), (i + 1, j) and (i + 1, j + 1), from (-1, -1) on,
  and 0 where they are not in x.
  """
  h, w, c = x.shape
  dg = static.deformable_groups
  x = jnp.pad(x, ((1, 1), (1, 1), (0, 0))).reshape(h + 2, w + 2, dg, c // dg)
  pixels = (x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:])
  return jnp.concatenate(pixels, axis=-1).reshape(-1, 4 * c // dg)


def _fold(table: Array, shape: tuple[int, ...], static: _Static) -> Array:
  """Transpose of `_table`: adds up what each pixel got as one of four."""
  h, w, c = shape
  dg = static.deformable_groups
  table = table.reshape(h + 1, w + 1, dg, 4 * c // dg)
  first, second, third, fourth = jnp.split(table, 4, axis=-1)
  x = first[1:, 1:] + second[1:, :-1] + third[:-1, 1:] + fourth[:-1, :-1]
  return x.reshape(shape)


def _split(arrays: tuple, count: int) -> tuple:
  """Each `[rows, columns, ...]` as `[chunks, outputs, ...]`, then zeros."""

  def split(a: Array) -> Array:
    a = a.reshape(-1, *a.shape[2:])
    size = -(-len(a) // count)
    chunks = -(-len(a) // size)
    pads = ((0, chunks * size - len(a)), *((0, 0) for _ in a.shape[1:]))
    return jnp.pad(a, pads).reshape(chunks, size, *a.shape[1:])

  return jax.tree.map(split, arrays)


def _join(chunks: Array, shape: tuple[int, ...]) -> Array:
  rows, columns = shape[:2]
  a = chunks.reshape(-1, chunks.shape[-1])[: rows * columns]
  return a.reshape(rows, columns, -1)


def _places(offset: Array, shape, taps, static: _Static) -> _Places:
  """Of an image of that shape, for all outputs at once.

  Within a chunk, XLA would compute the rows anew for every channel.
  """
  h, w = shape[:2]
  kh, kw = taps[:2]
  dg = static.deformable_groups
  dtype = jnp.promote_types(offset.dtype, jnp.float32)
  offset = offset.astype(dtype).reshape(*offset.shape[:2], -1, 2)
  taps_of = np.indices((kh, kw), np.int32).reshape(2, -1)
  y, x = (
    (
      lax.broadcasted_iota(jnp.int32, offset.shape[:3], axis) * static.stride
      + (np.tile(taps_of[axis], dg) * static.dilation - static.padding)
    ).astype(dtype)
    + offset[..., axis]
    for axis in (0, 1)
  )
  inside = (y > -1) & (y < h) & (x > -1) & (x < w)
  # Outside, the four pixels are some zeros of the rim, or weigh nothing.
  y, x = jnp.clip(y, -1, h), jnp.clip(x, -1, w)
  top = jnp.minimum(jnp.floor(y), h - 1)
  left = jnp.minimum(jnp.floor(x), w - 1)
  place = (top.astype(jnp.int32) + 1) * (w + 1) + left.astype(jnp.int32) + 1
  group = np.repeat(np.arange(dg, dtype=np.int32), kh * kw)
  return _Places(place * dg + group, y - top, x - left, inside)


def _samples(table: Array, rows: Array) -> Array:
  """`[outputs, groups * taps, 4, channels]`, of one group."""
  rows = table.at[rows].get(mode="promise_in_bounds")
  return rows.reshape(*rows.shape[:-1], 4, -1)


def _weights(places: _Places, mask: Array | None) -> Array:
  """Of the four pixels of a sample: bilinear, times the mask."""
  _, down, right, _ = places
  up, left = 1 - down, 1 - right
  weights = [up * left, up * right, down * left, down * right]
  if mask is not None:
    weights = [w * mask.astype(w.dtype) for w in weights]
  # As for rows.
  return lax.optimization_barrier(jnp.stack(weights, axis=-1))


def _columns(samples: Array, weights: Array, dtype, static: _Static) -> Array:
  """`[outputs, a, p, taps, q, channels]`; see `_parts`."""
  terms = [weights[..., i, None] * samples[..., i, :] for i in range(4)]
  columns = (terms[0] + terms[1] + (terms[2] + terms[3])).astype(dtype)
  a, p, q = _parts(static)
  return columns.reshape(len(columns), a, p, -1, q, columns.shape[-1] // q)


def _parts(static: _Static) -> tuple[int, int, int]:
  """a, p, q: channels have `a * p` deformable groups and `a * q` groups."""
  a = min(static.groups, static.deformable_groups)
  return a, static.deformable_groups // a, static.groups // a


def _matrix(kernel: Array, static: _Static) -> Array:
  """`[a, q, p, taps, channels, cout / groups]`; see `_parts`."""
  kh, kw, cin, cout = kernel.shape
  a, p, q = _parts(static)
  kernel = kernel.reshape(kh * kw, p, cin // p, a, q, cout // (a * q))
  return kernel.transpose(3, 4, 1, 0, 2, 5)


def _kernel_of(matrix: Array, shape: tuple[int, ...]) -> Array:
  """Of `[cout / groups, a, q, p, taps, channels]`."""
  return matrix.transpose(4, 3, 5, 1, 2, 0).reshape(shape)


def _product(columns: Array, matrix: Array, dtype) -> Array:
  if matrix.shape[:2] == (1, 1):  # one group
    columns = columns.reshape(len(columns), -1)
    matrix = matrix.reshape(-1, matrix.shape[-1])
    return jnp.matmul(columns, matrix, preferred_element_type=dtype)
  y = jnp.einsum(
    "naptqc,aqptco->naqo", columns, matrix, preferred_element_type=dtype
  )
  return y.reshape(len(y), -1)


def _product_gradients(columns, matrix, g, dtype) -> tuple[Array, Array]:
  """By the matrix, its last axis first, and by the columns."""
  a, q, *_, cout = matrix.shape
  if (a, q) == (1, 1):
    # g is transposed, and not the columns, of which there are more.
    columns_of, matrix_of = len(columns), matrix.reshape(-1, cout)
    by_matrix = jnp.matmul(
      g.T, columns.reshape(columns_of, -1), preferred_element_type=dtype
    )
    by_columns = jnp.matmul(g, matrix_of.T, preferred_element_type=dtype)
    shape = (cout, *matrix.shape[:-1])
    return by_matrix.reshape(shape), by_columns.reshape(columns.shape)
  g = g.reshape(len(g), a, q, cout)
  by_matrix = jnp.einsum(
    "naqo,naptqc->oaqptc", g, columns, preferred_element_type=dtype
  )
  by_columns = jnp.einsum(
    "naqo,aqptco->naptqc", g, matrix, preferred_element_type=dtype
  )
  return by_matrix, by_columns


def _sum_channels(a: Array) -> Array:
  """Sum of the last axis, by halves: on a CPU XLA's takes ten times as long."""
  while (n := a.shape[-1]) > 1:
    if n % 2:
      a = jnp.concatenate([a, jnp.zeros_like(a[..., :1])], axis=-1)
    first, second = jnp.split(a, 2, axis=-1)
    a = first + second
  return a[..., 0]


def _place_gradients(
  by_pixel: Array, places: _Places, mask: Array | None
) -> tuple[Array, Array | None]:
  """By offset and mask, of what four pixels of weight 1 would add."""
  _, down, right, inside = places
  first, second, third, fourth = (by_pixel[..., i] for i in range(4))
  left, right_side = third - first, fourth - second
  by_y = (1 - right) * left + right * right_side
  upper, lower = second - first, fourth - third
  by_x = (1 - down) * upper + down * lower
  by_mask = None
  scale = inside.astype(by_y.dtype)
  if mask is not None:
    top = (1 - right) * first + right * second
    by_mask = top + down * by_y
    scale = scale * mask.astype(by_y.dtype)
    by_mask = by_mask.astype(mask.dtype)
  by_offset = jnp.stack([by_y * scale, by_x * scale], axis=-1)
  return by_offset.reshape(len(by_offset), -1), by_mask


def _check_range(static: _Static) -> None:
  for name, value in static._asdict().items():
    least = 0 if name == "padding" else 1
    if value < least:
      raise ValueError(f"{name}={value} must be at least {least}")


def _check_shapes(x, offset, kernel, mask, static: _Static) -> None:
  arrays = {"x": x, "offset": offset, "kernel": kernel, "mask": mask}
  for name, array in arrays.items():
    if array is not None and array.ndim != 4:
      raise ValueError(
        f"{name} {array.shape} must have 4 dimensions: x, offset and mask are "
        "[b, h, w, channels] and kernel is [kh, kw, cin / groups, cout]"
      )
  b, h, w, cin = x.shape
  kh, kw, kernel_in, cout = kernel.shape
  dg, groups = static.deformable_groups, static.groups
  for name, size, parts, array in (
    ("deformable_groups", cin, dg, f"x {x.shape}"),
    ("groups", cin, groups, f"x {x.shape}"),
    ("groups", cout, groups, f"kernel {kernel.shape} that go out"),
  ):
    if size % parts:
      raise ValueError(
        f"{name}={parts} must divide the {size} channels of {array}; give a "
        "divisor of them"
      )
  if kernel_in != cin // groups:
    raise ValueError(
      f"kernel {kernel.shape} takes {kernel_in} channels and x {x.shape} with "
      f"groups={groups} has {cin // groups}; kernel is [kh, kw, cin / groups, "
      "cout]"
    )
  out = []
  for size, taps, axis in ((h, kh, "rows"), (w, kw, "columns")):
    left = size + 2 * static.padding - static.dilation * (taps - 1) - 1
    if left < 0:
      raise ValueError(
        f"x has {size} {axis} and padding={static.padding} on both sides, "
        f"fewer than the {static.dilation * (taps - 1) + 1} of kernel "
        f"{kernel.shape} with dilation={static.dilation}; give a larger x or "
        "more padding"
      )
    out.append(left // static.stride + 1)
  for name, array, channels, rule in (
    ("offset", offset, 2 * dg * kh * kw, "2 * deformable_groups * kh * kw"),
    ("mask", mask, dg * kh * kw, "deformable_groups * kh * kw"),
  ):
    want = (b, *out, channels)
    if array is not None and array.shape != want:
      raise ValueError(
        f"{name} {array.shape} must be {want}: x's batch, the size of the "
        f"result, and {rule} channels; check the layer that makes it"
      )
