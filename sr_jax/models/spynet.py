"""SPyNet: optical flow from coarse to fine (Ranjan & Black, CVPR 2017)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import Conv, torch_init
from sr_jax.ops.resize import interpolate
from sr_jax.ops.warp import flow_warp, resize_flow

#: What is taken off an image and what it is divided by: ImageNet's, RGB.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: Each has twice the size of the one before.
LEVELS = 6


class _Level(nn.Module):
  """Five convolutions that correct the flow of one size: sec. 3.2."""

  widths: Sequence[int]
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 8"]) -> Float[Array, "b h w 2"]:
    for i, features in enumerate((*self.widths, 2)):
      x = x if i == 0 else nn.relu(x)
      x = Conv(
        features,
        7,
        kernel_init=torch_init(),
        dtype=self.dtype,
        name=f"conv{i}",
      )(x)
    return x


class SPyNet(nn.Module, kw_only=True):
  """The flow from one image to another, on a pyramid of six sizes.

  Any size will do: images are enlarged to multiples of 32 inside, of which the
  coarsest level has a 32nd.

  Attributes:
    widths: Channels of the convolutions of each level but the last.
    dtype: Of the convolutions; parameters, flow and warped images are float32.

  Source: Ranjan & Black 2017, fig. 1; MMagic `SPyNet`, which BasicSR's
  `SpyNet` equals where both sides are past 32 pixels.
  """

  widths: Sequence[int] = (32, 64, 32, 16)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, ref: Float[Array, "b h w c"], supp: Float[Array, "_ _ _ _"]
  ) -> Float[Array, "b h w 2"]:
    """Where each pixel of one image is in the other.

    Args:
      ref: RGB in [0, 1].
      supp: The other image, which the flow warps onto `ref`.

    Returns:
      (dx, dy) in pixels, float32.
    """
    _check(ref, supp)
    size = ref.shape[1:3]
    rounded = tuple(-(-side // 32) * 32 for side in size)
    # float32 until the convolutions: bfloat16 has less than an image's 8 bits.
    # Pairs lie side by side, so that a batch shared out over devices stays so.
    images = jnp.stack([ref, supp], axis=1).reshape(-1, *ref.shape[1:])
    images = images.astype(jnp.float32)
    if rounded != size:
      images = jnp.asarray(interpolate(images, shape=rounded))
    images = (images - jnp.asarray(MEAN)) / jnp.asarray(STD)
    pyramid = [images]
    for _ in range(LEVELS - 1):
      pyramid.append(_halved(pyramid[-1]))

    b, h, w, _ = pyramid[-1].shape
    flow = jnp.zeros((b // 2, h, w, 2))
    for i, images in enumerate(reversed(pyramid)):
      if i > 0:
        flow = 2.0 * interpolate(flow, 2, align_corners=True)
      here, there = images[::2], images[1::2]
      warped = flow_warp(there, jnp.asarray(flow), padding="border")
      found = jnp.concatenate([here, warped, flow], axis=-1)
      found = _Level(self.widths, self.dtype, name=f"level{i}")(found)
      flow = flow + found.astype(jnp.float32)
    return jnp.asarray(resize_flow(flow, shape=size))


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Means of 2x2."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _check(ref: jax.Array, supp: jax.Array) -> None:
  if ref.ndim != 4 or ref.shape[-1] != 3 or ref.shape != supp.shape:
    raise ValueError(
      f"SPyNet takes two batches of RGB images, ref {ref.shape} and supp "
      f"{supp.shape}, as [batch, height, width, 3] of one size"
    )
  for name, image in (("ref", ref), ("supp", supp)):
    if not jnp.issubdtype(image.dtype, jnp.floating):
      raise ValueError(
        f"{name} is {image.dtype}; SPyNet takes floats in [0, 1]: divide by 255"
      )
