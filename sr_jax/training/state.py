"""What a run is made of at one step: arrays only, no functions."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sr_jax.types import Variables


class NetState(flax.struct.PyTreeNode):
  """One network and its optimizer.

  Attributes:
    params: float32 parameters.
    batch_stats: Running statistics; empty where the network has none.
    opt_state: optax state.
    ema_params: Moving average of `params`, or None.
  """

  params: Any
  batch_stats: Any
  opt_state: Any
  ema_params: Any = None

  @classmethod
  def create(
    cls,
    variables: Variables,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
  ) -> "NetState":
    """At step 0: the average begins as a copy of the parameters."""
    params = variables["params"]
    return cls(
      params=params,
      batch_stats=variables.get("batch_stats", {}),
      opt_state=optimizer.init(params),
      # A copy, since the step donates both.
      ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )

  @property
  def variables(self) -> dict[str, Any]:
    """What to evaluate and to ship: the average where there is one."""
    params = self.params if self.ema_params is None else self.ema_params
    variables = {"params": params}
    if self.batch_stats:
      variables["batch_stats"] = self.batch_stats
    return variables


class TrainState(flax.struct.PyTreeNode):
  """The whole run.

  The fields are trees, of arrays or of their shapes or shardings.

  Attributes:
    step: int32, updates made or skipped.
    generator: A `NetState`.
    discriminator: Another; None means plain regression.
  """

  step: Any
  generator: Any
  discriminator: Any = None
