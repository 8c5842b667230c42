"""What each network's arrays are called in PyTorch.

One function a network lists its entries: path in linen, name in PyTorch, and
the kind of array, which decides the order of the axes. To add a network, write
one and put it into `_NETWORKS`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from sr_jax.models import FSRCNN, SRCNN


class Entry(NamedTuple):
  """One array in both worlds."""

  path: str  # "params/conv1/kernel"
  key: str  # "conv1.weight"
  kind: str  # a key of torch._AXES


def _layer(path: str, key: str, kind: str = "conv") -> list[Entry]:
  """A convolution with its bias."""
  return [
    Entry(f"params/{path}/kernel", f"{key}.weight", kind),
    Entry(f"params/{path}/bias", f"{key}.bias", "vector"),
  ]


def _srcnn(model: SRCNN) -> list[Entry]:
  """Source: MMagic `SRCNNNet`."""
  return [e for i in (1, 2, 3) for e in _layer(f"conv{i}", f"conv{i}")]


def _fsrcnn(model: FSRCNN) -> list[Entry]:
  """Source: yjn870/FSRCNN-pytorch, `models.py`."""
  # Two nn.Sequential in which convolution and PReLU alternate.
  middle = ["shrink", *(f"map_{i}" for i in range(model.num_blocks)), "expand"]
  places = [("feature", "first_part", 0)]
  places += [(name, "mid_part", 2 * i) for i, name in enumerate(middle)]
  table = []
  for name, part, i in places:
    table += _layer(name, f"{part}.{i}")
    slope = f"{part}.{i + 1}.weight"
    table.append(Entry(f"params/{name}_act/slope", slope, "vector"))
  return table + _layer("deconv", "last_part", "conv_transpose")


_NETWORKS: dict[type, Callable[..., list[Entry]]] = {
  FSRCNN: _fsrcnn,
  SRCNN: _srcnn,
}


def entries(model: Any) -> list[Entry]:
  """Every array of a network, in PyTorch's order.

  Raises:
    ValueError: the network's names in PyTorch are not known.
  """
  if type(model) not in _NETWORKS:
    known = sorted(kind.__name__ for kind in _NETWORKS)
    raise ValueError(
      f"the PyTorch names of {type(model).__name__} are not known, only those "
      f"of {known}; add them to sr_jax/weights/torch_names.py"
    )
  return _NETWORKS[type(model)](model)
