"""SRCNN (Dong et al., ECCV 2014; TPAMI 2016): three convolutions."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import Conv, check_lr
from sr_jax.ops.resize import imresize, interpolate

_UPSAMPLERS = {
  "matlab": lambda image, scale: imresize(image, scale),
  "torch": lambda image, scale: interpolate(image, scale, method="bicubic"),
}


class SRCNN(nn.Module, kw_only=True):
  """Patch extraction, non-linear mapping, reconstruction.

  Takes the low-resolution image and enlarges it itself, by bicubic
  interpolation. The authors' weights were trained behind MATLAB's and run
  with replicated borders (`upsampler="matlab", padding="edge"`), MMagic's
  behind PyTorch's and with zeros, which is the default.

  Attributes:
    scale: Enlargement.
    in_channels: 1 for Y (the paper), 3 for RGB.
    out_channels: The same.
    features: Channels of the two hidden layers, n1 and n2.
    kernel_sizes: f1, f2, f3; the paper compares 9-1-5, 9-3-5 and 9-5-5.
    upsampler: "torch" or "matlab".
    padding: "zero" or "edge".
    dtype: Of the computation; parameters and the output are float32.

  Source: Dong et al. 2016, eq. 1-3; initialisation of sec. 3.3.
  """

  scale: int = 3
  in_channels: int = 1
  out_channels: int = 1
  features: Sequence[int] = (64, 32)
  kernel_sizes: Sequence[int] = (9, 1, 5)
  upsampler: str = "torch"
  padding: str = "zero"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, lr: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    check_lr(self, lr, channels=self.in_channels)
    if len(self.features) != 2 or len(self.kernel_sizes) != 3:
      raise ValueError(
        f"SRCNN has two hidden layers and three kernels; got features="
        f"{tuple(self.features)}, kernel_sizes={tuple(self.kernel_sizes)}"
      )
    if self.upsampler not in _UPSAMPLERS:
      raise ValueError(
        f"upsampler '{self.upsampler}' is not one of {sorted(_UPSAMPLERS)}"
      )
    x = jnp.asarray(
      _UPSAMPLERS[self.upsampler](lr.astype(jnp.float32), self.scale)
    )
    widths = (*self.features, self.out_channels)
    for i, (width, size) in enumerate(
      zip(widths, self.kernel_sizes, strict=True), start=1
    ):
      x = Conv(
        width,
        size,
        padding=self.padding,
        kernel_init=nn.initializers.normal(1e-3),
        dtype=self.dtype,
        name=f"conv{i}",
      )(x)
      if i < len(widths):
        x = nn.relu(x)
    return x.astype(jnp.float32)
