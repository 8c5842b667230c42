"""Interpolation as a network without parameters."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import check_lr
from sr_jax.ops.resize import imresize


class Interpolate(nn.Module, kw_only=True):
  """MATLAB's imresize by an integer factor: the baseline of every table.

  Attributes:
    scale: Enlargement.
    method: bicubic, bilinear, nearest, lanczos3 or box.
  """

  scale: int = 4
  method: str = "bicubic"

  @nn.compact
  def __call__(self, lr: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    check_lr(self, lr, channels=None)
    return jnp.asarray(imresize(lr, self.scale, method=self.method))
