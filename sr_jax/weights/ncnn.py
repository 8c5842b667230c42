"""ncnn's files, `NAME.param` (the graph, text) and `NAME.bin` (the weights)."""

from typing import NamedTuple

import numpy as np
from etils import epath

from sr_jax.files import check_source

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

Value = int | float | list[int | float]


class Layer(NamedTuple):
  """One line of the text, and its weights: `weight` (OIHW), `bias`, `slope`."""

  kind: str
  name: str
  params: dict[int, Value]
  arrays: dict[str, np.ndarray]


class Node(NamedTuple):
  """A layer, and the names of what it takes and gives."""

  layer: Layer
  inputs: list[str]
  outputs: list[str]


def read_ncnn(path: epath.PathLike) -> list[Layer]:
  """The layers of an ncnn network, in order, with their weights in float32.

  Args:
    path: Of the `.param` or of the `.bin`; the other lies beside it.

  Returns:
    Layers. Convolutions (fp32 or fp16) and PReLUs have weights.

  Raises:
    FileNotFoundError: one of the two is not there.
    ValueError: not ncnn's text, a layer or a format of weights that is not
      known here, or a .bin that does not fit the text to the byte.

  Source: ncnn, `docs/developer-guide/param-and-model-file-structure.md`.
  """
  return [node.layer for node in read_nodes(path)]


def read_nodes(path: epath.PathLike) -> list[Node]:
  """As `read_ncnn`, with how the layers are connected."""
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
    check_source(file)
  try:
    nodes = _parse(text.read_bytes())
  except ValueError as error:
    raise ValueError(
      f"{text} is not a readable ncnn text ({str(error)[:300]}); it may be "
      "damaged or cut short: fetch it again"
    ) from error
  _Weights(weights).fill(nodes)
  return nodes


def _parse(data: bytes) -> list[Node]:
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
    nodes.append(Node(layer, rest[: ends[0]], rest[ends[0] : ends[1]]))
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

  def fill(self, nodes: list[Node]) -> None:
    """Gives every layer its arrays; nothing is left over."""
    for layer, _, _ in nodes:
      if layer.kind == "Convolution":
        self._convolution(layer)
      elif layer.kind == "PReLU":
        blob = self._take(4 * _count(layer, 0), layer)
        layer.arrays["slope"] = np.frombuffer(blob, "<f4").astype(np.float32)
      elif layer.kind not in _WEIGHTLESS:
        raise ValueError(
          f"{self._path}: layer '{layer.name}' is of type {layer.kind[:80]}, "
          "whose weights are not known here; Convolution and PReLU are, "
          f"and layers without weights: {sorted(_WEIGHTLESS)}"
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
