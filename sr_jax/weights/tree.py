"""linen variables as a flat dict of arrays, checked against a network."""

import functools
import types
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

# What a description may ask for: tracing a network takes time for each layer,
# and the matrices of an interpolation take memory.
_MAX_LENGTH = 32
_LIMITS = {
  **{"scale": 16, "blocks": 256, "frames": 256, "padding": 256},
  "projections": 256,
}
_LIMIT = 1 << 14


def flatten(variables: Variables) -> Flat:
  """The arrays of a tree by their path, on the host."""
  flat = traverse_util.flatten_dict(_plain(variables), sep="/")
  return {path: np.asarray(value) for path, value in flat.items()}


def unflatten(flat: Flat) -> dict[str, Any]:
  """The inverse of `flatten`, as JAX arrays: ready for `model.apply`."""
  arrays = {path: jnp.asarray(value) for path, value in flat.items()}
  return traverse_util.unflatten_dict(arrays, sep="/")


def shapes(model: Any) -> Mapping[str, tuple[int, ...]]:
  """The shape of every variable of a network, by path; nothing is computed."""
  try:
    hash(model)
  except TypeError:  # it was given a list for a tuple
    return _shapes.__wrapped__(model)
  return _shapes(model)


@functools.lru_cache(maxsize=32)  # tracing a large network takes seconds
def _shapes(model: Any) -> Mapping[str, tuple[int, ...]]:
  tree = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(model))
  flat: dict[str, Any] = traverse_util.flatten_dict(_plain(tree), sep="/")
  return types.MappingProxyType(
    {path: tuple(leaf.shape) for path, leaf in flat.items()}
  )


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


def check_arguments(arguments: Mapping[str, Any]) -> None:
  """Refuses sizes that no network has, before one is built.

  Raises:
    ValueError: names the argument.
  """
  for key, value in arguments.items():
    limit = _LIMITS.get(key.rpartition("_")[-1], _LIMIT)
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > _MAX_LENGTH:
      raise ValueError(f"'{key}' has {len(values)} parts")
    for number in values:
      if isinstance(number, int) and abs(number) > limit:
        raise ValueError(f"{str(number)[:20]} is no '{key}'; {limit} at most")


def _some(keys: list[str], limit: int = 8) -> str:
  rest = len(keys) - limit
  return ", ".join(keys[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _plain(tree: Any) -> Any:
  """Nested dicts, whatever mappings (FrozenDict) the tree is made of."""
  if isinstance(tree, Mapping):
    return {key: _plain(value) for key, value in tree.items()}
  return tree
