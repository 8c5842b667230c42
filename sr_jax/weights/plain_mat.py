"""MATLAB 5 files of numbers, read within what their size allows.

Numeric arrays and cells of them, compressed or not: what networks are kept in.
Anything else (text, structs, objects, sparse and complex arrays) is passed over
by its size. Nothing is made before it is known to be there: an element's
length, the dimensions of an array and what a compressed part grows to are
counted against the bytes of the file.
"""

import math
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_HEADER = 128
_NUMBERS = {
  1: "i1",
  2: "u1",
  3: "i2",
  4: "u2",
  5: "i4",
  6: "u4",
  7: "f4",
  9: "f8",
  12: "i8",
  13: "u8",
}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_CELL, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 6, 15
_COMPLEX = 0x0800

# What a file may cost, in multiples of its size, and beside that.
_MAX_GROWTH = 3  # of compressed parts
_MAX_VALUES = 0.5  # numbers a byte
_SLACK = 1 << 20
_MAX_ARRAYS = 10_000
_MAX_AXES = 8

#: An array, or of a cell its arrays, column by column; None: passed over.
Value = np.ndarray | list[np.ndarray] | None


class _Element(NamedTuple):
  kind: int
  data: memoryview


def read_mat(data: bytes) -> dict[str, Value]:
  """The variables of a MATLAB 5 file (-v6, -v7), by name.

  Args:
    data: The file.

  Returns:
    Arrays with the type that they are stored in, which may be a smaller one
    than MATLAB shows; of a cell a list of arrays. What is not numbers is None.

  Raises:
    ValueError: not such a file, a damaged one, or one that stands for far more
      than its size.

  Source: MathWorks, "MAT-File Format", R2018a, version 5.
  """
  if len(data) < _HEADER:
    raise ValueError(f"it has {len(data)} bytes, and the header alone 128")
  order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
  if order is None:
    raise ValueError("its header does not say the order of bytes")
  version = int(np.frombuffer(data, order + "u2", 1, 124)[0])
  if version != 0x0100:
    raise ValueError(f"it is of version {version:#06x}, not 0x0100")
  return _Reader(order, len(data)).variables(memoryview(data)[_HEADER:])


class _Reader:
  """Goes through the elements; one may be used once."""

  def __init__(self, order: str, size: int):
    self._order = order
    self._growth = _MAX_GROWTH * size + _SLACK
    self._values = int(_MAX_VALUES * size) + _SLACK
    self._arrays = _MAX_ARRAYS

  def variables(self, data: memoryview) -> dict[str, Value]:
    """All of the file behind its header."""
    found = {}
    for kind, content in self._elements(data):
      if kind == _COMPRESSED:
        inside = self._elements(memoryview(self._inflate(content)))
        kind, content = next(inside, (None, content))
      if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} stands for a variable")
      name, value = self._matrix(content)
      found[name] = value
    return found

  def _elements(self, data: memoryview) -> Iterator[_Element]:
    at = 0
    while at < len(data):
      if len(data) - at < 8:
        raise ValueError("it ends within an element")
      kind, size = np.frombuffer(data[at : at + 8], self._order + "u4").tolist()
      start, step = at + 8, 8
      if kind >> 16:  # so small that it lies in its own tag
        kind, size = kind & 0xFFFF, kind >> 16
        start, step = at + 4, 4
        if size > 4:
          raise ValueError(f"a small element has {size} bytes")
      if start + size > len(data):
        raise ValueError("it ends within an element")
      yield _Element(kind, data[start : start + size])
      padding = 0 if kind == _COMPRESSED else -size % step
      at = start + size + padding

  def _inflate(self, data: memoryview) -> bytes:
    machine = zlib.decompressobj()
    try:
      inflated = machine.decompress(data, self._growth + 1)
    except zlib.error as error:
      raise ValueError(f"a compressed part is damaged ({error})") from error
    self._growth -= len(inflated)
    if self._growth < 0:
      raise ValueError("its compressed parts are far larger than the file")
    if not machine.eof:
      raise ValueError("a compressed part is cut short")
    return inflated

  def _matrix(
    self, data: memoryview, *, inside: bool = False
  ) -> tuple[str, Value]:
    """Name and value; in a cell there are no more cells."""
    self._arrays -= 1
    if self._arrays < 0:
      raise ValueError(f"it has over {_MAX_ARRAYS} arrays")
    if inside and not data:  # a part of a cell that was never set
      return "", np.zeros((0, 0))
    parts = self._elements(data)
    flags = self._integers(next(parts, None), _UINT32)
    axes = self._integers(next(parts, None), _INT32)
    name = next(parts, None)
    if len(flags) != 2 or name is None or name.kind != _INT8:
      raise ValueError("a variable does not begin as one")
    label = bytes(name.data[:64]).decode("ascii", "replace")
    kind = flags[0] & 0xFF
    if not 1 <= len(axes) <= _MAX_AXES or min(axes) < 0:
      raise ValueError(f"'{label}' has dimensions {axes[:_MAX_AXES]}")
    count = math.prod(axes)
    if kind == _CELL and not inside:
      return label, self._cell(parts, count)
    if not _FIRST_NUMERIC <= kind <= _LAST_NUMERIC or flags[0] & _COMPLEX:
      return label, None
    content = next(parts, None)
    if content is None or content.kind not in _NUMBERS:
      raise ValueError(f"'{label}' lacks its numbers")
    dtype = np.dtype(self._order + _NUMBERS[content.kind])
    if len(content.data) != count * dtype.itemsize:
      raise ValueError(
        f"'{label}' has {len(content.data)} bytes, not {axes} numbers of "
        f"{dtype.itemsize}"
      )
    self._values -= count
    if self._values < 0:
      raise ValueError("it has more numbers than a file of its size")
    array = np.frombuffer(content.data, dtype)
    return label, array.reshape(axes, order="F")

  def _cell(self, parts: Iterator[_Element], count: int) -> list[np.ndarray]:
    arrays = []
    for kind, content in parts:
      if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} stands in a cell")
      _, array = self._matrix(content, inside=True)
      if not isinstance(array, np.ndarray):
        raise ValueError("a cell in it holds more than arrays of numbers")
      arrays.append(array)
    if len(arrays) != count:
      raise ValueError(f"a cell has {len(arrays)} parts, not {count}")
    return arrays

  def _integers(self, element: _Element | None, kind: int) -> list[int]:
    if element is None or element.kind != kind or len(element.data) % 4:
      raise ValueError("a variable does not begin as one")
    dtype = self._order + _NUMBERS[kind]
    return np.frombuffer(element.data[: 4 * 16], dtype).tolist()
