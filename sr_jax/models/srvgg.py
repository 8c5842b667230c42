"""SRVGGNetCompact, Real-ESRGAN's small network (Wang et al., 2021)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import Conv, PReLU, check_lr, repeat, torch_init
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.resize import interpolate


class _ConvPReLU(nn.Module):
  """A 3x3 convolution and a slope for each channel."""

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    x = Conv(
      self.features, 3, kernel_init=torch_init(), dtype=self.dtype, name="conv"
    )(x)
    return PReLU(name="act")(x)


class SRVGGNetCompact(nn.Module, kw_only=True):
  """Convolutions one after the other, added to the enlarged pixels.

  Without skips inside it runs fast on small devices: Real-ESRGAN trained it for
  animation (16 blocks) and for anything (32).

  Attributes:
    scale: Enlargement, by one pixel shuffle.
    in_channels: Of the image.
    out_channels: The same number, since the enlarged input is added.
    num_features: Channels of the trunk.
    num_blocks: Convolutions between the first and the last.
    remat: Compute blocks anew in the backward pass.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: the input's channels do not fit.

  Source: BasicSR `SRVGGNetCompact`, with its PReLU.
  """

  scale: int = 4
  in_channels: int = 3
  out_channels: int = 3
  num_features: int = 64
  num_blocks: int = 16
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, lr: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    check_lr(self, lr, channels=self.in_channels)
    if self.in_channels != self.out_channels:
      raise ValueError(
        "SRVGGNetCompact adds its input to its output: in_channels "
        f"{self.in_channels} and out_channels {self.out_channels} must be equal"
      )
    x = _ConvPReLU(self.num_features, self.dtype, name="first")(lr)
    block = _ConvPReLU(self.num_features, self.dtype, name="body")
    x = repeat(block, x, self.num_blocks, remat=self.remat)
    x = Conv(
      self.out_channels * self.scale**2,
      3,
      kernel_init=torch_init(),
      dtype=self.dtype,
      name="conv_last",
    )(x)
    x = jnp.asarray(pixel_shuffle(x.astype(jnp.float32), self.scale))
    base = interpolate(lr.astype(jnp.float32), self.scale, method="nearest")
    return x + base
