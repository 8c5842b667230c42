"""BasicVSR++ (Chan et al., CVPR 2022): second-order grid propagation."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.alignment import ModulatedDeformConv, leaky
from sr_jax.models.layers import Conv, torch_init
from sr_jax.models.recurrent import (
  FrameInputs,
  RecurrentNetwork,
  ResidualTrunk,
  beside,
  enlarged,
  padded,
)
from sr_jax.ops.resize import interpolate
from sr_jax.ops.warp import flow_warp

#: The passes, by the names that weights have.
PASSES = ("backward_1", "forward_1", "backward_2", "forward_2")

# Of the residual blocks before the passes and after them.
_OUTER_BLOCKS = 5


class SecondOrderAlignment(nn.Module, kw_only=True):
  """Deformable convolution of two frames' features, offsets on top of flow.

  Attributes:
    num_features: Channels of a frame's features.
    max_residue_magnitude: Offsets differ from the flow by no more pixels.
    deformable_groups: Of both frames' channels together.
    dtype: Of the computation; offsets are float32.

  Source: Chan et al. 2022, fig. 3; MMagic `SecondOrderDeformableAlignment`.
  """

  num_features: int
  max_residue_magnitude: float = 10.0
  deformable_groups: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    features: tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]],
    seen: Float[Array, "b h w d"],
    flows: tuple[Float[Array, "b h w 2"], Float[Array, "b h w 2"]],
  ) -> Float[Array, "b h w e"]:
    """Aligns to a frame.

    Args:
      features: Of the frame before and of the one before that.
      seen: Those two warped, and the frame's own between them.
      flows: From the frame to the two.
    """
    x = jnp.concatenate([seen, *(f.astype(seen.dtype) for f in flows)], axis=-1)
    taps = 9 * self.deformable_groups
    for i in range(4):
      last = i == 3
      x = Conv(
        3 * taps if last else self.num_features,
        3,
        kernel_init=nn.initializers.zeros if last else torch_init(),
        dtype=jnp.float32 if last else self.dtype,
        name=f"conv_offset{i}",
      )(x)
      x = x if last else leaky(x)
    offset, mask = x[..., : 2 * taps].astype(jnp.float32), x[..., 2 * taps :]
    offset = self.max_residue_magnitude * jnp.tanh(offset)
    # (dy, dx) of every tap; the first half of the groups is the frame before.
    base = [jnp.tile(flow[..., ::-1], taps // 2) for flow in flows]
    return ModulatedDeformConv(
      self.num_features,
      deformable_groups=self.deformable_groups,
      dtype=self.dtype,
      name="dcn",
    )(
      jnp.concatenate(features, axis=-1),
      offset + jnp.concatenate(base, axis=-1),
      nn.sigmoid(mask),
    )


class _FrameEncoder(nn.Module):
  """A frame to features; large frames to a quarter of their size."""

  num_features: int
  is_low_res_input: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    for i in () if self.is_low_res_input else (0, 1):
      x = Conv(
        self.num_features,
        3,
        2,
        kernel_init=torch_init(),
        dtype=self.dtype,
        name=f"conv{i}",
      )(x)
      x = leaky(x)
    return ResidualTrunk(
      num_features=self.num_features,
      num_blocks=_OUTER_BLOCKS,
      dtype=self.dtype,
      name="trunk",
    )(x)


class _Carry(NamedTuple):
  """Features of the frame before and the one before that, and its flow."""

  first: Array
  second: Array
  flow: Array


class BasicVSRPlusPlus(RecurrentNetwork, kw_only=True):
  """Four passes, each aligned to two frames by deformable convolution.

  Attributes:
    num_features: Channels of the features; a multiple of 8, since both frames'
      are aligned in 16 groups.
    num_blocks: Residual blocks of a pass; what is not here is
      `RecurrentNetwork`'s.
    max_residue_magnitude: Pixels that offsets may differ from the flow.
    is_low_res_input: Enlarge by four; else the clip keeps its size
      (restoration), and is made small inside. Then sides that are no multiple
      of 4 are mirrored at the bottom and right, and the result is cropped.

  Source: Chan et al. 2022, fig. 2; BasicSR `BasicVSRPlusPlus`.
  """

  num_blocks: int = 7
  max_residue_magnitude: float = 10.0
  is_low_res_input: bool = True

  def setup(self) -> None:
    if self.num_features % 8:
      raise ValueError(
        f"BasicVSRPlusPlus.num_features {self.num_features} is not a multiple "
        "of 8: two frames' features are aligned in 16 groups"
      )
    super().setup()
    width, dtype = self.num_features, self.dtype
    self.feat_extract = _FrameEncoder(width, self.is_low_res_input, dtype)
    self.deform_align = {
      name: SecondOrderAlignment(
        num_features=width,
        max_residue_magnitude=self.max_residue_magnitude,
        dtype=dtype,
      )
      for name in PASSES
    }
    self.backbone = {name: self.trunk(self.num_blocks) for name in PASSES}
    self.reconstruction = self.trunk(_OUTER_BLOCKS)

  @property
  def scale(self) -> int:
    """Enlargement: 4, or none."""
    return 4 if self.is_low_res_input else 1

  @property
  def passes_sow(self) -> bool:
    """The offsets of its alignment."""
    return True

  @property
  def directions(self) -> tuple[str, ...]:
    """Of the passes."""
    return tuple(name.split("_")[0] for name in PASSES)

  def flow(
    self, ref: Float[Array, "b h w c"], supp: Float[Array, "b h w c"]
  ) -> Float[Array, "b h2 w2 2"]:
    """At the size of the features."""
    if self.is_low_res_input:
      return self.spynet(ref, supp)
    small = [
      jnp.asarray(interpolate(padded(x), 0.25, method="bicubic"))
      for x in (ref, supp)
    ]
    return self.spynet(*small)

  def look(self, frames: Float[Array, "b n h w c"]) -> Float[Array, "b _ _ d"]:
    """A frame's own features."""
    frame = frames[:, 0]
    return self.feat_extract(frame if self.is_low_res_input else padded(frame))

  def begin(self, seen: Float[Array, "b h w d"]) -> _Carry:
    """No features, no flow."""
    none = jnp.zeros_like(seen)
    return _Carry(none, none, jnp.zeros((*seen.shape[:3], 2)))

  def step(
    self, number: int, carry: _Carry, frame: FrameInputs
  ) -> tuple[_Carry, Float[Array, "b h w d"]]:
    """Two frames' features aligned to this one's, and a residual of all."""
    name = PASSES[number]
    seen: Array = frame.seen
    flow = frame.flow
    # Of the second frame there is none before the third.
    far = jnp.where(
      frame.order > 1, flow + flow_warp(carry.flow, flow), jnp.zeros_like(flow)
    )
    warped = flow_warp(carry.first, flow), flow_warp(carry.second, far)
    aligned = self.deform_align[name](
      (carry.first, carry.second),
      beside(warped[0], seen, warped[1]),
      (flow, far),
    )
    aligned = jnp.where(frame.order > 0, aligned, jnp.zeros_like(aligned))
    features = aligned + self.backbone[name](
      beside(seen, *frame.earlier, aligned)
    )
    return _Carry(features, carry.first, flow), features

  def reconstruct(
    self,
    frame: Float[Array, "b h w c"],
    seen: Float[Array, "b _ _ d"],
    features: tuple[Array, ...],
  ) -> Float[Array, "b h2 w2 c"]:
    """What all passes left there, through blocks, enlarged."""
    x = self.enlargement(self.reconstruction(beside(seen, *features)))
    h, w = frame.shape[1:3]
    if self.is_low_res_input:
      return x + enlarged(frame)
    return x[:, :h, :w] + frame
