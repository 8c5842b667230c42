"""PyTorch state dicts to linen variables and back, exactly.

PyTorch itself is not needed: a state dict is a mapping of name to array, as
`{k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}` makes
it. What the arrays of each network are called is in `torch_names.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sr_jax.models import describe
from sr_jax.types import Variables
from sr_jax.weights import tree
from sr_jax.weights.torch_names import Entry, entries

# kind of an entry -> the axes of the linen array, out of PyTorch's.
_AXES: dict[str, tuple[int, ...]] = {
  "conv": (2, 3, 1, 0),  # OIHW -> HWIO
  "conv_transpose": (2, 3, 0, 1),  # IOHW -> HWIO, not flipped: see ops.conv
  "vector": (0,),
}

# Checkpoints nest the state dict, and trainers prefix its names.
_WRAPPERS = ("params_ema", "params", "state_dict")
_PREFIXES = ("module.", "generator.")


def from_torch(model: Any, state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Linen variables from a BasicSR- or MMagic-style state dict.

  Args:
    model: The network that the weights are for.
    state_dict: Name -> array. A checkpoint around it is unwrapped: BasicSR's
      `params_ema` (preferred) or `params`, MMagic's `state_dict`, the prefixes
      `generator.` (what else a GAN's checkpoint holds is left) and `module.`.

  Returns:
    `{"params": ...}` in float32, ready for `model.apply`.

  Raises:
    ValueError: names or shapes do not fit the model one to one (the message
      lists the missing and the unexpected), or the network has no PyTorch
      counterpart.

  Source: layouts of `torch.nn.Conv2d`, `ConvTranspose2d`, `PReLU`.
  """
  table, want = _table(model)
  arrays = {
    key: np.asarray(value, np.float32)
    for key, value in _unwrap(state_dict).items()
  }
  tree.check(
    {key: value.shape for key, value in arrays.items()},
    want,
    what=f"state_dict does not fit {describe(model)}",
    fix="Check the model's arguments and the names the checkpoint uses",
  )
  return tree.unflatten(
    {e.path: arrays[e.key].transpose(_AXES[e.kind]) for e in table}
  )


def to_torch(model: Any, variables: Variables) -> dict[str, np.ndarray]:
  """The inverse of `from_torch`: a state dict with the reference's names.

  Args:
    model: The network.
    variables: Its variables.

  Returns:
    Name -> array, in the order PyTorch lists them. `torch.from_numpy` takes
    each as it is.

  Raises:
    ValueError: the variables are not this model's, or the network has no
      PyTorch counterpart.

  Source: as `from_torch`.
  """
  table, _ = _table(model)
  flat = tree.flatten(variables)
  tree.check(
    {path: value.shape for path, value in flat.items()},
    tree.shapes(model),
    what=f"variables do not fit {describe(model)}",
    fix="Give the model that they were made with",
  )
  return {
    e.key: flat[e.path].transpose(np.argsort(_AXES[e.kind])).copy()
    for e in table
  }


def _table(
  model: Any,
) -> tuple[list[Entry], dict[str, tuple[int, ...]]]:
  """The entries of a network, and the shape PyTorch has each in."""
  table, shapes = entries(model), tree.shapes(model)
  return table, {
    e.key: tuple(shapes[e.path][i] for i in np.argsort(_AXES[e.kind]))
    for e in table
  }


def _unwrap(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
  for wrapper in _WRAPPERS:
    if isinstance(state_dict.get(wrapper), Mapping):
      return _unwrap(state_dict[wrapper])
  for prefix in _PREFIXES:
    inside = {
      key.removeprefix(prefix): value
      for key, value in state_dict.items()
      if key.startswith(prefix)
    }
    if inside:
      return _unwrap(inside)
  return state_dict
