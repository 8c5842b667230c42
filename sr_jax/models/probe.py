"""What the layers of a network compute, one by one."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.core

from sr_jax.types import Variables


def feature_maps(
  model: nn.Module, variables: Variables, *inputs: jax.Array
) -> dict[str, jax.Array]:
  """The output of every convolution, in the order that they are computed in.

  Args:
    model: The network; it is run as it is, and not compiled.
    variables: Its variables.
    *inputs: What it takes.

  Returns:
    Layer -> `[b, h, w, c]`, before the activation, by the path of the layer
    (`features/conv_first`). One that is called again has its first output.
    Layers of blocks that are computed in a loop (`nn.scan`) are not there.

  Source: `flax.linen.intercept_methods`.
  """
  found: dict[str, jax.Array] = {}

  def watch(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    output = call(*args, **kwargs)
    layer = context.module
    if context.method_name == "__call__" and layer.has_variable(
      "params", "kernel"
    ):
      # In a loop there are no values, but what stands for those of each turn.
      known = isinstance(output, jax.Array) and not isinstance(
        output, jax.core.Tracer
      )
      if known and output.ndim == 4:
        found.setdefault("/".join(layer.path), output)
    return output

  with nn.intercept_methods(watch):
    model.apply(variables, *inputs)
  return found
