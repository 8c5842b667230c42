"""ncnn's files, `NAME.param` (the graph, text) and `NAME.bin` (the weights)."""

from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sr_jax.models import build
from sr_jax.weights.torch import from_torch

#: What the text begins with.
MAGIC = b"7767517"

_FP16 = 0x01306B47
_FP32 = 0
# The largest known here has 0.1 MB; as Python objects it is fifty times that.
_MAX_TEXT = 1 << 20
# A number this far below zero announces a list.
_LIST_KEYS = -23300
# Layers without weights. Of any other it is not known what the .bin has.
_WEIGHTLESS = frozenset(
  (
    *("Input", "Split", "Concat", "Slice", "Crop", "Reshape", "Permute"),
    *("Eltwise", "BinaryOp", "UnaryOp", "Interp", "PixelShuffle", "Reorg"),
    *("ReLU", "Sigmoid", "TanH", "Clip", "Pooling", "Dropout", "Noop"),
  )
)

# Numbers that a text may leave out: their defaults are what RRDBNet has.
_OPTIONAL = {
  "Convolution": (2, 3, 11, 12, 13, 14, 15, 16, 18),
  "BinaryOp": (0, 1),
  "Concat": (0,),
}

Value = int | float | list[int | float]


class Layer(NamedTuple):
  """One line of the text, and its weights: `weight` (OIHW) and `bias`."""

  kind: str
  name: str
  params: dict[int, Value]
  arrays: dict[str, np.ndarray]


class _Node(NamedTuple):
  layer: Layer
  inputs: list[str]
  outputs: list[str]


def read_ncnn(path: epath.PathLike) -> list[Layer]:
  """The layers of an ncnn network, in order, with their weights in float32.

  Args:
    path: Of the `.param` or of the `.bin`; the other lies beside it.

  Returns:
    Layers. Convolutions (fp32 or fp16) have weights.

  Raises:
    FileNotFoundError: one of the two is not there.
    ValueError: not ncnn's text, a layer or a format of weights that is not
      known here, or a .bin that does not fit the text to the byte.

  Source: ncnn, `docs/developer-guide/param-and-model-file-structure.md`.
  """
  return [node.layer for node in _read(path)]


def load_ncnn(path: epath.PathLike) -> tuple[Any, dict[str, Any]]:
  """The network in ncnn's files: RRDBNet x4 of any width and depth.

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
  nodes = _read(path)
  try:
    arguments, state_dict = _Walk(nodes).rrdbnet()
  except ValueError as error:
    raise ValueError(
      f"{path} is not an RRDBNet x4, the only network read from ncnn: {error}. "
      "sr_jax.weights.read_ncnn gives its layers as they are"
    ) from error
  model = build("rrdbnet", scale=4, **arguments)
  return model, from_torch(model, state_dict)


def _read(path: epath.PathLike) -> list[_Node]:
  path = epath.Path(path).expanduser()
  text, weights = path.with_suffix(".param"), path.with_suffix(".bin")
  if path.suffix not in (".param", ".bin"):
    text = path
  for file in (text, weights):
    if not file.is_file():
      raise FileNotFoundError(
        f"there is no {file}; ncnn's two files lie side by side, as NAME.param "
        "and NAME.bin"
      )
  try:
    nodes = _parse(text.read_bytes())
  except ValueError as error:
    raise ValueError(
      f"{text} is not a readable ncnn text ({str(error)[:300]}); it may be "
      "damaged or cut short: fetch it again"
    ) from error
  _Weights(weights).fill(nodes)
  return nodes


def _parse(data: bytes) -> list[_Node]:
  """Lines of: type, name, numbers of inputs and outputs, these, key=value."""
  if len(data) > _MAX_TEXT:
    raise ValueError(f"it has {len(data)} bytes, over {_MAX_TEXT}")
  magic, counts, *lines = data.decode("ascii").rstrip().splitlines()
  if magic.strip() != MAGIC.decode():
    raise ValueError(f"it does not begin with {MAGIC.decode()}")
  count, _ = map(int, counts.split())
  if count != len(lines):
    raise ValueError(f"it has {len(lines)} layers, and says {count}")
  nodes = []
  for number, line in enumerate(lines, start=3):
    try:
      kind, name, inputs, outputs, *rest = line.split()
      ends = [int(inputs), int(inputs) + int(outputs)]
      if not 0 <= ends[0] <= ends[1] <= len(rest):
        raise ValueError("the inputs and outputs are not all there")
      params = dict(map(_param, rest[ends[1] :]))
    except ValueError as error:
      raise ValueError(f"line {number}: {error}") from error
    layer = Layer(kind, name, params, {})
    nodes.append(_Node(layer, rest[: ends[0]], rest[ends[0] : ends[1]]))
  return nodes


def _param(text: str) -> tuple[int, Value]:
  """`0=64`, or a list with its length first: `-23310=1,0.2`."""
  key, value = text.split("=")
  if int(key) > _LIST_KEYS:
    return int(key), _number(value)
  length, *values = map(_number, value.split(","))
  if length != len(values):
    raise ValueError(f"the list {text[:80]} has another length")
  return _LIST_KEYS - int(key), values


def _number(text: str) -> int | float:
  try:
    value = int(text)
  except ValueError:
    return float(text)
  if abs(value) >= 1 << 31:
    raise ValueError(f"{value} is no 32-bit integer")
  return value


class _Weights:
  """The `.bin`: the arrays one after the other, as the text says."""

  def __init__(self, path: epath.Path):
    self._path = path
    self._data = memoryview(path.read_bytes())
    self._at = 0

  def fill(self, nodes: list[_Node]) -> None:
    """Gives every layer its arrays; nothing is left over."""
    for layer, _, _ in nodes:
      if layer.kind == "Convolution":
        self._convolution(layer)
      elif layer.kind not in _WEIGHTLESS:
        raise ValueError(
          f"{self._path}: layer '{layer.name}' is of type {layer.kind[:80]}, "
          "whose weights are not known here; Convolution is, and layers "
          f"without weights: {sorted(_WEIGHTLESS)}"
        )
    rest = len(self._data) - self._at
    if rest:
      raise self._unfit(f"{rest} bytes are left over")

  def _convolution(self, layer: Layer) -> None:
    features, width, size = (_count(layer, key) for key in (0, 1, 6))
    height = _count(layer, 11, width)
    channels, rest = divmod(size, features * width * height)
    if rest or not channels:
      raise ValueError(
        f"{self._path}: layer '{layer.name}' has {size} weights, which is no "
        f"multiple of {features} x {height} x {width}"
      )
    (flag,) = np.frombuffer(self._take(4, layer), "<u4").tolist()
    if flag not in (_FP16, _FP32) or layer.params.get(8):
      raise ValueError(
        f"{self._path}: the weights of layer '{layer.name}' are quantised "
        f"(flag {flag:#010x}) or damaged; convert the network with fp32 or fp16"
      )
    dtype = np.dtype("<f2" if flag == _FP16 else "<f4")
    blob = self._take(size * dtype.itemsize, layer)
    self._take(-len(blob) % 4, layer)
    with np.errstate(invalid="ignore"):  # NaNs of a damaged file stay NaNs
      weight = np.frombuffer(blob, dtype).astype(np.float32)
    layer.arrays["weight"] = weight.reshape(features, channels, height, width)
    if layer.params.get(5):
      blob = self._take(4 * features, layer)
      layer.arrays["bias"] = np.frombuffer(blob, "<f4").astype(np.float32)

  def _take(self, size: int, layer: Layer) -> memoryview:
    start, self._at = self._at, self._at + size
    if self._at > len(self._data):
      raise self._unfit(f"it ends within layer '{layer.name}'")
    return self._data[start : self._at]

  def _unfit(self, what: str) -> ValueError:
    return ValueError(
      f"{self._path} does not fit its .param: {what}. The two files must be of "
      "one network, and whole: fetch them again"
    )


def _count(layer: Layer, key: int, default: int = 0) -> int:
  value = layer.params.get(key, default)
  if not isinstance(value, int) or value < 1:
    raise ValueError(
      f"layer '{layer.name}': its number {key} is {str(value)[:80]}, not a "
      "positive integer; the .param may be damaged: fetch it again"
    )
  return value


class _Walk:
  """Goes along the graph and compares each layer with what must come."""

  def __init__(self, nodes: list[_Node]):
    self._same = {}  # copies of a blob, as Split makes them
    self._nodes: list[_Node] = []
    for node in nodes:
      inputs = [self._same.get(blob, blob) for blob in node.inputs]
      if node.layer.kind == "Split" and len(inputs) == 1:
        self._same.update(dict.fromkeys(node.outputs, inputs[0]))
      else:
        self._nodes.append(_Node(node.layer, inputs, node.outputs))
    self._at = 0
    self._state_dict: dict[str, np.ndarray] = {}

  def rrdbnet(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
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
    if self._at < len(self._nodes):
      raise self._unlike(self._nodes[self._at], "nothing")
    if not blocks:
      raise ValueError("it has no dense blocks")
    shapes = {key: value.shape for key, value in self._state_dict.items()}
    return {
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

  def _leaky(self, node: _Node) -> bool:
    params = node.layer.params
    return (
      node.layer.kind == "Convolution"
      and params.get(9) == 2
      and _close(params.get(10), [0.2])
    )

  def _peek(self) -> _Node:
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

  def _unlike(self, node: _Node, want: str) -> ValueError:
    return ValueError(
      f"layer '{node.layer.name}' is a {node.layer.kind} of "
      f"{', '.join(node.inputs)[:200]} where it has {want}"
    )


def _close(given: Any, value: Any) -> bool:
  if given is None or np.shape(given) != np.shape(value):
    return False
  return bool(np.allclose(given, value))
