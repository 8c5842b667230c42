"""The networks that are read from ncnn's files."""

from typing import Any

import numpy as np
from etils import epath

from sr_jax.models import build
from sr_jax.weights import tree
from sr_jax.weights.ncnn import Node, read_nodes
from sr_jax.weights.torch import from_torch

_TITLES = {"rrdbnet": "RRDBNet x4", "srvggnet": "SRVGGNetCompact"}

# Numbers that a text may leave out: by default they are what is wanted here.
_OPTIONAL = {
  "Convolution": (2, 3, 11, 12, 13, 14, 15, 16, 18),
  "BinaryOp": (0, 1),
  "PixelShuffle": (1,),
  "Concat": (0,),
}


def load_ncnn(path: epath.PathLike) -> tuple[Any, dict[str, Any]]:
  """The network in ncnn's files, of any width and depth.

  RRDBNet x4 (ESRGAN, RealSR, Real-ESRGAN) and SRVGGNetCompact.

  Args:
    path: As `read_ncnn`.

  Returns:
    The model and its variables in float32.

  Raises:
    FileNotFoundError: as `read_ncnn`.
    ValueError: as `read_ncnn`, or another network; the message has the first
      layer that differs.

  Source: ncnn, as `read_ncnn`; BasicSR `RRDBNet`.
  """
  nodes = read_nodes(path)
  compact = any(node.layer.kind == "PReLU" for node in nodes)
  name = "srvggnet" if compact else "rrdbnet"
  walk = _Walk(nodes)
  try:
    arguments, state_dict = walk.srvggnet() if compact else walk.rrdbnet()
    tree.check_arguments(arguments)
    model = build(name, **arguments)
    return model, from_torch(model, state_dict)
  except ValueError as error:
    raise ValueError(
      f"{path} is neither of the networks that are read from ncnn: it is like "
      f"{_TITLES[name]}, but {error}. sr_jax.weights.read_ncnn gives its "
      "layers as they are"
    ) from error


class _Walk:
  """Goes along the graph and compares each layer with what must come."""

  def __init__(self, nodes: list[Node]):
    self._same = {}  # copies of a blob, as Split makes them
    self._nodes: list[Node] = []
    for node in nodes:
      inputs = [self._same.get(blob, blob) for blob in node.inputs]
      if node.layer.kind == "Split" and len(inputs) == 1:
        self._same.update(dict.fromkeys(node.outputs, inputs[0]))
      else:
        self._nodes.append(Node(node.layer, inputs, node.outputs))
    self._at = 0
    self._state_dict: dict[str, np.ndarray] = {}

  def srvggnet(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arguments of SRVGGNetCompact, and the weights by BasicSR's names."""
    lr = x = self._take("Input", [])
    layers = 0
    while self._peek().layer.kind == "Convolution":
      x = self._conv(f"body.{layers}", x, leaky=False)
      layers += 1
      if self._peek().layer.kind == "PReLU":
        slope = self._peek().layer.arrays["slope"]
        self._state_dict[f"body.{layers}.weight"] = slope
        x = self._take("PReLU", [x])
        layers += 1
    scale = self._peek().layer.params.get(0)
    x = self._take("PixelShuffle", [x], {0: scale, 1: 0})
    base = self._take("Interp", [lr], {0: 1, 1: scale, 2: scale})
    self._take("BinaryOp", [x, base], {0: 0})
    if self._at < len(self._nodes) and self._peek().layer.kind == "Interp":
      raise ValueError(
        f"layer '{self._peek().layer.name}' after it makes the image smaller "
        f"again; give the file for x{scale}, which is without"
      )
    self._end()
    shapes = {key: value.shape for key, value in self._state_dict.items()}
    features, channels = shapes["body.0.weight"][:2]
    return {
      "scale": scale,
      "in_channels": channels,
      "out_channels": channels,
      "num_features": features,
      "num_blocks": (layers - 3) // 2,
    }, self._state_dict

  def rrdbnet(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arguments of RRDBNet, and the weights by BasicSR's names."""
    x = self._take("Input", [])
    x = first = self._conv("conv_first", x, leaky=False)
    blocks = 0
    while self._leaky(self._peek()):
      x = self._block(f"body.{blocks}", x)
      blocks += 1
    x = self._conv("conv_body", x, leaky=False)
    x = self._take("BinaryOp", [first, x], {0: 0, 1: 0})
    for name in ("conv_up1", "conv_up2"):
      x = self._take("Interp", [x], {0: 1, 1: 2, 2: 2})
      x = self._conv(name, x, leaky=True)
    x = self._conv("conv_hr", x, leaky=True)
    self._conv("conv_last", x, leaky=False)
    self._end()
    if not blocks:
      raise ValueError("it has no dense blocks")
    shapes = {key: value.shape for key, value in self._state_dict.items()}
    return {
      "scale": 4,
      "in_channels": shapes["conv_first.weight"][1],
      "out_channels": shapes["conv_last.weight"][0],
      "num_features": shapes["conv_first.weight"][0],
      "num_blocks": blocks,
      "growth_features": shapes["body.0.rdb1.conv1.weight"][0],
    }, self._state_dict

  def _block(self, name: str, x: str) -> str:
    """Residual in residual: three dense blocks."""
    y = x
    for j in (1, 2, 3):
      features = [y]
      for k in range(1, 6):
        inputs = features[0]
        if k > 1:
          inputs = self._take("Concat", features, {0: 0}, ordered=True)
        out = self._conv(f"{name}.rdb{j}.conv{k}", inputs, leaky=k < 5)
        features.append(out)
      y = self._residual(features[-1], y)
    return self._residual(y, x)

  def _residual(self, branch: str, x: str) -> str:
    """0.2 branch + x, the two in any order."""
    node = self._peek()
    weights = [0.2 if blob == branch else 1.0 for blob in node.inputs]
    return self._take("Eltwise", [branch, x], {0: 1, 1: weights})

  def _conv(self, name: str, x: str, *, leaky: bool) -> str:
    """A 3x3 convolution that keeps the size."""
    node = self._peek()
    fixed = {1: 3, 2: 1, 3: 1, 4: 1, 5: 1, 11: 3, 12: 1, 13: 1, 14: 1}
    fixed |= {15: 1, 16: 1, 18: 0}
    out = self._take("Convolution", [x], fixed)
    if self._leaky(node) != leaky or (not leaky and node.layer.params.get(9)):
      how = "with" if leaky else "without"
      raise self._unlike(node, f"one {how} a LeakyReLU of 0.2")
    for key, value in node.layer.arrays.items():
      self._state_dict[f"{name}.{key}"] = value
    return out

  def _leaky(self, node: Node) -> bool:
    params = node.layer.params
    return (
      node.layer.kind == "Convolution"
      and params.get(9) == 2
      and _close(params.get(10), [0.2])
    )

  def _end(self) -> None:
    if self._at < len(self._nodes):
      raise self._unlike(self._nodes[self._at], "nothing more")

  def _peek(self) -> Node:
    if self._at == len(self._nodes):
      raise ValueError("it ends too early")
    return self._nodes[self._at]

  def _take(
    self,
    kind: str,
    inputs: list[str],
    params: dict[int, Any] | None = None,
    *,
    ordered: bool = False,
  ) -> str:
    """The one output of the next layer, which must be this one."""
    node = self._peek()
    self._at += 1
    have, want = list(node.inputs), list(inputs)
    if not ordered:
      have, want = sorted(have), sorted(want)
    if (node.layer.kind, have) != (kind, want) or len(node.outputs) != 1:
      raise self._unlike(node, f"{kind} of {', '.join(inputs) or 'nothing'}")
    for key, value in (params or {}).items():
      given = node.layer.params.get(key)
      if given is None and key in _OPTIONAL.get(kind, ()):
        continue
      if not _close(given, value):
        raise self._unlike(node, f"{kind} whose number {key} is {value}")
    return node.outputs[0]

  def _unlike(self, node: Node, want: str) -> ValueError:
    return ValueError(
      f"layer '{node.layer.name}' is a {node.layer.kind} of "
      f"{', '.join(node.inputs)[:200]} where it has {want}"
    )


def _close(given: Any, value: Any) -> bool:
  if given is None or np.shape(given) != np.shape(value):
    return False
  return bool(np.allclose(given, value))
