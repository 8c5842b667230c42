"""Layers that several networks share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.ops.conv import conv2d, conv_transpose2d

Initializer = Callable[..., Any]


def check_lr(model: nn.Module, lr: jax.Array, *, channels: int | None) -> None:
  """Refuses a wrong input before anything is traced.

  Raises:
    ValueError: the rank, the channels or the model's scale are not usable.
  """
  kind = type(model).__name__
  scale = getattr(model, "scale", 1)
  if not isinstance(scale, int) or scale < 1:
    raise ValueError(f"{kind}.scale {scale!r} is not a positive int")
  if lr.ndim != 4:
    raise ValueError(
      f"{kind} takes lr as [batch, height, width, channels], got shape "
      f"{lr.shape}; a single image is lr[None]"
    )
  if not jnp.issubdtype(lr.dtype, jnp.floating):
    raise ValueError(
      f"lr is {lr.dtype}; {kind} takes floats in [0, 1]: divide by 255"
    )
  if channels is not None and lr.shape[-1] != channels:
    raise ValueError(
      f"lr has {lr.shape[-1]} channels, but {kind} was built with "
      f"in_channels={channels}; convert the image, or build the model anew"
    )


class Conv(nn.Module):
  """Convolution of stride 1 that keeps the size.

  `padding` says what lies outside the image: "zero", or "edge" (the border
  pixel repeated, MATLAB's `replicate`). Without `pad_rows` it is added to the
  columns alone, and the result has `kernel_size - 1` rows less.
  """

  features: int
  kernel_size: int
  padding: str = "zero"
  pad_rows: bool = True
  kernel_init: Initializer = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w d"]:
    if self.padding not in ("zero", "edge"):
      raise ValueError(f"padding '{self.padding}' is not 'zero' or 'edge'")
    size = self.kernel_size
    kernel = self.param(
      "kernel", self.kernel_init, (size, size, x.shape[-1], self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    columns = (size // 2,) * 2
    rows = columns if self.pad_rows else (0, 0)
    if self.padding == "edge" and size > 1:
      x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), "edge")
      rows = columns = (0, 0)
    x = conv2d(
      x.astype(self.dtype), kernel.astype(self.dtype), padding=(rows, columns)
    )
    return x + bias.astype(self.dtype)


class ConvTranspose(nn.Module):
  """Transposed convolution that enlarges by exactly `stride`.

  `crop` rows and columns are dropped from the beginning of the full result
  (PyTorch's `padding`), and from its end what is past `stride * size`.
  `padding="edge"` repeats the border pixel of the input once first.
  """

  features: int
  kernel_size: int
  stride: int
  crop: int
  padding: str = "zero"
  kernel_init: Initializer = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    size, stride, crop = self.kernel_size, self.stride, self.crop
    output_padding = stride + 2 * crop - size
    if not 0 <= output_padding < stride:
      raise ValueError(
        f"a {size}x{size} deconvolution of stride {stride} cannot drop {crop} "
        "pixels at the beginning (FSRCNN's deconv_padding); between "
        f"{-(-(size - stride) // 2)} and {(size - 1) // 2} can go"
      )
    kernel = self.param(
      "kernel", self.kernel_init, (size, size, x.shape[-1], self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    if self.padding == "edge":
      x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
      crop += stride
    x = conv_transpose2d(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      stride=stride,
      padding=crop,
      output_padding=output_padding,
    )
    return x + bias.astype(self.dtype)


class PReLU(nn.Module):
  """`max(x, 0) + slope * min(x, 0)`, one learned slope a channel.

  Source: He et al. 2015, eq. 1.
  """

  init: float = 0.25

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    slope = self.param(
      "slope", nn.initializers.constant(self.init), (x.shape[-1],)
    )
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)
