"""Convolution and transposed convolution, channels last.

On accelerators a stride-1 convolution is XLA's own. On a CPU the layers of
small super-resolution networks, few channels wide, are where XLA's falls short,
forwards and much more so in the gradient of the kernel, so there the same sums
are arranged in other ways (`_conv_cpu`, `_kernel_gradient_cpu`). The choice
depends on shapes alone and is made as the program is lowered for a platform: a
step lowered for a TPU on a CPU host holds the TPU's form.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sr_jax.ops.pixel_shuffle import pixel_shuffle

Padding = int | Sequence[Sequence[int]]
_Pads = tuple[tuple[int, int], tuple[int, int]]

# Where folding pairs of columns into channels is the faster: up to so many
# channels in, and fewer than so many out (more fill the vector units anyway).
_FOLD_IN, _FOLD_OUT = 16, 64

# Where Eigen is the faster of XLA's two (`_threaded_conv`): so many rows that
# one more is not much, so many products a tap that sharing them out pays, and
# columns, or columns times channels out, too few for YNNPACK to do so, but no
# image's three channels, of which Eigen makes nothing (5 times slower).
_MIN_ROWS, _MIN_PRODUCTS, _WIDE_COLUMNS, _WIDE_OUTPUT = 8, 2**21, 128, 128 * 64
_MIN_OUTPUT = 8

# Pixels of a batch that `_tap_products` takes at a time.
_CACHED_PIXELS = 4096


def conv2d(
  x: Float[Array, "b h w cin"],
  kernel: Float[Array, "kh kw cin cout"],
  *,
  stride: int = 1,
  padding: Padding = 0,
) -> Float[Array, "b h_out w_out cout"]:
  """Two-dimensional convolution (cross-correlation) with zero padding.

  Args:
    x: Batch of feature maps.
    kernel: Taps, not flipped.
    stride: Step between outputs, in both directions.
    padding: Zeros around x: one number for every edge, or
      `((top, bottom), (left, right))`.

  Returns:
    Height `(h + top + bottom - kh) // stride + 1`, width likewise. With stride
    1 it has reverse-mode derivatives of any order, and no forward mode.

  Raises:
    ValueError: x or kernel is not 4-D, their channels differ, stride or padding
      is out of range, or the padded x is smaller than the kernel.

  Source: `torch.nn.functional.conv2d`.
  """
  _check_operands(x, kernel, stride)
  pads = _edge_padding(padding)
  for size, taps, pad, axis in zip(
    x.shape[1:3], kernel.shape[:2], pads, ("rows", "columns"), strict=True
  ):
    if size + sum(pad) < taps:
      raise ValueError(
        f"x has {size} {axis} and padding {pad}, fewer than the kernel's "
        f"{taps}; give a larger x or more padding"
      )
  if stride == 1:
    return _unit_conv(x, kernel, pads)
  return _lax_conv(x, kernel, pads, (stride, stride))


def conv_transpose2d(
  x: Float[Array, "b h w cin"],
  kernel: Float[Array, "kh kw cin cout"],
  *,
  stride: int,
  padding: int = 0,
  output_padding: int = 0,
) -> Float[Array, "b h_out w_out cout"]:
  """Transposed convolution: each pixel adds its kernel, `stride` apart.

  `y[stride * i + ky - padding, ...] += x[i, ...] * kernel[ky, ...]`. Outputs of
  equal phase (position modulo the stride) use the same taps, so this is one
  stride-1 convolution to `stride * stride * cout` channels, one group a phase,
  followed by a pixel shuffle. No zeros are inserted into x.

  Args:
    x: Batch of feature maps.
    kernel: Taps, not flipped: `kernel[ky, kx, i, o]` is PyTorch's
      `weight[i, o, ky, kx]`.
    stride: Enlargement.
    padding: Pixels cut off each edge of the full result.
    output_padding: Pixels added at the bottom and right edge (they hold what
      the cut, or else zero, would have left there).

  Returns:
    Height `(h - 1) * stride - 2 * padding + kh + output_padding`, width
    likewise.

  Raises:
    ValueError: x or kernel is not 4-D, their channels differ, an argument is
      out of range, or nothing is left of the result.

  Source: `torch.nn.ConvTranspose2d`; the sub-pixel form is Shi et al. 2016,
  "Is the deconvolution layer the same as a convolutional layer?".
  """
  _check_operands(x, kernel, stride)
  if padding < 0:
    raise ValueError(f"padding={padding} must not be negative")
  if not 0 <= output_padding < stride:
    raise ValueError(
      f"output_padding={output_padding} must be in [0, stride={stride})"
    )
  out_sizes = [
    (size - 1) * stride - 2 * padding + taps + output_padding
    for size, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)
  ]
  if min(out_sizes) < 1:
    raise ValueError(
      f"padding={padding} cuts the whole result away: size {out_sizes} from "
      f"x {x.shape[1:3]} and kernel {kernel.shape[:2]}; give less padding"
    )

  # In the uncut result row `stride * u + r` takes tap `stride * (u - i) + r` of
  # input row i. Rows u of whole strides are made, those that `padding` cuts
  # away wholly are not, and the rest of the cut is a slice.
  taps = [-(-size // stride) for size in kernel.shape[:2]]
  ends = [(0, n * stride - k) for n, k in zip(taps, kernel.shape, strict=False)]
  cin, cout = kernel.shape[2:]
  phases = jnp.pad(kernel, (*ends, (0, 0), (0, 0)))
  phases = phases.reshape(taps[0], stride, taps[1], stride, cin, cout)
  phases = phases[::-1, :, ::-1].transpose(0, 2, 4, 5, 1, 3)
  phases = phases.reshape(*taps, cin, cout * stride * stride)

  first, cut = divmod(padding, stride)
  edges = []
  for size, out, n in zip(x.shape[1:3], out_sizes, taps, strict=True):
    rows = -(-(cut + out) // stride)
    low = n - 1 - first
    edges.append((low, rows - size - low + n - 1))
  pads = (edges[0], edges[1])
  y = jnp.asarray(pixel_shuffle(_unit_conv(x, phases, pads), stride))
  return y[:, cut : cut + out_sizes[0], cut : cut + out_sizes[1]]


def _lax_conv(
  x: Array, kernel: Array, pads: _Pads, stride: tuple[int, int] = (1, 1)
) -> Array:
  return lax.conv_general_dilated(
    x, kernel, stride, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _unit_conv(x: Array, kernel: Array, pads: _Pads) -> Array:
  """Convolution of stride 1; negative padding crops."""
  if jax.sharding.get_abstract_mesh().manual_axes:
    # Inside shard_map a gradient made by hand is not summed over devices. It is
    # where x and kernel first come to vary over the same axes of the mesh.
    x, kernel = x + no_terms(kernel), kernel + no_terms(x)
  return _hand_differentiated(x, kernel, pads)


def no_terms(x: Array) -> Array:
  """Zero that differs between devices, to JAX's knowledge, where x does."""
  return lax.stop_gradient(x[:0]).sum()


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _hand_differentiated(x: Array, kernel: Array, pads: _Pads) -> Array:
  return _forward(x, kernel, pads)


def _unit_conv_fwd(x, kernel, pads):
  return _hand_differentiated(x, kernel, pads), (x, kernel)


def _unit_conv_bwd(pads, residuals, g):
  x, kernel = residuals
  turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
  x_gradient = _unit_conv(g, turned, _transposed(pads, kernel.shape))
  return x_gradient, _kernel_gradient(x, kernel, g, pads)


_hand_differentiated.defvjp(_unit_conv_fwd, _unit_conv_bwd)


def _transposed(pads: _Pads, taps: Sequence[int]) -> _Pads:
  """Padding of the convolution that takes g back to x."""
  (top, bottom), (left, right) = pads
  kh, kw = taps[:2]
  return (kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _forward(x: Array, kernel: Array, pads: _Pads) -> Array:
  return lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_conv_cpu, pads=pads),
    default=functools.partial(_lax_conv, pads=pads),
  )


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _kernel_gradient(x: Array, kernel: Array, g: Array, pads: _Pads) -> Array:
  return lax.platform_dependent(
    x,
    kernel,
    g,
    cpu=functools.partial(_kernel_gradient_cpu, pads=pads),
    default=functools.partial(_kernel_gradient_lax, pads=pads),
  )


def _conv_cpu(x: Array, kernel: Array, pads: _Pads) -> Array:
  kh, kw, cin, cout = kernel.shape
  if (kh, kw) == (1, 1) and not any(map(any, pads)):
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
  thin = cin <= _FOLD_IN and cout < _FOLD_OUT
  fold = 4 if cout == 1 else 2 if thin else 1
  width = x.shape[2] + sum(pads[1]) - kw + 1
  if fold == 1 or kw == 1 or width < fold:
    return _threaded_conv(x, kernel, pads)
  # Some columns of the output at a time, as a kernel that is wider by as many
  # taps with as many times the output channels: the added taps are zeros, but
  # the vector units are full.
  kernel = jnp.stack(
    [
      jnp.pad(kernel, ((0, 0), (i, fold - 1 - i), (0, 0), (0, 0)))
      for i in range(fold)
    ],
    axis=3,
  ).reshape(kh, kw + fold - 1, cin, fold * cout)
  groups = -(-width // fold)
  rows, (left, right) = pads
  columns = left, right + fold * groups - width
  y = _lax_conv(x, kernel, (rows, columns), stride=(1, fold))
  return y.reshape(*y.shape[:2], fold * groups, cout)[:, :, :width]


def _threaded_conv(x: Array, kernel: Array, pads: _Pads) -> Array:
  """The same convolution, by the one of XLA's two that uses all threads.

  XLA gives a CPU's convolutions to YNNPACK, which shares out the columns and
  channels of a row, but neither rows nor images, so that narrow images keep
  one thread busy; but to Eigen, which shares out everything, those whose
  output has more rows than x. So one is added, and cut off.
  """
  (top, bottom), columns = pads
  batch, height, width, cin = x.shape
  kh, cout = kernel.shape[0], kernel.shape[3]
  rows = height + top + bottom - kh + 1
  narrow = width < _WIDE_COLUMNS or width * cout < _WIDE_OUTPUT
  work = batch * height * width * cin * cout
  few = rows < _MIN_ROWS or work < _MIN_PRODUCTS or cout < _MIN_OUTPUT
  if rows != height or few or not narrow:
    return _lax_conv(x, kernel, pads)
  return _lax_conv(x, kernel, ((top, bottom + 1), columns))[:, :rows]


def _kernel_gradient_lax(
  x: Array, kernel: Array, g: Array, pads: _Pads
) -> Array:
  _, pull = jax.vjp(lambda kernel: _lax_conv(x, kernel, pads), kernel)
  return pull(g)[0]


def _kernel_gradient_cpu(
  x: Array, kernel: Array, g: Array, pads: _Pads
) -> Array:
  """Matrix products: of all taps at once where one operand is thin."""
  *taps, cin, cout = kernel.shape
  if taps != [1, 1] and 2 * min(cin, cout) >= max(cin, cout):
    return _tap_products(x, g, pads, taps)
  if cin <= cout:
    return _patch_products(x, g, pads, taps)
  turned = _patch_products(g, x, _transposed(pads, taps), taps)
  return turned[::-1, ::-1].transpose(0, 1, 3, 2)


def _tap_products(
  x: Array, g: Array, pads: _Pads, taps: Sequence[int]
) -> Array:
  """`sum_p x[p + tap, i] * g[p, o]`, as `[kh, kw, i, o]`, tap by tap.

  Alone, XLA's own takes from half to four times the time, as the machine is;
  in the body of a loop, where the blocks of a deep network are, it takes 30 to
  80 times as much; see benchmarks/.
  """
  (kh, kw), (batch, rows, width, cout) = taps, g.shape
  cin = x.shape[-1]
  (top, bottom), (left, right) = pads
  zero = jnp.zeros((), x.dtype)
  x = lax.pad(
    x, zero, ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
  )
  # A few images at a time, whose copies stay in the processor's cache.
  limit = max(1, _CACHED_PIXELS // (rows * width))
  group = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= limit)

  def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
    x, g = part[0], part[1].reshape(-1, cout)
    products = [
      x[:, i : i + rows, j : j + width].reshape(-1, cin).T @ g
      for i in range(kh)
      for j in range(kw)
    ]
    return total + jnp.stack(products), None

  split = lambda a: a.reshape(batch // group, group, *a.shape[1:])
  # In the type that x and g have on a mesh, were they to vary over it.
  total = jnp.zeros((kh * kw, cin, cout), x.dtype) + (no_terms(x) * no_terms(g))
  total, _ = lax.scan(add, total, (split(x), split(g)))
  return total.reshape(kh, kw, cin, cout)


def _patch_products(
  x: Array, g: Array, pads: _Pads, taps: Sequence[int]
) -> Array:
  """`sum_p x[p + tap, i] * g[p, o]`, as `[kh, kw, i, o]`.

  Columns are taken two at a time where patches overlap, which halves the
  copies: a pair of patches has `kw + 1` columns.
  """
  kh, kw = taps
  fold = 1 if kw == 1 else 2
  batch, rows, width, cout = g.shape
  cin = x.shape[-1]
  groups = -(-width // fold)
  pieces = -(-(kw + fold - 1) // fold)
  (top, bottom), (left, _) = pads
  right = (groups + pieces - 1) * fold - x.shape[2] - left
  # lax.pad also crops. The barriers keep XLA from computing x anew for each
  # of its copies.
  zero = jnp.zeros((), x.dtype)
  x = lax.pad(
    x, zero, ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
  )
  x = lax.optimization_barrier(x)
  x = x.reshape(batch, -1, groups + pieces - 1, fold * cin)
  patches = jnp.concatenate(
    [
      x[:, i : i + rows, j : j + groups]
      for i in range(kh)
      for j in range(pieces)
    ],
    axis=-1,
  )
  patches = lax.optimization_barrier(patches)
  g = jnp.pad(g, ((0, 0), (0, 0), (0, groups * fold - width), (0, 0)))
  g = g.reshape(batch, rows, groups, fold * cout)
  products = jnp.einsum("bhwi,bhwo->io", patches, g)
  products = products.reshape(kh, pieces * fold, cin, fold, cout)
  kernel = products[:, :kw, :, 0]
  return kernel if fold == 1 else kernel + products[:, 1 : kw + 1, :, 1]


def _check_operands(x: Array, kernel: Array, stride: int) -> None:
  for name, array in (("x", x), ("kernel", kernel)):
    if array.ndim != 4:
      raise ValueError(
        f"{name} {array.shape} must have 4 dimensions: x is [b, h, w, cin] and "
        "kernel [kh, kw, cin, cout]"
      )
  if x.shape[-1] != kernel.shape[2]:
    raise ValueError(
      f"x {x.shape} has {x.shape[-1]} channels and kernel {kernel.shape} takes "
      f"{kernel.shape[2]}; kernel is [kh, kw, cin, cout]"
    )
  if stride < 1:
    raise ValueError(f"stride={stride} must be at least 1")


def _edge_padding(padding: Padding) -> _Pads:
  if isinstance(padding, int):
    padding = ((padding, padding), (padding, padding))
  try:
    (top, bottom), (left, right) = padding
  except (TypeError, ValueError):
    raise ValueError(
      f"padding={padding!r} must be one int or ((top, bottom), (left, right))"
    ) from None
  if min(top, bottom, left, right) < 0:
    raise ValueError(f"padding={padding!r} must not be negative")
  return (top, bottom), (left, right)
