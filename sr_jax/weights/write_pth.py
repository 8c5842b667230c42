"""PyTorch checkpoints, written without PyTorch."""

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from sr_jax.files import write_whole
from sr_jax.weights.plain_pickle import STORAGES

# The name that torch.save gives to what it does not know the name of.
_ROOT = "archive"
_BYTE_ORDER = b"little"
_VERSION = b"3\n"
# Of NumPy's own; of bfloat16 and bool, STORAGES has what their bytes are.
_KINDS = {
  np.dtype(form): kind.removeprefix("torch.")
  for kind, form in STORAGES.items()
  if kind not in ("torch.BFloat16Storage", "torch.BoolStorage")
} | {np.dtype(bool): "BoolStorage"}


def write_pth(path: epath.PathLike, value: Any) -> None:
  """Writes what `torch.load(path, weights_only=True)` gives back.

  Args:
    path: The `.pth`, replaced where it is there; its folder must be.
    value: Arrays in dicts, lists and tuples, with plain texts, numbers and None
      among them: `{"params": to_torch(model, variables)}` is what BasicSR
      reads, `{"state_dict": ...}` what MMagic does.

  Raises:
    ValueError: something else is among it, or the path is a folder.
    FileNotFoundError: no such folder.
    OSError: it could not be written; nothing is left behind.

  Source: `torch.serialization`, the zip format; opcodes as `pickletools` has
  them.
  """
  storages: list[np.ndarray] = []
  pickle = b"\x80\x02" + _encode(value, storages, "") + b"."
  records = {"data.pkl": pickle, "byteorder": _BYTE_ORDER}
  for i, array in enumerate(storages):
    records[f"data/{i}"] = array.astype(array.dtype.newbyteorder("<")).tobytes()
  records["version"] = _VERSION
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
    for name, content in records.items():
      # With one date: equal weights are equal files.
      archive.writestr(zipfile.ZipInfo(f"{_ROOT}/{name}"), content)
  write_whole(path, stream.getvalue())


def _encode(value: Any, storages: list[np.ndarray], at: str) -> bytes:
  """Opcodes that leave the value on the stack."""

  def each(values: Any) -> bytes:
    return b"".join(_encode(v, storages, f"{at}[{i}]") for i, v in values)

  match value:
    case None:
      return b"N"
    case bool():
      return b"\x88" if value else b"\x89"
    case int():
      return _integer(value)
    case float():
      return b"G" + struct.pack(">d", value)
    case str():
      return _text(value)
    case Mapping():
      return (
        b"}(" + each((k, x) for k, v in value.items() for x in (k, v)) + b"u"
      )
    case list():
      return b"](" + each(enumerate(value)) + b"e"
    case tuple():
      return b"(" + each(enumerate(value)) + b"t"
  # jax's arrays too; a dict or object of any other kind has no such dtype.
  array = np.asarray(value)
  dtype = array.dtype.newbyteorder("=")
  if dtype not in _KINDS:
    raise ValueError(
      f"{at or 'the value'} is a {type(value).__name__} of {array.dtype}; give "
      "arrays of numbers in dicts and lists, in a dtype that NumPy has"
    )
  storages.append(array)
  return _tensor(array, _KINDS[dtype], len(storages) - 1)


def _tensor(array: np.ndarray, kind: str, key: int) -> bytes:
  """_rebuild_tensor_v2(storage, offset, shape, strides, no gradient, no hooks).

  The storage is a reference: what kind, which record, where, how many.
  """
  strides = [1]
  for size in array.shape[:0:-1]:
    strides.insert(0, strides[0] * size)
  code = b"ctorch._utils\n_rebuild_tensor_v2\n(("
  code += _text("storage") + b"ctorch\n" + kind.encode() + b"\n"
  code += _text(str(key)) + _text("cpu") + _integer(array.size) + b"tQ"
  code += _integer(0)
  for numbers in (array.shape, strides[: array.ndim]):
    code += b"(" + b"".join(map(_integer, numbers)) + b"t"
  return code + b"\x89ccollections\nOrderedDict\n)RtR"


def _integer(value: int) -> bytes:
  if 0 <= value < 1 << 8:
    return b"K" + bytes([value])
  if -(1 << 31) <= value < 1 << 31:
    return b"J" + struct.pack("<i", value)
  size = value.bit_length() // 8 + 1
  return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def _text(value: str) -> bytes:
  data = value.encode()
  return b"X" + struct.pack("<I", len(data)) + data
