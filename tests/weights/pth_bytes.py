"""PyTorch checkpoints written by hand, opcode by opcode, without PyTorch."""

import io
import struct
import zipfile

import numpy as np

KINDS = {
  "float32": "FloatStorage",
  "float64": "DoubleStorage",
  "float16": "HalfStorage",
  "int64": "LongStorage",
  "int32": "IntStorage",
  "int16": "ShortStorage",
  "int8": "CharStorage",
  "uint8": "ByteStorage",
  "bool": "BoolStorage",
}


class Raw:
  """Opcodes that are put in as they are."""

  def __init__(self, code):
    self.code = code


def number(value):
  if value in (True, False) and isinstance(value, bool):
    return b"\x88" if value else b"\x89"
  if 0 <= value < 256:
    return b"K" + bytes([value])
  if -(1 << 31) <= value < 1 << 31:
    return b"J" + struct.pack("<i", value)
  size = value.bit_length() // 8 + 1
  return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def text(value):
  data = value.encode()
  return b"X" + struct.pack("<I", len(data)) + data


def tensor(
  key, kind, numel, *, offset=0, shape=(), strides=(), version=2, extra=b""
):
  """_rebuild_tensor_v2(storage by reference, offset, shape, strides, ...)."""
  call = b"_rebuild_tensor_v2" if version == 2 else b"_rebuild_tensor"
  code = b"ctorch._utils\n" + call + b"\n(("
  code += text("storage") + b"ctorch\n" + kind.encode() + b"\n"
  code += text(key) + text("cpu") + number(numel) + extra + b"tQ"
  code += number(offset) + encode(tuple(shape)) + encode(tuple(strides))
  if version == 2:
    code += b"\x89ccollections\nOrderedDict\n)R"
  return Raw(code + b"tR")


def encode(value):
  """Opcodes of plain data; Raw as it is."""
  match value:
    case Raw():
      return value.code
    case None:
      return b"N"
    case bool() | int():
      return number(value)
    case float():
      return b"G" + struct.pack(">d", value)
    case str():
      return text(value)
    case dict():
      items = b"".join(encode(k) + encode(v) for k, v in value.items())
      return b"}(" + items + b"u"
    case list():
      return b"](" + b"".join(map(encode, value)) + b"e"
    case tuple():
      return b"(" + b"".join(map(encode, value)) + b"t"
  raise TypeError(value)


def dump(value):
  return b"\x80\x02" + encode(value) + b"."


def of_array(key, array):
  """A tensor that is all of a storage."""
  strides = [s // array.itemsize for s in array.strides]
  kind = KINDS[array.dtype.name]
  return tensor(key, kind, array.size, shape=array.shape, strides=strides)


def zip_file(value, storages, *, order="little", extra=(), **options):
  """What PyTorch 1.6 and later writes; storages are key -> bytes."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", **options) as archive:
    code = value if isinstance(value, bytes) else dump(value)
    archive.writestr("net/data.pkl", code)
    if order:
      archive.writestr("net/byteorder", order)
    for key, blob in storages.items():
      archive.writestr(f"net/data/{key}", bytes(blob))
    archive.writestr("net/version", "3\n")
    for name, content in extra:
      archive.writestr(name, content)
  return stream.getvalue()


def legacy_file(value, storages):
  """What came before; storages are key -> array."""
  code = value if isinstance(value, bytes) else dump(value)
  system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
  parts = [dump(0x1950A86A20F9469CFC6C), dump(1001), dump(system), code]
  parts.append(dump(list(storages)))
  for array in storages.values():
    parts += [struct.pack("<q", array.size), array.tobytes()]
  return b"".join(parts)


def save(arrays, *, legacy=False):
  """torch.save of a flat state dict."""
  storages = {str(i): array for i, array in enumerate(arrays.values())}
  value = {
    name: of_array(str(i), array)
    for i, (name, array) in enumerate(arrays.items())
  }
  if legacy:
    return legacy_file(value, storages)
  return zip_file(value, {k: v.tobytes() for k, v in storages.items()})


def damage(data, count, seed=0):
  """The file cut short, and with bits flipped."""
  rng = np.random.default_rng(seed)
  for i in range(count):
    if i % 2:
      yield data[: rng.integers(len(data))]
      continue
    broken = bytearray(data)
    for _ in range(rng.integers(1, 4)):
      broken[rng.integers(len(data))] ^= 1 << rng.integers(8)
    yield bytes(broken)
