"""Convolution and transposed convolution, channels last."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = int | Sequence[Sequence[int]]

_NHWC = ("NHWC", "HWIO", "NHWC")


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
    Height `(h + top + bottom - kh) // stride + 1`, width likewise.

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
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), pads, dimension_numbers=_NHWC
  )


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

  # Zeros in front of the kernel make the cut a whole number of strides, so
  # that it becomes a shift of the stride-1 convolution.
  front = -padding % stride
  shift = (padding + front) // stride
  groups = [-(-(front + taps) // stride) for taps in kernel.shape[:2]]
  rows, cols = groups
  pads = [
    (front, n * stride - front - taps)
    for n, taps in zip(groups, kernel.shape[:2], strict=True)
  ]
  phases = jnp.pad(kernel, (*pads, (0, 0), (0, 0)))
  cin, cout = kernel.shape[2:]
  phases = phases.reshape(rows, stride, cols, stride, cin, cout)
  phases = phases[::-1, :, ::-1].transpose(0, 2, 4, 5, 1, 3)
  phases = phases.reshape(rows, cols, cin, cout * stride * stride)

  edges = []
  for size, out, n in zip(x.shape[1:3], out_sizes, groups, strict=True):
    low = n - 1 - shift
    edges.append((low, -(-out // stride) - size - low + n - 1))
  y = lax.conv_general_dilated(
    x, phases, (1, 1), edges, dimension_numbers=_NHWC
  )
  return pixel_shuffle(y, stride)[:, : out_sizes[0], : out_sizes[1]]


def pixel_shuffle(x, scale):  # until ops.pixel_shuffle is there
  b, h, w, c = x.shape
  x = x.reshape(b, h, w, c // scale**2, scale, scale)
  x = x.transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(b, h * scale, w * scale, c // scale**2)


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


def _edge_padding(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
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
