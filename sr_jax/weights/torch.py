"""PyTorch state dicts to linen variables and back, exactly.

PyTorch itself is not needed: a state dict is a mapping of name to array, as
`{k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}` makes
it. What the arrays of each network are called is in `torch_names.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sr_jax.models import describe
from sr_jax.types import Variables
from sr_jax.weights import tree
from sr_jax.weights.torch_entries import Entry
from sr_jax.weights.torch_names import entries, rename

_Array = np.ndarray


class _Kind(NamedTuple):
  """How an array lies in PyTorch, and here."""

  to_torch: Callable[[_Array], _Array]
  from_torch: Callable[[_Array, tuple[int, ...]], _Array]  # with its shape here


def _transposed(*axes: int) -> _Kind:
  """The axes of the linen array, out of PyTorch's."""
  back = np.argsort(axes)
  return _Kind(lambda x: x.transpose(back), lambda x, _: x.transpose(axes))


def _flat_to_torch(x: _Array) -> _Array:
  return x.transpose(3, 2, 0, 1).reshape(x.shape[3], -1)


def _flat_from_torch(x: _Array, shape: tuple[int, ...]) -> _Array:
  h, w, c, out = shape
  return x.reshape(out, c, h, w).transpose(2, 3, 1, 0)


KINDS: dict[str, _Kind] = {
  "conv": _transposed(2, 3, 1, 0),  # OIHW -> HWIO
  # IOHW -> HWIO, not flipped: see ops.conv
  "conv_transpose": _transposed(2, 3, 0, 1),
  "linear": _transposed(1, 0),
  # A dense layer on a feature map, which PyTorch flattens as CHW.
  "flat": _Kind(_flat_to_torch, _flat_from_torch),
  "vector": _transposed(0),
  # A number that old checkpoints lack.
  "count": _Kind(lambda x: x.astype(np.int64), lambda x, _: x.astype(np.int32)),
}


def _constant(e: Entry) -> _Array:
  return np.asarray(e.value, np.float32)[None, :, None, None]


# Checkpoints nest the state dict, and trainers prefix its names.
_WRAPPERS = ("params_ema", "params", "state_dict")
_PREFIXES = ("module.", "generator_ema.", "generator.")
_MAX_WRAPPED, _MAX_NAMES = 8, 20_000


def from_torch(model: Any, state_dict: Mapping[Any, Any]) -> dict[str, Any]:
  """Linen variables from a BasicSR- or MMagic-style state dict.

  Args:
    model: The network that the weights are for.
    state_dict: Name -> array. A checkpoint around it is unwrapped: BasicSR's
      `params_ema` (preferred) or `params`, MMagic's `state_dict`, the prefixes
      `generator_ema.` (preferred) or `generator.` (what else a GAN's checkpoint
      holds is left) and `module.`.

  Returns:
    `{"params": ...}`, and `"batch_stats"` where the network has BatchNorm, in
    float32, ready for `model.apply`. Scanned blocks are stacked.

  Raises:
    ValueError: no mapping; names or shapes do not fit the model one to one (the
      message lists the missing and the unexpected); a constant of the network
      is another there; or the network has no PyTorch counterpart.

  Source: layouts of `torch.nn.Conv2d`, `ConvTranspose2d`, `PReLU`.
  """
  check_mapping(state_dict)
  table, shapes = entries(model), tree.shapes(model)
  arrays = {
    key: _array(key, value)
    for key, value in rename(model, unwrap(state_dict)).items()
  }
  for e in table:
    if e.kind == "count":
      arrays.setdefault(e.key, np.zeros((), np.int64))
    if e.kind == "constant":
      found = arrays.pop(e.key, _constant(e))
      if not np.allclose(np.ravel(found), np.ravel(_constant(e)), atol=1e-3):
        raise ValueError(
          f"{e.key} is {np.ravel(found).tolist()} in the state_dict, but "
          f"{type(model).__name__} computes with {list(e.value or ())}"
        )
  table = [e for e in table if e.kind != "constant"]
  tree.check(
    {key: value.shape for key, value in arrays.items()},
    {e.key: _torch_shape(e, shapes) for e in table},
    what=f"state_dict does not fit {describe(model)}",
    fix="Check the model's arguments and the names the checkpoint uses",
  )
  return _linen(table, arrays, shapes)


def matching_from_torch(
  model: Any, state_dict: Mapping[Any, Any], *, part: str = ""
) -> dict[str, Any]:
  """What of a state dict fits a network; the rest of both is left.

  Args:
    model: The network.
    state_dict: As for `from_torch`.
    part: First of the parameters' paths: only this part of the network is
      wanted, and the state dict may be of it alone: BasicSR's SpyNet for the
      "spynet" of a BasicVSR.

  Returns:
    As `from_torch`, without what is not there.

  Raises:
    ValueError: as `from_torch`, but for names and shapes.

  Source: as `from_torch`.
  """
  check_mapping(state_dict)
  shapes = tree.shapes(model)
  table = [
    e
    for e in entries(model)
    if e.kind != "constant" and part in ("", e.path.split("/")[1])
  ]
  given = unwrap(state_dict)
  if part and table:
    # What the network calls the part, before the names that it has alone.
    name = table[0].key.partition(".")[0] + "."
    given = {
      key if key.startswith(name) else name + key: value
      for key, value in given.items()
    }
  renamed = rename(model, given)
  arrays = {
    e.key: _array(e.key, renamed[e.key]) for e in table if e.key in renamed
  }
  fits = {
    e.key
    for e in table
    if e.key in arrays and arrays[e.key].shape == _torch_shape(e, shapes)
  }
  # Of a stack of blocks all or none.
  lacking = {e.path for e in table if e.key not in fits}
  return _linen([e for e in table if e.path not in lacking], arrays, shapes)


def check_mapping(state_dict: Any) -> None:
  """Refuses what a file may hold instead of names and arrays.

  Raises:
    ValueError: it is no mapping.
  """
  if not isinstance(state_dict, Mapping):
    raise ValueError(
      f"state_dict is a {type(state_dict).__name__}; the rule is a mapping of "
      "name to array, as torch.load or sr_jax.weights.read_pth gives it"
    )


def _linen(
  table: list[Entry],
  arrays: Mapping[str, _Array],
  shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
  """The arrays as they lie here."""
  flat: dict[str, Any] = {}
  for e in table:
    value = arrays[e.key]
    if e.kind != "count":
      with np.errstate(all="ignore"):  # what overflows float32 is infinite
        value = value.astype(np.float32)
    value = KINDS[e.kind].from_torch(value, _shape(e, shapes))
    if e.index is None:
      flat[e.path] = value
    else:  # the entries of a stack come in order
      flat.setdefault(e.path, []).append(value)
  return tree.unflatten(
    {k: np.stack(v) if isinstance(v, list) else v for k, v in flat.items()}
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
  table = entries(model)
  flat = tree.flatten(variables)
  tree.check(
    {path: value.shape for path, value in flat.items()},
    tree.shapes(model),
    what=f"variables do not fit {describe(model)}",
    fix="Give the model that they were made with",
  )
  state_dict = {}
  for e in table:
    if e.kind == "constant":
      state_dict[e.key] = _constant(e)
      continue
    value = flat[e.path] if e.index is None else flat[e.path][e.index]
    state_dict[e.key] = KINDS[e.kind].to_torch(value).copy()
  return state_dict


def _shape(e: Entry, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
  """Of the linen array of one entry, out of its stack."""
  return shapes[e.path] if e.index is None else shapes[e.path][1:]


def _torch_shape(
  e: Entry, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
  # A view of one zero: large networks would fill gigabytes.
  empty = np.broadcast_to(np.zeros((), np.int8), _shape(e, shapes))
  if e.kind == "flat":
    h, w, c, out = empty.shape
    return out, c * h * w
  return KINDS[e.kind].to_torch(empty).shape


def unwrap(state_dict: Mapping[Any, Any]) -> Mapping[Any, Any]:
  """The network's own names, out of what checkpoints put around them.

  Raises:
    ValueError: wrapped without end, more names than any network has, or one
      that is no text.
  """
  for _ in range(_MAX_WRAPPED):
    if len(state_dict) > _MAX_NAMES:
      raise ValueError(f"state_dict has {len(state_dict)} names: no network's")
    inside = _inside(state_dict)
    if inside is None:
      return state_dict
    state_dict = inside
  raise ValueError(f"state_dict is wrapped more than {_MAX_WRAPPED} times over")


def _inside(state_dict: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
  """What is in the outermost wrapper or prefix, if there is one."""
  for wrapper in _WRAPPERS:
    if isinstance(state_dict.get(wrapper), Mapping):
      return state_dict[wrapper]
  for key in state_dict:
    if not isinstance(key, str):
      raise ValueError(
        f"state_dict has {key!r} among its names; the rule is name to array"
      )
  for prefix in _PREFIXES:
    inside = {
      key.removeprefix(prefix): value
      for key, value in state_dict.items()
      if key.startswith(prefix)
    }
    if inside:
      return inside
  return None


def _array(key: str, value: Any) -> _Array:
  """A tensor's numbers; a file may have anything under its name."""
  # A list of arrays would be copied into one, as often as it names each.
  known = hasattr(value, "shape") or isinstance(value, int | float)
  array = np.asarray(value if known else None)
  kinds = (np.floating, np.integer, np.bool_)
  if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
    raise ValueError(
      f"{key} of the state_dict is no array of numbers, but a "
      f"{type(value).__name__}; leave it out"
    )
  if array.dtype.itemsize == 1 and array.ndim:
    raise ValueError(
      f"{key} of the state_dict is {array.dtype.name}, of which no network "
      "here is; give float32, or half precision"
    )
  return array
