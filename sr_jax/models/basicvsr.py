"""BasicVSR (Chan et al., CVPR 2021): what a recurrent network needs."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.alignment import leaky
from sr_jax.models.layers import Conv, torch_init
from sr_jax.models.recurrent import (
  FrameInputs,
  RecurrentNetwork,
  beside,
  enlarged,
)
from sr_jax.ops.warp import flow_warp


class BasicVSR(RecurrentNetwork, kw_only=True):
  """A pass backwards and one forwards, features warped from frame to frame.

  Attributes:
    num_blocks: Residual blocks of a pass; the others are `RecurrentNetwork`'s.

  Source: Chan et al. 2021, fig. 2; BasicSR `BasicVSR`.
  """

  num_blocks: int = 30

  def setup(self) -> None:
    super().setup()
    self.backward_trunk = self.trunk(self.num_blocks)
    self.forward_trunk = self.trunk(self.num_blocks)
    self.fusion = Conv(
      self.num_features, 1, kernel_init=torch_init(), dtype=self.dtype
    )

  @property
  def directions(self) -> tuple[str, ...]:
    """Of the passes."""
    return ("backward", "forward")

  def look_all(
    self, clip: Float[Array, "t b h w c"]
  ) -> Float[Array, "t b h w c"]:
    """The frames themselves."""
    return clip

  def begin(self, seen: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    """No features."""
    return jnp.zeros((*seen.shape[:3], self.num_features), self.dtype)

  def step(
    self, number: int, carry: Float[Array, "b h w d"], frame: FrameInputs
  ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w d"]]:
    """Features from where they were to where they are, then the trunk."""
    trunk = (self.backward_trunk, self.forward_trunk)[number]
    features = trunk(beside(frame.seen, flow_warp(carry, frame.flow)))
    return features, features

  def reconstruct(
    self,
    frame: Float[Array, "b h w c"],
    seen: Float[Array, "b h w c"],
    features: tuple[Array, ...],
  ) -> Float[Array, "b h2 w2 c"]:
    """Both passes' features fused and enlarged."""
    fused = leaky(self.fusion(beside(*features)))
    return self.enlargement(fused) + enlarged(frame)
