"""Our own weight files: safetensors with the network described inside."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.numpy
from etils import epath

from sr_jax.models import build, describe
from sr_jax.types import Variables
from sr_jax.weights import ncnn, tree
from sr_jax.weights.files import write_whole
from sr_jax.weights.mat import load_mat
from sr_jax.weights.plain_safetensors import (
  read_arrays,
  read_metadata,
  read_text,
)

_METADATA_KEY = "sr_jax"
_FORMAT = 1
_MATLAB_MAGIC = b"MATLAB "

# What a description may ask for: tracing a network takes time for each layer,
# and the matrices of an interpolation take memory.
_MAX_LENGTH = 32
_LIMITS = {"scale": 16, "blocks": 256, "frames": 256, "padding": 256}
_LIMIT = 1 << 14


def save(
  path: epath.PathLike,
  model: Any,
  variables: Variables,
  *,
  config: Mapping[str, Any] | None = None,
  figures: Mapping[str, Any] | None = None,
) -> None:
  """Writes a network that `load` gives back ready to apply.

  The file appears whole or not at all: it is written beside and renamed.

  Args:
    path: `NAME.safetensors`, local or anything epath knows (gs://); folders are
      made.
    model: The network, one of `sr_jax.models.MODELS`.
    variables: Its variables.
    config: How it was trained, as JSON can hold it.
    figures: What it measured, with the protocol, as JSON can hold it.

  Raises:
    ValueError: the variables are not this model's, or config or figures do not
      fit into JSON.

  Source: huggingface.co/docs/safetensors.
  """
  path = epath.Path(path).expanduser()
  name, arguments = describe(model)
  _check_arguments(arguments)
  flat = tree.flatten(variables)
  what = f"the variables do not fit {name} {arguments}"
  _check(flat, tree.shapes(model), what=what)
  record = {
    "format": _FORMAT,
    "model": name,
    "arguments": arguments,
    "config": config,
    "figures": figures,
  }
  try:
    metadata = {_METADATA_KEY: json.dumps(record)}
  except TypeError as error:
    raise ValueError(
      f"config or figures do not fit into JSON ({error}); give plain dicts, "
      "lists, numbers and strings: ConfigDict has to_dict()"
    ) from error
  # safetensors stores the buffer as it lies in memory.
  tensors = {key: value.copy(order="C") for key, value in flat.items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  write_whole(path, safetensors.numpy.save(tensors, metadata))


def load(
  path: epath.PathLike, *, scale: int | None = None
) -> tuple[Any, dict[str, Any]]:
  """A network and its variables, from a file of any kind known here.

  The kind is told by the content, not by the name: our own safetensors, the
  authors' `.mat` (see `load_mat`), or ncnn's two files (see `load_ncnn`).

  Args:
    path: The file; local, or anything epath knows (gs://). Of ncnn's two,
      either.
    scale: What it must be for; needed for a `.mat` whose name does not say.

  Returns:
    The model, and its variables as they were saved.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: not a weight file known here, a damaged one, one of another
      scale, or a network this version does not know.
  """
  path = epath.Path(path).expanduser()
  if not path.exists():
    raise FileNotFoundError(f"there is no weight file {path}")
  if path.is_dir():
    raise ValueError(
      f"{path} is a folder; give a weight file (.safetensors, .mat or .param)"
    )
  data = path.read_bytes()
  if data.startswith(_MATLAB_MAGIC):
    return load_mat(path, scale=scale)
  if data.startswith(ncnn.MAGIC) or _beside_ncnn(path):
    model, variables = ncnn.load_ncnn(path)
    _check_scale(path, model, scale)
    return model, variables
  record = _record(path, data)
  try:
    _check_arguments(record["arguments"])
    model = build(record["model"], **record["arguments"])
    shapes = tree.shapes(model)
  except Exception as error:  # arguments of a wrong type fail in many ways
    raise ValueError(
      f"{path} holds a network that this version of sr_jax does not know: "
      f"{str(error)[:1000]}"
    ) from error
  _check_scale(path, model, scale)
  try:
    flat = read_arrays(data)
  except ValueError as error:
    raise ValueError(_damaged(path, error)) from error
  _check(flat, shapes, what=f"{path} does not fit the network it describes")
  return model, tree.unflatten(flat)


def read_record(path: epath.PathLike) -> dict[str, Any]:
  """What `save` wrote beside the tensors.

  Args:
    path: One of our own safetensors files.

  Returns:
    The keys format, model, arguments, config and figures.

  Raises:
    ValueError: not one of our files, or a damaged one.
  """
  path = epath.Path(path).expanduser()
  return _record(path, path.read_bytes())


def _record(path: epath.Path, data: bytes) -> dict[str, Any]:
  """The header: its length in 8 bytes, then JSON."""
  if data[8:9] != b"{":
    hint = "it is neither safetensors, nor MATLAB 5, nor ncnn"
    if data.startswith((b"PK\x03\x04", b"\x80\x02")):
      hint = (
        "a PyTorch checkpoint does not say its network; build the model, and "
        "give what sr_jax.weights.read_pth reads to sr_jax.weights.from_torch"
      )
    raise ValueError(f"{path} is not a weight file known here: {hint}")
  try:
    metadata = read_metadata(data)
  except ValueError as error:
    raise ValueError(_damaged(path, error)) from error
  if _METADATA_KEY not in metadata:
    raise ValueError(
      f"{path} is a safetensors file, but not one that sr_jax saved: its "
      f"metadata has no '{_METADATA_KEY}'. Build the model, load the arrays "
      "with safetensors.numpy.load_file and give both to "
      "sr_jax.weights.from_torch"
    )
  try:
    record = read_text(metadata, _METADATA_KEY)
    version = record["format"]
  except (KeyError, ValueError) as error:
    raise ValueError(_damaged(path, error)) from error
  if version != _FORMAT:
    raise ValueError(
      f"{path} is of format {version}, and this version of sr_jax reads format "
      f"{_FORMAT}; update sr_jax"
    )
  return record


def _check_scale(path: epath.Path, model: Any, scale: int | None) -> None:
  if scale not in (None, getattr(model, "scale", scale)):
    raise ValueError(
      f"{path} is a network for x{getattr(model, 'scale', '?')}, and scale "
      f"{scale} was asked for; give the file of that scale"
    )


def _beside_ncnn(path: epath.Path) -> bool:
  """Whether it is the `.bin` of an ncnn network; nothing in it says so."""
  text = path.with_suffix(".param")
  if path.suffix != ".bin" or not text.is_file():
    return False
  return text.read_bytes().startswith(ncnn.MAGIC)


def _check_arguments(arguments: Mapping[str, Any]) -> None:
  """Refuses sizes that no network has, before one is built.

  Raises:
    ValueError: names the argument.
  """
  for key, value in arguments.items():
    limit = _LIMITS.get(key.rpartition("_")[-1], _LIMIT)
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > _MAX_LENGTH:
      raise ValueError(f"'{key}' has {len(values)} parts")
    for number in values:
      if isinstance(number, int) and abs(number) > limit:
        raise ValueError(f"{str(number)[:20]} is no '{key}'; {limit} at most")


def _check(
  flat: tree.Flat, shapes: Mapping[str, tuple[int, ...]], *, what: str
) -> None:
  tree.check(
    {key: value.shape for key, value in flat.items()},
    shapes,
    what=what,
    fix="Weights belong to the model and arguments that they were made with",
  )


def _damaged(path: epath.Path, error: Exception) -> str:
  return f"{path} is damaged or cut short ({error}); fetch or save it again"
