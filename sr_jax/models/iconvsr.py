"""IconVSR (Chan et al., CVPR 2021): BasicVSR, refilled at key frames."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sr_jax.models.edvr import EDVRFeatures
from sr_jax.models.layers import Conv, torch_init
from sr_jax.models.recurrent import (
  FrameInputs,
  RecurrentNetwork,
  beside,
  enlarged,
  padded,
)
from sr_jax.ops.warp import flow_warp


class _Seen(NamedTuple):
  """A frame, its sides multiples of 4, and what a key frame brings.

  Attributes:
    frame: RGB.
    refill: EDVR's features of the frame and its neighbours; of others than key
      frames they are not used.
    is_key: Whether it is one.
  """

  frame: Array
  refill: Array
  is_key: Array


class IconVSR(RecurrentNetwork, kw_only=True):
  """BasicVSR whose features are mixed with EDVR's at key frames.

  The forward pass sees what the backward one left. Sides that are no multiple
  of 4 are mirrored at the bottom and right inside, and the result is cropped.

  Attributes:
    num_blocks: Residual blocks of a pass; what is not here is
      `RecurrentNetwork`'s.
    keyframe_stride: Every so many frames is a key frame, and the last.
    temporal_padding: Neighbours of a key frame on each side that EDVR sees.
      Before the first frame and after the last one it sees those that lie as
      far on the other side of its window. Of clips shorter than
      `2 * temporal_padding + 1` frames, which the incumbent refuses, it sees
      the last or first frame instead of those that are not there.
    max_offset: See `EDVR`.

  Source: Chan et al. 2021, fig. 4; BasicSR `IconVSR`.
  """

  num_blocks: int = 30
  keyframe_stride: int = 5
  temporal_padding: int = 2
  max_offset: float | None = None

  def setup(self) -> None:
    if self.temporal_padding < 1 or self.keyframe_stride < 1:
      raise ValueError(
        f"IconVSR.temporal_padding {self.temporal_padding} and keyframe_stride "
        f"{self.keyframe_stride} must be at least 1: key frames see frames "
        "around them"
      )
    super().setup()
    width, dtype = self.num_features, self.dtype
    self.edvr = EDVRFeatures(
      num_features=width,
      center_frame=self.temporal_padding,
      max_offset=self.max_offset,
      # `in_chunks` computes all of it anew, and once is enough.
      remat=False,
      dtype=dtype,
    )
    self.backward_trunk = self.trunk(self.num_blocks)
    self.forward_trunk = self.trunk(self.num_blocks)
    self.backward_fusion, self.forward_fusion = (
      Conv(width, 3, kernel_init=torch_init(), dtype=dtype) for _ in range(2)
    )

  @property
  def directions(self) -> tuple[str, ...]:
    """Of the passes."""
    return ("backward", "forward")

  def sources(self, index: int, count: int) -> tuple[int, ...]:
    """A key frame's window, or another frame alone."""
    if index % self.keyframe_stride and index != count - 1:
      return (index,)
    pad, last = self.temporal_padding, count - 1
    window = []
    for i in range(index - pad, index + pad + 1):
      if i < 0:
        i = min(pad - i, last)
      elif i > last:
        i = max(2 * last - pad - i, 0)
      window.append(i)
    return tuple(window)

  def flow(
    self, ref: Float[Array, "b h w c"], supp: Float[Array, "b h w c"]
  ) -> Float[Array, "b h2 w2 2"]:
    """Of frames whose sides are multiples of 4."""
    return self.spynet(padded(ref), padded(supp))

  def look(self, frames: Float[Array, "b n h w c"]) -> _Seen:
    """A frame, and EDVR's features where it comes with its neighbours."""
    is_key = frames.shape[1] > 1
    if is_key:
      frame = padded(frames[:, self.temporal_padding])
      refill = self._refill(frames)
    else:
      frame = padded(frames[:, 0])
      refill = self.begin(_Seen(frame, frame, frame))
    return _Seen(frame, refill, jnp.full((len(frame),), is_key))

  def look_all(self, clip: Float[Array, "t b h w c"]) -> _Seen:
    """As `look`, at every frame; EDVR at key frames alone."""
    count = len(clip)
    sources = [self.sources(i, count) for i in range(count)]
    keys = [i for i in range(count) if len(sources[i]) > 1]
    windows = jnp.take(clip, np.asarray([sources[i] for i in keys]), axis=0)
    refills = self.in_chunks(
      lambda self, frames: self._refill(frames),
      windows.swapaxes(1, 2),
      sows=True,
    )
    nearest = np.searchsorted(keys, np.arange(count))
    is_key = np.isin(np.arange(count), keys)[:, None]
    return _Seen(
      padded(clip),
      jnp.take(refills, nearest, axis=0),
      jnp.broadcast_to(is_key, clip.shape[:2]),
    )

  def _refill(self, frames: Float[Array, "b n h w c"]) -> Array:
    return self.edvr(padded(frames))

  def begin(self, seen: _Seen) -> Float[Array, "b h w d"]:
    """No features."""
    return jnp.zeros((*seen.frame.shape[:3], self.num_features), self.dtype)

  def step(
    self, number: int, carry: Float[Array, "b h w d"], frame: FrameInputs
  ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w d"]]:
    """As BasicVSR's, with the refill before the trunk."""
    trunk = (self.backward_trunk, self.forward_trunk)[number]
    fusion = (self.backward_fusion, self.forward_fusion)[number]
    seen: _Seen = frame.seen
    features = flow_warp(carry, frame.flow)
    mixed = fusion(beside(features, seen.refill))
    features = jnp.where(seen.is_key[:, None, None, None], mixed, features)
    features = trunk(beside(seen.frame, *frame.earlier, features))
    return features, features

  def reconstruct(
    self,
    frame: Float[Array, "b h w c"],
    seen: _Seen,
    features: tuple[Array, ...],
  ) -> Float[Array, "b h2 w2 c"]:
    """The forward pass's features enlarged."""
    h, w = frame.shape[1:3]
    sr = self.enlargement(features[-1]) + enlarged(seen.frame)
    return sr[:, : h * self.scale, : w * self.scale]
