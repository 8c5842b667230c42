"""linen variables as a flat dict of arrays, checked against a network."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sr_jax.models import example_inputs
from sr_jax.types import Variables

#: `params/conv1/kernel` -> array.
Flat = dict[str, np.ndarray]


def flatten(variables: Variables) -> Flat:
  """The arrays of a tree by their path, on the host."""
  flat = traverse_util.flatten_dict(_plain(variables), sep="/")
  return {path: np.asarray(value) for path, value in flat.items()}


def unflatten(flat: Flat) -> dict[str, Any]:
  """The inverse of `flatten`, as JAX arrays: ready for `model.apply`."""
  arrays = {path: jnp.asarray(value) for path, value in flat.items()}
  return traverse_util.unflatten_dict(arrays, sep="/")


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
  """The shape of every variable of a network, by path; nothing is computed."""
  tree = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(model))
  flat: dict[str, Any] = traverse_util.flatten_dict(_plain(tree), sep="/")
  return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def check(
  have: Mapping[str, tuple[int, ...]],
  want: Mapping[str, tuple[int, ...]],
  *,
  what: str,
  fix: str,
) -> None:
  """Refuses names or shapes that are not the expected ones.

  Raises:
    ValueError: naming the missing, the unexpected, and the wrong in shape.
  """
  wrong = [
    f"{key} is {have[key]}, not {want[key]}"
    for key in want
    if key in have and have[key] != want[key]
  ]
  found = {
    "missing": [key for key in want if key not in have],
    "unexpected": [key for key in have if key not in want],
    "of another shape": wrong,
  }
  if any(found.values()):
    report = "; ".join(
      f"{label}: {_some(keys)}" for label, keys in found.items() if keys
    )
    raise ValueError(f"{what}: {report}. {fix}")


def _some(keys: list[str], limit: int = 8) -> str:
  rest = len(keys) - limit
  return ", ".join(keys[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _plain(tree: Any) -> Any:
  """Nested dicts, whatever mappings (FrozenDict) the tree is made of."""
  if isinstance(tree, Mapping):
    return {key: _plain(value) for key, value in tree.items()}
  return tree
