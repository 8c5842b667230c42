"""safetensors, with what its header may cost bounded."""

import json
from typing import Any

import numpy as np
import safetensors

# What numbers are called; of bfloat16 NumPy has the bytes alone.
_BFLOAT16 = "BF16"
_TYPES = {
  **{"F64": "<f8", "F32": "<f4", "F16": "<f2", _BFLOAT16: "<u2"},
  **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1"},
  **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?"},
}
# Our largest network's has 0.1 MB; as Python objects it may be 27 times that.
_MAX_HEADER = 1 << 18


def read_metadata(data: bytes) -> dict[str, str]:
  """The texts that a file has beside its arrays.

  Args:
    data: The file.

  Raises:
    ValueError: its header is damaged, cut short or very long.

  Source: huggingface.co/docs/safetensors.
  """
  length = int.from_bytes(data[:8], "little")
  if len(data) < 8 + length:
    raise ValueError(f"the header alone has {length} bytes")
  if length > _MAX_HEADER:
    raise ValueError(f"its header has {length} bytes, over {_MAX_HEADER}")
  metadata = _object(data[8 : 8 + length], "header").get("__metadata__") or {}
  if not isinstance(metadata, dict) or not all(
    isinstance(text, str) for text in metadata.values()
  ):
    raise ValueError("its metadata is no JSON object of texts")
  return metadata


def read_text(metadata: dict[str, str], key: str) -> dict[str, Any]:
  """One of the texts, which is a JSON object.

  Raises:
    ValueError: it is not, or very long.
  """
  if len(metadata[key]) > _MAX_HEADER:
    raise ValueError(f"its '{key}' has over {_MAX_HEADER} characters")
  return _object(metadata[key], f"'{key}'")


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
  """The arrays, as copies; bfloat16 as float32, which holds it exactly.

  Raises:
    ValueError: as `read_metadata`, or what the header says of the arrays does
      not fit the file, or NumPy has no such numbers.
  """
  read_metadata(data)
  try:
    # Its order is another each time.
    found = sorted(safetensors.deserialize(data), key=lambda x: x[0])
    return {name: _array(x) for name, x in found}
  except KeyError as error:
    raise ValueError(f"it has numbers of type {error}") from error
  except (safetensors.SafetensorError, TypeError, OverflowError) as error:
    raise ValueError(str(error)) from error


def _array(entry: Any) -> np.ndarray:
  kind = entry["dtype"]
  array = np.frombuffer(entry["data"], _TYPES[kind]).reshape(entry["shape"])
  if kind == _BFLOAT16:
    return (array.astype(np.uint32) << 16).view(np.float32)
  return array.copy()


def _object(text: str | bytes, what: str) -> dict[str, Any]:
  try:
    value = json.loads(text)
  except (RecursionError, TypeError) as error:
    raise ValueError(f"its {what} is no JSON object: {error}") from error
  if not isinstance(value, dict):
    raise ValueError(f"its {what} is no JSON object")
  return value
