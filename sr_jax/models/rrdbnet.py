"""RRDBNet, ESRGAN's generator (Wang et al., ECCVW 2018)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import (
  Conv,
  check_lr,
  he_init,
  repeat,
  sharded_conv2d,
  torch_init,
)
from sr_jax.ops.pixel_shuffle import pixel_unshuffle
from sr_jax.ops.resize import interpolate

_RESIDUAL_SCALE = 0.2  # the paper's beta


class _Weights(nn.Module):
  """Kernel and bias of a 3x3 convolution, by the names that `Conv` gives."""

  in_channels: int
  features: int

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    shape = (3, 3, self.in_channels, self.features)
    return (
      self.param("kernel", he_init(0.1), shape),
      self.param("bias", nn.initializers.zeros, (self.features,)),
    )


class _DenseBlock(nn.Module):
  """Five convolutions, each of all that came before it: fig. 4, right.

  The convolution of a concatenation is the sum of one of each part. So nothing
  is concatenated: x, and each map made of it, goes once through the kernels of
  all that read it, side by side. These are wider, by which they run faster, and
  training keeps each map once instead of a growing stack five times.
  """

  growth_features: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    width, growth = x.shape[-1], self.growth_features
    widths = (growth,) * 4 + (width,)
    kernels, biases = zip(
      *(
        _Weights(width + i * growth, features, name=f"conv{i + 1}")()
        for i, features in enumerate(widths)
      ),
      strict=True,
    )
    sums = jnp.concatenate(biases).astype(self.dtype)
    part, first = x.astype(self.dtype), 0
    for i, features in enumerate(widths):
      last = first + part.shape[-1]
      readers = [kernel[:, :, first:last] for kernel in kernels[i:]]
      kernel = jnp.concatenate(readers, axis=-1).astype(self.dtype)
      sums = sums + sharded_conv2d(part, kernel, padding=1)
      y, sums = sums[..., :features], sums[..., features:]
      part, first = _leaky(y), last
    return x + _RESIDUAL_SCALE * y


class _RRDB(nn.Module):
  """Three dense blocks with a skip around them: fig. 4, right."""

  growth_features: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    y = x
    for i in (1, 2, 3):
      y = _DenseBlock(self.growth_features, self.dtype, name=f"rdb{i}")(y)
    return x + _RESIDUAL_SCALE * y


class RRDBNet(nn.Module, kw_only=True):
  """Residual in residual dense blocks; nearest-neighbour enlargement.

  Enlarges by four inside. At x2 and x1 the image is first made smaller by two
  and four, its pixels moved into channels, as Real-ESRGAN does.

  Attributes:
    scale: Enlargement: 1, 2 or 4.
    in_channels: Of the image.
    out_channels: Of the image.
    num_features: Channels of the trunk.
    num_blocks: RRDBs; the paper has 23.
    growth_features: Channels that each convolution of a dense block adds.
    remat: Compute blocks anew in the backward pass.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: the scale is another, or at x2 and x1 the height or width is no
      multiple of 2 and 4.

  Source: Wang et al. 2018, sec. 3.1; BasicSR `RRDBNet`.
  """

  scale: int = 4
  in_channels: int = 3
  out_channels: int = 3
  num_features: int = 64
  num_blocks: int = 23
  growth_features: int = 32
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, lr: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    check_lr(self, lr, channels=self.in_channels)
    if self.scale not in (1, 2, 4):
      raise ValueError(f"RRDBNet.scale {self.scale} is not 1, 2 or 4")
    fold = 4 // self.scale
    if lr.shape[1] % fold or lr.shape[2] % fold:
      raise ValueError(
        f"lr {lr.shape[1:3]} is not a multiple of {fold}, which RRDBNet needs "
        f"at x{self.scale}; crop or pad the image first"
      )

    def conv(features: int, name: str) -> Conv:
      return Conv(
        features, 3, kernel_init=torch_init(), dtype=self.dtype, name=name
      )

    x = lr if fold == 1 else jnp.asarray(pixel_unshuffle(lr, fold))
    first = x = conv(self.num_features, "conv_first")(x)
    block = _RRDB(self.growth_features, self.dtype, name="body")
    x = repeat(block, x, self.num_blocks, remat=self.remat)
    x = first + conv(self.num_features, "conv_body")(x)
    for i in (1, 2):
      x = interpolate(x, 2, method="nearest")
      x = _leaky(conv(self.num_features, f"conv_up{i}")(x))
    x = _leaky(conv(self.num_features, "conv_hr")(x))
    return conv(self.out_channels, "conv_last")(x).astype(jnp.float32)


def _leaky(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  return nn.leaky_relu(x, 0.2)
