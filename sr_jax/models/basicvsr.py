"""BasicVSR (Chan et al., CVPR 2021): what a recurrent network needs."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.alignment import leaky
from sr_jax.models.layers import Conv, torch_init
from sr_jax.models.recurrent import (
  Enlargement,
  FrameInputs,
  RecurrentNetwork,
  ResidualTrunk,
  beside,
  enlarged,
)
from sr_jax.models.spynet import SPyNet
from sr_jax.ops.warp import flow_warp


class BasicVSR(RecurrentNetwork, kw_only=True):
  """A pass backwards and one forwards, features warped from frame to frame.

  Attributes:
    num_features: Channels of the features.
    num_blocks: Residual blocks of a pass.
    spynet_widths: Of the flow network.
    remat: Compute what is inside of a frame's step anew in the backward pass.
    dtype: Of the computation; parameters, flow and the output are float32.

  Source: Chan et al. 2021, fig. 2; BasicSR `BasicVSR`.
  """

  num_features: int = 64
  num_blocks: int = 30
  spynet_widths: Sequence[int] = (32, 64, 32, 16)
  remat: bool = False
  dtype: Any = jnp.float32

  def setup(self) -> None:
    self.spynet = SPyNet(widths=self.spynet_widths, dtype=self.dtype)
    self.backward_trunk, self.forward_trunk = (
      ResidualTrunk(
        num_features=self.num_features,
        num_blocks=self.num_blocks,
        dtype=self.dtype,
      )
      for _ in range(2)
    )
    self.fusion = Conv(
      self.num_features, 1, kernel_init=torch_init(), dtype=self.dtype
    )
    self.enlargement = Enlargement(dtype=self.dtype)

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
