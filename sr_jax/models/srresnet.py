"""SRResNet of the SRGAN paper, and the variant that BasicSR and MMagic train.

Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative
Adversarial Network", CVPR 2017.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import (
  BatchNorm,
  Conv,
  PReLU,
  check_lr,
  he_init,
  repeat,
  stages,
  torch_init,
)
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.resize import interpolate


class _NormBlock(nn.Module):
  """x + BN(conv(PReLU(BN(conv(x))))): fig. 4, "B residual blocks"."""

  num_features: int
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], *, train: bool
  ) -> Float[Array, "b h w c"]:
    y = x
    for i in (1, 2):
      y = Conv(
        self.num_features,
        3,
        use_bias=False,
        kernel_init=torch_init(),
        dtype=self.dtype,
        name=f"conv{i}",
      )(y)
      y = BatchNorm(name=f"bn{i}")(y, train=train)
      if i == 1:
        y = PReLU(shared=True, name="act")(y)
    return x + y


class SRResNet(nn.Module, kw_only=True):
  """The SRGAN paper's generator: BatchNorm and PReLU.

  Its output is not clipped, in training or afterwards (Lornatang's
  re-implementation, whose weights load, clamps it to [0, 1] in both).

  Attributes:
    scale: Enlargement: 2, 3, 4, 8.
    in_channels: Of the image.
    out_channels: Of the image.
    num_features: Channels of the trunk.
    num_blocks: B, residual blocks; the paper compares 5 and 16.
    remat: Compute blocks anew in the backward pass.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: the scale does not fit, or the input is no batch of images.

  Source: Ledig et al. 2017, fig. 4.
  """

  scale: int = 4
  in_channels: int = 3
  out_channels: int = 3
  num_features: int = 64
  num_blocks: int = 16
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, lr: Float[Array, "b h w c"], *, train: bool = False
  ) -> Float[Array, "b h2 w2 d"]:
    check_lr(self, lr, channels=self.in_channels)
    width, dtype = self.num_features, self.dtype

    def conv(features: int, size: int, name: str, bias: bool = True) -> Conv:
      return Conv(
        features,
        size,
        use_bias=bias,
        kernel_init=torch_init(),
        dtype=dtype,
        name=name,
      )

    x = conv(width, 9, "conv_first")(lr)
    first = x = PReLU(shared=True, name="act_first")(x)
    block = _NormBlock(width, dtype, name="body")
    x = repeat(block, x, self.num_blocks, remat=self.remat, train=train)
    x = conv(width, 3, "conv_body", bias=False)(x)
    x = first + BatchNorm(name="bn_body")(x, train=train)
    for i, factor in enumerate(stages(self.scale), start=1):
      x = conv(width * factor**2, 3, f"upconv{i}")(x)
      x = jnp.asarray(pixel_shuffle(x, factor))
      x = PReLU(shared=True, name=f"act_up{i}")(x)
    return conv(self.out_channels, 9, "conv_last")(x).astype(jnp.float32)


class ResidualBlock(nn.Module):
  """x + residual_scale * conv(ReLU(conv(x))): EDSR fig. 2, no BatchNorm."""

  num_features: int
  residual_scale: float
  kernel_init: Any
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    y = x
    for i in (1, 2):
      y = Conv(
        self.num_features,
        3,
        kernel_init=self.kernel_init,
        dtype=self.dtype,
        name=f"conv{i}",
      )(y)
      if i == 1:
        y = nn.relu(y)
    return x + self.residual_scale * y


class MSRResNet(nn.Module, kw_only=True):
  """SRResNet without BatchNorm, on top of bilinear interpolation.

  Attributes:
    scale: Enlargement: 2, 3, 4, 8.
    in_channels: Of the image.
    out_channels: The same number, since the enlarged input is added.
    num_features: Channels of the trunk.
    num_blocks: Residual blocks.
    remat: Compute blocks anew in the backward pass.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: the input's channels or the scale do not fit.

  Source: BasicSR `MSRResNet` (Wang et al. 2018, ESRGAN's baseline).
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
        f"MSRResNet adds its input to its output: in_channels "
        f"{self.in_channels} and out_channels {self.out_channels} must be equal"
      )
    width = self.num_features

    def conv(features: int, name: str) -> Conv:
      return Conv(
        features, 3, kernel_init=he_init(0.1), dtype=self.dtype, name=name
      )

    x = _leaky(conv(width, "conv_first")(lr))
    block = ResidualBlock(width, 1.0, he_init(0.1), self.dtype, name="body")
    x = repeat(block, x, self.num_blocks, remat=self.remat)
    for i, factor in enumerate(stages(self.scale), start=1):
      x = conv(width * factor**2, f"upconv{i}")(x)
      x = _leaky(jnp.asarray(pixel_shuffle(x, factor)))
    x = conv(self.out_channels, "conv_last")(_leaky(conv(width, "conv_hr")(x)))
    base = interpolate(lr.astype(jnp.float32), self.scale, method="bilinear")
    return x.astype(jnp.float32) + base


def _leaky(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  return nn.leaky_relu(x, 0.1)
