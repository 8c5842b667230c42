"""SRCNN (Dong et al., ECCV 2014; TPAMI 2016): three convolutions."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sr_jax.models.layers import Conv, check_lr
from sr_jax.ops.resize import imresize, interpolate

_UPSAMPLERS = {
  "matlab": lambda image, scale: imresize(image, scale),
  "torch": lambda image, scale: interpolate(image, scale, method="bicubic"),
}

#: On a CPU, layers are computed in bands of rows of at most so many bytes.
_BAND_BYTES = 16 << 20


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
    bands = 1
    if jax.default_backend() == "cpu":
      bands = -(-x.size * max(self.features) * 4 // _BAND_BYTES)
      bands = max(1, min(bands, x.shape[1] // 64))
    if bands == 1:
      return self._layers(x).astype(jnp.float32)
    # glibc gives large arrays back to the kernel after each layer, and filling
    # them anew costs a third of the time. In bands they stay small.
    rows = -(-x.shape[1] // bands)
    _, y = nn.scan(
      lambda model, _, band: (None, model._layers(x, band * rows, rows)),
      variable_broadcast="params",
      split_rngs={"params": False},
    )(self, None, jnp.arange(bands))
    y = jnp.moveaxis(y, 0, 1).reshape(x.shape[0], -1, *y.shape[3:])
    return y[:, : x.shape[1]].astype(jnp.float32)

  def _layers(
    self,
    x: Float[Array, "b h w c"],
    first: Any = 0,
    rows: int | None = None,
  ) -> Float[Array, "b h2 w d"]:
    """Patch extraction, mapping, reconstruction; of a band of rows alone.

    A band is computed with the rows around it that it depends on. Before each
    layer, those past the image are what `padding` says.
    """
    height = x.shape[1]
    at = None  # of each row of x in the image
    if rows is not None:
      around = sum(size // 2 for size in self.kernel_sizes)
      at = first - around + jnp.arange(rows + 2 * around)
      x = jnp.take(x, jnp.clip(at, 0, height - 1), axis=1)
    widths = (*self.features, self.out_channels)
    for i, (width, size) in enumerate(
      zip(widths, self.kernel_sizes, strict=True), start=1
    ):
      if at is not None:
        x = self._outside(x, at, height)
        at = at[size // 2 : at.size - size // 2]
      x = Conv(
        width,
        size,
        padding=self.padding,
        pad_rows=at is None,
        kernel_init=nn.initializers.normal(1e-3),
        dtype=self.dtype,
        name=f"conv{i}",
      )(x)
      if i < len(widths):
        x = nn.relu(x)
    return x

  def _outside(
    self, x: Float[Array, "b h w c"], at: Int[Array, " h"], height: int
  ) -> Float[Array, "b h w c"]:
    """Rows past the image, repeated or zero."""
    if self.padding == "edge":
      return jnp.take(x, jnp.clip(at, 0, height - 1) - at[0], axis=1)
    inside = (at >= 0) & (at < height)
    return jnp.where(inside[:, None, None], x, 0)
