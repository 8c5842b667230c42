"""PyTorch checkpoints, read without PyTorch; nothing in them is executed."""

import io
import math
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from sr_jax.files import check_source
from sr_jax.npz import check_entries
from sr_jax.weights.plain_pickle import (
  STORAGES,
  Machine,
  RefusedError,
  Storage,
  Tensor,
  of_kind,
)

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

# What a file may cost: see _Builder.
_MAX_DEPTH = 64
# Both of a checkpoint's state dicts may be of the same tensors, and these of
# half precision, which is float32 in the end.
_MAX_GROWTH = 4
_SLACK = 1 << 16

_PLAIN = (str, bytes, int, float, type(None))


def is_pth(path: epath.PathLike) -> bool:
  """Whether a file begins as those that `torch.save` writes."""
  path = epath.Path(path).expanduser()
  if path.is_dir() or not path.exists():
    return False
  check_source(path)
  with path.open("rb") as file:
    start = file.read(9)
  # safetensors begin with a length, whose bytes may be anything, and "{".
  return start.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)) and start[8:] != b"{"


def read_pth(source: epath.PathLike | bytes) -> Any:
  """What `torch.save` wrote, as plain Python and NumPy.

  Both formats are read: zip (PyTorch 1.6 and later) and the one before. Dicts,
  lists, tuples, strings, numbers, tensors and parameters come back; a file that
  names anything else is refused. bfloat16 becomes float32, which holds it
  exactly. Arrays are copies, so they may be written to.

  Args:
    source: The path (local, or anything epath knows), or the file's bytes.

  Returns:
    Mostly a dict: a state dict (name -> array) or a checkpoint with state dicts
    in it. `from_torch` takes either.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: not a PyTorch checkpoint, a damaged one, or one that holds more
      than plain data; the message has the name of what was refused.

  Source: `torch.serialization`; opcodes as `pickletools` of Python lists them.
  """
  if isinstance(source, bytes):
    data, what = source, "the checkpoint"
  else:
    path = epath.Path(source).expanduser()
    if path.is_dir():
      raise ValueError(f"{path} is a folder; give the .pth file")
    check_source(path)
    data, what = path.read_bytes(), str(path)
  try:
    if data.startswith(_ZIP_MAGIC):
      return _read_zip(data)
    if data.startswith(_PICKLE_MAGIC):
      return _read_legacy(data)
  except RefusedError as error:
    raise ValueError(
      f"{what}: {error}. In PyTorch, save the arrays alone: "
      "torch.save(model.state_dict(), path)"
    ) from error
  except Exception as error:  # a damaged file fails in many ways
    reason = f"{type(error).__name__}: {error}"[:300]
    raise ValueError(
      f"{what} is not a readable PyTorch checkpoint ({reason}); it may be "
      "damaged or cut short: fetch it again"
    ) from error
  raise ValueError(
    f"{what} is not a PyTorch checkpoint: it is neither a zip file nor a pickle"
  )


def _read_zip(data: bytes) -> Any:
  """NAME/data.pkl, and a file NAME/data/KEY a storage."""
  check_entries(data)
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    entries = {info.filename: info for info in archive.infolist()}
    # Entries that overlap, or say they are larger, would cost more than that.
    if sum(info.file_size for info in archive.infolist()) > len(data):
      raise ValueError("its entries say they are larger than the file")
    roots = [
      m[1] for n in entries if (m := re.fullmatch(r"([^/]+)/data\.pkl", n))
    ]
    if len(roots) != 1:
      raise ValueError("the zip file has no NAME/data.pkl, or several")

    def read(name: str) -> bytes:
      info = entries.get(f"{roots[0]}/{name}")
      if info is None:
        raise ValueError(f"it lacks the entry {roots[0]}/{name}")
      if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed; PyTorch stores it")
      if info.compress_size != info.file_size:
        raise ValueError(f"{info.filename} has two sizes")
      return archive.read(info)

    order = b"little"
    if f"{roots[0]}/byteorder" in entries:
      order = read("byteorder")
    machine = Machine()
    value = machine.run(io.BytesIO(read("data.pkl")))
    builder = _Builder(
      lambda key: read(f"data/{key}"),
      order={b"little": "<", b"big": ">"}[order],
      size=len(data),
      instructions=machine.instructions,
    )
    return builder.build(value)


def _read_legacy(data: bytes) -> Any:
  """Pickles: magic, version, system, value, keys. Then the storages."""
  stream = io.BytesIO(data)
  if Machine().run(stream) != _LEGACY_MAGIC:
    raise ValueError("it is a pickle, but torch.save did not write it")
  if Machine().run(stream) != _LEGACY_VERSION:
    raise ValueError(f"its version is not {_LEGACY_VERSION}")
  Machine().run(stream)  # sizes of the C types there: long no longer matter
  machine = Machine()
  value = machine.run(stream)
  keys = Machine().run(stream)
  blobs, at = {}, stream.tell()
  for key in of_kind(list, keys):
    storage = machine.storages[of_kind(str, key)]
    size = int.from_bytes(data[at : at + 8], "little")
    if size != storage.size:
      raise ValueError(f"storage {key} has {size} elements, not {storage.size}")
    end = at + 8 + size * np.dtype(STORAGES[storage.kind]).itemsize
    if end > len(data):
      raise ValueError(f"it ends within storage {key}")
    blobs[key] = memoryview(data)[at + 8 : end]
    at = end
  builder = _Builder(
    blobs.__getitem__,
    order="<",
    size=len(data),
    instructions=machine.instructions,
  )
  return builder.build(value)


class _Builder:
  """Makes the arrays, within what the size of the file allows.

  References let a small pickle stand for a huge or endless value, and strides a
  few bytes for a huge tensor. So the parts of the value are counted against the
  instructions, and the numbers of the arrays against the bytes of the file,
  before they are made: wherever a tensor is named, a network has its own.
  """

  def __init__(
    self,
    read: Callable[[str], bytes | memoryview],
    *,
    order: str,
    size: int,
    instructions: int,
  ):
    self._read = read
    self._order = order
    self._bytes = _MAX_GROWTH * size + _SLACK
    self._parts = instructions
    self._blobs: dict[str, np.ndarray] = {}
    self._arrays: dict[int, np.ndarray] = {}

  def build(self, value: Any, depth: int = 0) -> Any:
    """The value with arrays for tensors."""
    self._parts -= 1
    if self._parts < 0 or depth > _MAX_DEPTH:
      raise ValueError("its parts are nested or repeated without end")
    if isinstance(value, _PLAIN):
      return value
    if isinstance(value, dict):
      return {k: self.build(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
      return type(value)(self.build(v, depth + 1) for v in value)
    if not isinstance(value, Tensor):
      raise RefusedError(f"it holds {getattr(value, 'name', 'a bare storage')}")
    itemsize = np.dtype(STORAGES[value.storage.kind]).itemsize
    self._bytes -= math.prod(value.shape) * max(4, itemsize)
    if self._bytes < 0:
      raise ValueError("its tensors are far larger than the file")
    if id(value) not in self._arrays:
      self._arrays[id(value)] = self._array(value)
    return self._arrays[id(value)]

  def _array(self, tensor: Tensor) -> np.ndarray:
    values = self._values(tensor.storage)
    kind = tensor.storage.kind
    numel = math.prod(tensor.shape)
    # An axis of one has whatever stride.
    axes = list(zip(tensor.shape, tensor.strides, strict=True))
    strides = [s if n > 1 else 0 for n, s in axes]
    last = tensor.offset + sum((n - 1) * s for n, s in axes if n > 1)
    if numel == 0:
      view = np.zeros(tensor.shape, values.dtype)
    elif last < values.size:
      view = np.lib.stride_tricks.as_strided(
        values[tensor.offset :],
        tensor.shape,
        [s * values.itemsize for s in strides],
        writeable=False,
      )
    else:
      raise ValueError(
        f"a tensor reaches element {last} of a storage of {values.size}"
      )
    if kind == "torch.BFloat16Storage":
      wide = np.array(view, np.uint32, order="C")
      wide <<= 16
      return wide.view(np.float32)
    if kind == "torch.BoolStorage":
      return np.array(view != 0, order="C")
    return np.array(view, view.dtype.newbyteorder("="), order="C")

  def _values(self, storage: Storage) -> np.ndarray:
    if storage.key not in self._blobs:
      blob = self._read(storage.key)
      dtype = np.dtype(self._order + STORAGES[storage.kind])
      if len(blob) != storage.size * dtype.itemsize:
        raise ValueError(
          f"storage {storage.key} has {len(blob)} bytes, not {storage.size} "
          f"elements of {dtype.itemsize}"
        )
      self._blobs[storage.key] = np.frombuffer(blob, dtype)
    return self._blobs[storage.key]
