"""FSRCNN (Dong et al., ECCV 2016): the work done at low resolution."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import Conv, ConvTranspose, PReLU, check_lr

# He initialisation for the PReLU that follows, whose slope begins at 0.25.
_PRELU_HE = nn.initializers.variance_scaling(
  2.0 / (1.0 + 0.25**2), "fan_in", "normal"
)


class FSRCNN(nn.Module, kw_only=True):
  """Feature extraction, shrinking, mapping, expanding, deconvolution.

  Attributes:
    scale: Enlargement, the stride of the deconvolution.
    in_channels: 1 for Y (the paper), 3 for RGB.
    out_channels: The same.
    num_features: d, channels at either end. FSRCNN(56, 12, 4) is the paper's,
      FSRCNN-s is (32, 5, 1).
    shrink_features: s, channels of the mapping layers.
    num_blocks: m, mapping layers.
    padding: "zero", or "edge" as the authors' MATLAB code has it.
    deconv_padding: Pixels dropped at the beginning of the deconvolution's
      full output (PyTorch's `padding`); the authors drop 3 at x3, else 4.
    dtype: Of the computation; parameters and the output are float32.

  Source: Dong et al. 2016, sec. 3.2, fig. 2.
  """

  scale: int = 3
  in_channels: int = 1
  out_channels: int = 1
  num_features: int = 56
  shrink_features: int = 12
  num_blocks: int = 4
  padding: str = "zero"
  deconv_padding: int = 4
  dtype: Any = jnp.float32

  def _conv_prelu(
    self, x: Float[Array, "b h w c"], features: int, size: int, name: str
  ) -> Float[Array, "b h w d"]:
    """Conv(size, features) -> PReLU."""
    x = Conv(
      features,
      size,
      padding=self.padding,
      kernel_init=_PRELU_HE,
      dtype=self.dtype,
      name=name,
    )(x)
    return PReLU(name=f"{name}_act")(x)

  @nn.compact
  def __call__(self, lr: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    check_lr(self, lr, channels=self.in_channels)
    x = lr.astype(jnp.float32)
    x = self._conv_prelu(x, self.num_features, 5, "feature")
    x = self._conv_prelu(x, self.shrink_features, 1, "shrink")
    for i in range(self.num_blocks):
      x = self._conv_prelu(x, self.shrink_features, 3, f"map_{i}")
    x = self._conv_prelu(x, self.num_features, 1, "expand")
    x = ConvTranspose(
      self.out_channels,
      kernel_size=9,
      stride=self.scale,
      crop=self.deconv_padding,
      padding=self.padding,
      kernel_init=nn.initializers.normal(1e-3),
      dtype=self.dtype,
      name="deconv",
    )(x)
    return x.astype(jnp.float32)
