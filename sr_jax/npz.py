"""Arrays of an .npz file, read within what its size allows."""

import io
import math
import zipfile

import numpy as np

# Of what is compressed.
_MAX_GROWTH = 4
_MAX_ENTRIES = 10_000
_ENTRY = b"PK\x01\x02"


def check_entries(data: bytes) -> None:
  """Refuses a zip file whose mere list of entries would take long to read.

  Raises:
    ValueError: it has more of them than any file of weights.
  """
  # May be in the data by chance: once in 4 GB.
  if data.count(_ENTRY) > _MAX_ENTRIES:
    raise ValueError(f"the zip file has over {_MAX_ENTRIES} entries")


def read_npz(data: bytes) -> dict[str, np.ndarray]:
  """As np.load, but what an entry says of its size is checked before.

  Args:
    data: The file.

  Returns:
    Arrays of numbers by name. Nothing is unpacked to a file, so names may be
    whatever they are.

  Raises:
    ValueError: no such file, a damaged one, one that grows far beyond its size,
      or one with anything but numbers.

  Source: `numpy.lib.format`.
  """
  try:
    check_entries(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      entries, growth = archive.infolist(), _MAX_GROWTH * len(data)
      if sum(info.file_size for info in entries) > growth:
        raise ValueError("its entries say they are far larger than the file")
      found = {}
      for info in entries:
        name, array = _read_entry(archive, info)
        # A network, or a prior, has them in float32 or float64 in the end.
        growth -= 8 * array.size
        if growth < 0:
          raise ValueError("its arrays are far larger than the file")
        found[name] = array
      return found
  except Exception as error:  # a damaged file fails in many ways
    reason = f"{type(error).__name__}: {error}"[:300]
    raise ValueError(f"not a readable .npz of numbers ({reason})") from error


def _read_entry(
  archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> tuple[str, np.ndarray]:
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"{info.filename} is compressed in another way")
  with archive.open(info) as entry:  # no more than it says is decompressed
    content = entry.read(info.file_size)
  stream = io.BytesIO(content)
  version = np.lib.format.read_magic(stream)
  header = np.lib.format.read_array_header_1_0
  if version != (1, 0):
    header = np.lib.format.read_array_header_2_0
  shape, by_column, dtype = header(stream)
  start, count = stream.tell(), math.prod(shape)
  if dtype.kind not in "biuf" or count * dtype.itemsize != len(content) - start:
    raise ValueError(
      f"{info.filename} is not an array of its size, or not of numbers"
    )
  array = np.frombuffer(content, dtype, count, start) if count else ()
  return info.filename.removesuffix(".npy"), np.reshape(
    np.asarray(array, dtype), shape, order="F" if by_column else "C"
  )
