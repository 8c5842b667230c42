"""Alignment by deformable convolution: what EDVR and its successors share."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import Conv, sharded_conv2d, torch_init
from sr_jax.ops.deform_conv import deform_conv2d
from sr_jax.ops.resize import interpolate
from sr_jax.sharding import whole_rows

#: The video networks' slope.
leaky = functools.partial(nn.leaky_relu, negative_slope=0.1)


class ModulatedDeformConv(nn.Module):
  """Convolution that samples where it is told, and weights what it finds.

  Where the collection "metrics" is mutable, `offset` there is the mean of the
  offsets' magnitude in pixels, before the clamp: past 50 a training run is
  about to diverge. Of several calls it is the largest.

  Attributes:
    features: Channels out.
    kernel_size: An odd number; the size is kept.
    deformable_groups: Groups of channels in that share their offsets.
    max_offset: Farther offsets, up, down or to a side, are set to so many
      pixels; None leaves all.
    dtype: Of the computation; places are float32.

  Source: Zhu et al. 2019, eq. 1; BasicSR's `ModulatedDeformConvPack`.
  """

  features: int
  kernel_size: int = 3
  deformable_groups: int = 1
  max_offset: float | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b h w c"],
    offset: Float[Array, "b h w _"],
    mask: Float[Array, "b h w _"],
  ) -> Float[Array, "b h w d"]:
    if self.max_offset is not None and not self.max_offset > 0:
      raise ValueError(
        f"max_offset {self.max_offset} is not positive; None clamps nothing"
      )
    size = self.kernel_size
    kernel = self.param(
      "kernel", torch_init(), (size, size, x.shape[-1], self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    offset = offset.astype(jnp.float32)
    if not self.is_initializing():
      self.sow(
        "metrics",
        "offset",
        jax.lax.stop_gradient(jnp.mean(jnp.abs(offset))),
        reduce_fn=jnp.maximum,
        init_fn=lambda: jnp.zeros(()),
      )
    if self.max_offset is not None:
      offset = jnp.clip(offset, -self.max_offset, self.max_offset)
    y = deform_conv2d(
      x.astype(self.dtype),
      offset,
      kernel.astype(self.dtype),
      mask=mask.astype(self.dtype),
      padding=(size - 1) // 2,
      deformable_groups=self.deformable_groups,
    )
    return y + bias.astype(self.dtype)


class DCNv2Pack(nn.Module):
  """Modulated deformable convolution whose offsets are made of `features`.

  It begins as a convolution of weight a half: no offset, masks 0.5.

  Attributes:
    features: Channels out.
    kernel_size: As of `ModulatedDeformConv`, like those that follow.
    deformable_groups: See there.
    max_offset: See there.
    dtype: See there.

  Source: Zhu et al. 2019, sec. 3.1; BasicSR `DCNv2Pack`.
  """

  features: int
  kernel_size: int = 3
  deformable_groups: int = 1
  max_offset: float | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], features: Float[Array, "b h w e"]
  ) -> Float[Array, "b h w d"]:
    taps = self.deformable_groups * self.kernel_size**2
    # In float32: bfloat16 has an eighth of a pixel from 16 pixels on.
    y = Conv(
      3 * taps,
      self.kernel_size,
      kernel_init=nn.initializers.zeros,
      dtype=jnp.float32,
      name="conv_offset",
    )(features)
    return ModulatedDeformConv(
      self.features,
      self.kernel_size,
      self.deformable_groups,
      self.max_offset,
      self.dtype,
      name="dcn",
    )(x, y[..., : 2 * taps], nn.sigmoid(y[..., 2 * taps :]))


class _PairConv(nn.Module):
  """3x3 convolution of each neighbour beside the reference of its clip.

  The reference's half of the sum is computed once a clip, and no frame is
  copied beside another.
  """

  features: int
  dtype: Any

  @nn.compact
  def __call__(
    self, neighbors: Float[Array, "n h w c"], reference: Float[Array, "b h w d"]
  ) -> Float[Array, "n h w e"]:
    channels = neighbors.shape[-1], reference.shape[-1]
    kernel = self.param(
      "kernel", torch_init(), (3, 3, sum(channels), self.features)
    ).astype(self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    first, second = jnp.split(kernel, channels[:1], axis=2)
    y = sharded_conv2d(neighbors.astype(self.dtype), first, padding=1)
    shared = sharded_conv2d(reference.astype(self.dtype), second, padding=1)
    shared = shared + bias.astype(self.dtype)
    b = shared.shape[0]
    y = y.reshape(b, -1, *y.shape[1:]) + shared[:, None]
    return y.reshape(-1, *y.shape[2:])


class PCDAlignment(nn.Module, kw_only=True):
  """Pyramid, cascading and deformable: offsets from coarse to fine.

  Attributes:
    num_features: Channels of all levels.
    deformable_groups: Of every deformable convolution.
    max_offset: See `ModulatedDeformConv`.
    dtype: Of the computation.

  Source: Wang et al. 2019, fig. 3; BasicSR `PCDAlignment`.
  """

  num_features: int = 64
  deformable_groups: int = 8
  max_offset: float | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    neighbors: Sequence[Float[Array, "n _ _ c"]],
    reference: Sequence[Float[Array, "b _ _ c"]],
  ) -> Float[Array, "n h w c"]:
    """The neighbours' finest level as the reference frame sees it.

    Args:
      neighbors: Features at full size, a half and a quarter, of `n / b` frames
        a clip, clip by clip.
      reference: Those of one frame a clip.
    """

    def conv(name: str) -> Conv:
      return Conv(
        self.num_features,
        3,
        kernel_init=torch_init(),
        dtype=self.dtype,
        name=name,
      )

    def pair(name: str) -> _PairConv:
      return _PairConv(self.num_features, self.dtype, name=name)

    def dcn(name: str) -> DCNv2Pack:
      return DCNv2Pack(
        self.num_features,
        deformable_groups=self.deformable_groups,
        max_offset=self.max_offset,
        dtype=self.dtype,
        name=name,
      )

    offset = features = None
    for i in (3, 2, 1):
      level = f"l{i}"
      there, here = neighbors[i - 1], reference[i - 1]
      new = leaky(pair(f"offset_conv1_{level}")(there, here))
      if offset is not None:
        # In pixels, of which there are twice as many.
        new = _beside(new, 2 * double(offset))
      new = leaky(conv(f"offset_conv2_{level}")(new))
      if offset is not None:
        new = leaky(conv(f"offset_conv3_{level}")(new))
      offset = new
      found = dcn(f"dcn_pack_{level}")(there, offset)
      if features is not None:
        found = conv(f"feat_conv_{level}")(_beside(found, double(features)))
      features = found if i == 1 else leaky(found)
    offset = leaky(pair("cas_offset_conv1")(features, reference[0]))
    offset = leaky(conv("cas_offset_conv2")(offset))
    return leaky(dcn("cas_dcnpack")(features, offset))


class TSAFusion(nn.Module, kw_only=True):
  """Frames weighted by their likeness to one, places by an attention pyramid.

  Attributes:
    num_features: Channels.
    center_frame: The one that the others are compared with, from 0.
    dtype: Of the computation.

  Source: Wang et al. 2019, fig. 4 and eq. 5 to 9; BasicSR `TSAFusion`.
  """

  num_features: int = 64
  center_frame: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, aligned: Float[Array, "b t h w c"]
  ) -> Float[Array, "b h w c"]:
    b, t, h, w, c = aligned.shape

    def conv(name: str, size: int = 3) -> Conv:
      return Conv(
        self.num_features,
        size,
        kernel_init=torch_init(),
        dtype=self.dtype,
        name=name,
      )

    reference = conv("temporal_attn1")(aligned[:, self.center_frame])
    embedded = conv("temporal_attn2")(aligned.reshape(-1, h, w, c))
    embedded = embedded.reshape(b, t, h, w, -1)
    likeness = jnp.sum(
      embedded * reference[:, None], axis=-1, keepdims=True, dtype=jnp.float32
    )
    aligned = aligned * nn.sigmoid(likeness).astype(aligned.dtype)

    frames = jnp.moveaxis(aligned, 1, 3).reshape(b, h, w, t * c)
    features = leaky(conv("feat_fusion", 1)(frames))
    half = leaky(conv("spatial_attn1", 1)(frames))
    half = leaky(conv("spatial_attn2", 1)(_pooled(half)))
    quarter = leaky(conv("spatial_attn_l1", 1)(half))
    quarter = leaky(conv("spatial_attn_l2")(_pooled(quarter)))
    quarter = leaky(conv("spatial_attn_l3")(quarter))
    half = leaky(conv("spatial_attn3")(half)) + double(quarter)
    half = leaky(conv("spatial_attn4", 1)(half))
    attention = conv("spatial_attn5")(double(half))
    added = leaky(conv("spatial_attn_add1", 1)(attention))
    added = conv("spatial_attn_add2", 1)(added)
    return features * nn.sigmoid(attention) * 2 + added


def _pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
  """Maximum and mean of 3x3 at half the size, side by side.

  Of whole images: where rows are shared out, XLA's partitioner (jaxlib 0.10.2)
  makes NaN of a maximum's padding.
  """
  x = whole_rows(x, reach=x.shape[1])
  window, step = (3, 3), (2, 2)
  pad: Any = ((1, 1), (1, 1))
  # The zeros of the rim count in the mean.
  y = _beside(
    nn.max_pool(x, window, step, pad), nn.avg_pool(x, window, step, pad)
  )
  return whole_rows(y, reach=y.shape[1])


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Bilinear enlargement by two, as PyTorch does it."""
  return jnp.asarray(interpolate(x, 2, method="bilinear"))


def _beside(*parts: Float[Array, "b h w _"]) -> Float[Array, "b h w c"]:
  return jnp.concatenate(parts, axis=-1)
