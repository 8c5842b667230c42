"""Modulated deformable convolution (DCNv2), channels last.

The samples of some outputs at a time, all taps, go through one matrix product.
The gradient takes them again rather than keep them; see `deform_samples`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sr_jax.ops.conv import no_terms
from sr_jax.ops.deform_samples import (
  Geometry,
  corner_weights,
  fold_table,
  make_table,
  place_gradients,
  sample_places,
  sum_channels,
  take_samples,
)

# Sampled values of a chunk on a CPU: they and their rows stay in its cache.
_CACHED_VALUES = 2**17

# Elsewhere the samples of a chunk are a quarter of what x has values, whatever
# the mesh, but of no fewer and no more outputs of an image than this.
_OUTPUTS = 128, 4096


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
    likewise. It has reverse-mode derivatives of any order, and no forward
    mode. The gradient of an offset is that of the cell its sample is in, which
    on a pixel is the cell below and to the right, and 0 outside.

  Raises:
    ValueError: an argument is out of range, channels do not divide by groups,
      or the shapes of x, offset, kernel and mask do not fit each other.

  Source: Zhu et al. 2019, "Deformable ConvNets v2", eq. 1;
    `torchvision.ops.deform_conv2d`.
  """
  geometry = Geometry(stride, padding, dilation, groups, deformable_groups)
  _check_range(geometry)
  _check_shapes(x, offset, kernel, mask, geometry)
  if deformable_groups % groups:
    # Parts of deformable groups, each of them in one group.
    parts = math.lcm(groups, deformable_groups)
    offset, mask = jax.tree.map(
      lambda a: _repeat(a, deformable_groups, parts), (offset, mask)
    )
    geometry = geometry._replace(deformable_groups=parts)
  if jax.sharding.get_abstract_mesh().manual_axes:
    # As in conv.py: all vary over the same axes of a mesh.
    zero = no_terms(x) + no_terms(offset) + no_terms(kernel)
    zero = zero if mask is None else zero + no_terms(mask)
    x, offset, kernel, mask = jax.tree.map(
      lambda a: a + zero.astype(a.dtype), (x, offset, kernel, mask)
    )
  return _deform(x, offset, kernel, mask, geometry)


def _repeat(a: Array, groups: int, parts: int) -> Array:
  split = a.reshape(*a.shape[:3], groups, -1)
  return jnp.repeat(split, parts // groups, axis=3).reshape(*a.shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _deform(x, offset, kernel, mask, geometry: Geometry) -> Array:
  return _forward(x, offset, kernel, mask, geometry)


def _deform_fwd(x, offset, kernel, mask, geometry):
  y = _deform(x, offset, kernel, mask, geometry)
  return y, (x, offset, kernel, mask)


def _deform_bwd(geometry, residuals, g):
  return _backward(*residuals, g, geometry)


_deform.defvjp(_deform_fwd, _deform_bwd)


@functools.partial(jax.jit, static_argnums=4, inline=True)
def _forward(x, offset, kernel, mask, geometry: Geometry) -> Array:
  def image(x, offset, mask, *, kernel, count):
    return _image_forward(x, offset, kernel, mask, geometry, count)

  return _each_image(image, (x, offset, mask), kernel)


@functools.partial(jax.jit, static_argnums=5, inline=True)
def _backward(x, offset, kernel, mask, g, geometry: Geometry) -> tuple:
  def image(x, offset, mask, g, *, kernel, count):
    return _image_backward(x, offset, kernel, mask, g, geometry, count)

  by_x, by_offset, by_mask, by_kernel = _each_image(
    image, (x, offset, mask, g), kernel
  )
  by_kernel = _kernel_of(by_kernel.sum(0), kernel.shape, geometry)
  return by_x, by_offset, by_kernel.astype(kernel.dtype), by_mask


def _each_image(image, images: tuple, kernel: Array) -> Any:
  """Calls `image`: on a CPU one after the other, and else on all at once.

  A CPU's cache holds the rows of one image that are in use, but not those of a
  batch. Elsewhere a batch may be sharded, and no device has all of it.
  """
  x, offset = images[:2]
  outputs = offset.shape[1] * offset.shape[2]
  taps = kernel.shape[0] * kernel.shape[1]
  cached = max(1, _CACHED_VALUES // (taps * x.shape[-1]))
  some = min(max(_OUTPUTS[0], outputs // (4 * taps)), _OUTPUTS[1])

  def on_cpu(images, kernel):
    call = functools.partial(image, kernel=kernel, count=-(-outputs // cached))
    return lax.map(lambda a: call(*a), images)

  def elsewhere(images, kernel):
    call = functools.partial(image, kernel=kernel, count=-(-outputs // some))
    return jax.vmap(call)(*images)

  return lax.platform_dependent(images, kernel, cpu=on_cpu, default=elsewhere)


def _image_forward(x, offset, kernel, mask, geometry, count: int) -> Array:
  dtype = jnp.result_type(x, kernel)
  table = make_table(x, geometry)
  matrix = _matrix(kernel.astype(dtype), geometry)

  def chunk(_, part):
    places, mask = part
    samples = take_samples(table, places.rows)
    columns = _columns(
      samples, corner_weights(places, mask), dtype, geometry.groups
    )
    y = _product("ngk,gok->ngo", columns, matrix).astype(dtype)
    return None, y.reshape(len(y), -1)

  places = sample_places(offset, x.shape, kernel.shape, geometry)
  _, y = lax.scan(chunk, None, _split((places, mask), count))
  return _join(y, offset.shape)


def _image_backward(x, offset, kernel, mask, g, geometry, count: int) -> tuple:
  """By x, offset, mask, and by the kernel as a matrix."""
  dtype = jnp.result_type(x, kernel)
  wide = jnp.promote_types(dtype, jnp.float32)
  table = make_table(x, geometry)
  matrix = _matrix(kernel.astype(dtype), geometry)

  def chunk(sums, part):
    places, mask, g = part
    g = g.reshape(len(g), geometry.groups, -1)
    samples = take_samples(table, places.rows)
    weights = corner_weights(places, mask)
    columns = _columns(samples, weights, dtype, geometry.groups)
    by_matrix = _product("ngo,ngk->gok", g, columns)
    by_sample = _product("ngo,gok->ngk", g, matrix)
    by_sample = by_sample.reshape(*places.rows.shape, 1, -1)
    # Of each of the four pixels, were its weight 1.
    by_pixel = sum_channels(samples * by_sample)
    by_offset, by_mask = place_gradients(by_pixel, places, mask)
    by_table = (weights[..., None] * by_sample).astype(wide)
    by_table = by_table.reshape(*places.rows.shape, -1)
    by_table = sums[0].at[places.rows].add(by_table, mode="promise_in_bounds")
    ys = by_offset.astype(offset.dtype), by_mask
    return (by_table, sums[1] + by_matrix), ys

  # In the type that x and g have on a mesh, were they to vary over it.
  zero = (no_terms(x) * no_terms(g)).astype(wide)
  sums = jax.tree.map(
    lambda a: jnp.zeros(a.shape, wide) + zero, (table, matrix)
  )
  places = sample_places(offset, x.shape, kernel.shape, geometry)
  sums, by_places = lax.scan(chunk, sums, _split((places, mask, g), count))
  by_x = fold_table(sums[0], x.shape, geometry).astype(x.dtype)
  by_offset, by_mask = jax.tree.map(lambda a: _join(a, offset.shape), by_places)
  return by_x, by_offset, by_mask, sums[1]


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


def _columns(samples: Array, weights: Array, dtype, groups: int) -> Array:
  """`[outputs, groups, deformable groups in one * taps * channels]`."""
  terms = [weights[..., i, None] * samples[..., i, :] for i in range(4)]
  columns = (terms[0] + terms[1] + (terms[2] + terms[3])).astype(dtype)
  return columns.reshape(len(columns), groups, -1)


def _matrix(kernel: Array, geometry: Geometry) -> Array:
  """`[groups, cout / groups, terms]`: what columns are multiplied with."""
  kh, kw, cin, cout = kernel.shape
  groups = geometry.groups
  parts = geometry.deformable_groups // groups
  kernel = kernel.reshape(kh * kw, parts, cin // parts, groups, cout // groups)
  return kernel.transpose(3, 4, 1, 0, 2).reshape(groups, cout // groups, -1)


def _kernel_of(
  matrix: Array, shape: tuple[int, ...], geometry: Geometry
) -> Array:
  """Inverse of `_matrix`."""
  kh, kw, cin, _ = shape
  parts = geometry.deformable_groups // geometry.groups
  matrix = matrix.reshape(*matrix.shape[:2], parts, kh * kw, cin // parts)
  return matrix.transpose(3, 2, 4, 0, 1).reshape(shape)


def _product(spec: str, a: Array, b: Array) -> Array:
  dtype = jnp.promote_types(a.dtype, jnp.float32)
  return jnp.einsum(spec, a, b, preferred_element_type=dtype)


def _check_range(geometry: Geometry) -> None:
  for name, value in geometry._asdict().items():
    least = 0 if name == "padding" else 1
    if value < least:
      raise ValueError(f"{name}={value} must be at least {least}")


def _check_shapes(x, offset, kernel, mask, geometry: Geometry) -> None:
  arrays = {"x": x, "offset": offset, "kernel": kernel, "mask": mask}
  for name, array in arrays.items():
    if array is not None and array.ndim != 4:
      raise ValueError(
        f"{name} {array.shape} must have 4 dimensions: x, offset and mask are "
        "[b, h, w, channels] and kernel is [kh, kw, cin / groups, cout]"
      )
  b, h, w, cin = x.shape
  kh, kw, kernel_in, cout = kernel.shape
  dg, groups = geometry.deformable_groups, geometry.groups
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
    left = size + 2 * geometry.padding - geometry.dilation * (taps - 1) - 1
    if left < 0:
      raise ValueError(
        f"x has {size} {axis} and padding={geometry.padding} on both sides, "
        f"fewer than the {geometry.dilation * (taps - 1) + 1} of kernel "
        f"{kernel.shape} with dilation={geometry.dilation}; give a larger x or "
        "more padding"
      )
    out.append(left // geometry.stride + 1)
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
