"""A run that begins from the parameters of another."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax.evaluation.networks import load_network
from sr_jax.training.optimizers import Freeze
from sr_jax.training.state import TrainState


def warm_start(
  state: TrainState, source: str, *, freeze: Sequence[Freeze] = ()
) -> tuple[TrainState, list[str]]:
  """Takes over what has the same path and shape in another network.

  Parameters, and the running statistics of BatchNorm.

  Args:
    state: Of the new run, at step 0.
    source: A weight file, or the workdir of a run.
    freeze: Of the new run's optimizer.

  Returns:
    The state, its moving average begun anew, and the paths of the parameters
    that were not found.

  Raises:
    FileNotFoundError: no such file, or no weights in the workdir.
    ValueError: less than half is there, or what is not would stay frozen.
  """
  variables = load_network(source).variables
  given = dict(_by_path(variables.get("params", {})))
  given_stats = dict(_by_path(variables.get("batch_stats", {})))
  params = state.generator.params
  missing = [
    path
    for path, leaf in _by_path(params)
    if path not in given or given[path].shape != leaf.shape
  ]
  frozen = any(
    start == 0 and re.search(pattern, path)
    for path in missing
    for pattern, start, _ in freeze
  )
  if frozen or 2 * len(missing) > len(jax.tree.leaves(params)):
    raise ValueError(
      f"config.init_from '{source}' is of another network: {missing} are not "
      "in it, or of another shape"
      f"{', and would be frozen as they begin' if frozen else ''}"
    )

  def taken(given: dict[str, Any], tree: Any) -> Any:
    def leaf(path: Any, x: jax.Array) -> jax.Array:
      found = given.get(_text(path))
      if found is None or found.shape != x.shape:
        return x
      value = np.asarray(found)
      return jax.make_array_from_callback(
        x.shape, x.sharding, lambda index: value[index]
      )

    return jax.tree_util.tree_map_with_path(leaf, tree)

  params = taken(given, params)
  net = state.generator.replace(
    params=params, batch_stats=taken(given_stats, state.generator.batch_stats)
  )
  if net.ema_params is not None:
    net = net.replace(ema_params=jax.tree.map(jnp.copy, params))
  return state.replace(generator=net), missing


def _text(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(tree: Any) -> list[tuple[str, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [(_text(path), leaf) for path, leaf in leaves]
