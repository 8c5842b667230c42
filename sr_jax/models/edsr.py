"""EDSR (Lim et al., CVPRW 2017): deeper and wider, without BatchNorm."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import Conv, check_lr, repeat, stages, torch_init
from sr_jax.models.srresnet import ResidualBlock
from sr_jax.ops.pixel_shuffle import pixel_shuffle


class EDSR(nn.Module, kw_only=True):
  """Residual blocks at low resolution, pixel shuffles, one last convolution.

  Attributes:
    scale: Enlargement: 2, 3, 4, 8.
    in_channels: Of the image.
    out_channels: The same number.
    num_features: 64 in the baseline, 256 in the large network.
    num_blocks: 16 in the baseline, 32 in the large network.
    residual_scale: Factor of each residual; 0.1 in the large network.
    image_range: What [0, 1] is stretched to inside.
    rgb_mean: Mean of the training images (DIV2K), taken off inside; of as
      many channels as the image, or one for all.
    remat: Compute blocks anew in the backward pass.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: the input's channels or the scale do not fit, or `rgb_mean` is
      not one number a channel.

  Source: Lim et al. 2017, fig. 3 and sec. 3.2; BasicSR `EDSR`.
  """

  scale: int = 4
  in_channels: int = 3
  out_channels: int = 3
  num_features: int = 64
  num_blocks: int = 16
  residual_scale: float = 1.0
  image_range: float = 255.0
  rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040)
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, lr: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    check_lr(self, lr, channels=self.in_channels)
    if len(self.rgb_mean) not in (1, self.in_channels) or (
      self.in_channels != self.out_channels
    ):
      raise ValueError(
        f"EDSR takes rgb_mean {tuple(self.rgb_mean)} off {self.in_channels} "
        f"channels and adds it to {self.out_channels}; give one mean or one a "
        "channel, and as many channels out as in"
      )
    width = self.num_features

    def conv(features: int, name: str) -> Conv:
      return Conv(
        features, 3, kernel_init=torch_init(), dtype=self.dtype, name=name
      )

    mean = jnp.asarray(self.rgb_mean, jnp.float32)
    x = (lr.astype(jnp.float32) - mean) * self.image_range
    first = x = conv(width, "conv_first")(x)
    block = ResidualBlock(
      width, self.residual_scale, torch_init(), self.dtype, name="body"
    )
    x = repeat(block, x, self.num_blocks, remat=self.remat)
    x = first + conv(width, "conv_after_body")(x)
    for i, factor in enumerate(stages(self.scale), start=1):
      x = conv(width * factor**2, f"upconv{i}")(x)
      x = jnp.asarray(pixel_shuffle(x, factor))
    x = conv(self.out_channels, "conv_last")(x).astype(jnp.float32)
    return x / self.image_range + mean
