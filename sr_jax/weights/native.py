"""Our own weight files: safetensors with the network described inside."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.numpy
from etils import epath

from sr_jax.files import check_source, is_file, write_whole
from sr_jax.models import build, describe
from sr_jax.types import Variables
from sr_jax.weights import ncnn, tree
from sr_jax.weights.mat import load_mat
from sr_jax.weights.ncnn_networks import load_ncnn
from sr_jax.weights.plain_safetensors import (
  read_arrays,
  read_metadata,
  read_text,
)
from sr_jax.weights.pth import is_pth, read_pth
from sr_jax.weights.recognise import recognise
from sr_jax.weights.shipped import SHIPPED, locate
from sr_jax.weights.torch import check_mapping, from_torch, to_torch

_METADATA_KEY = "sr_jax"
#: Of files with PyTorch's names that we write: the network, which its arrays do
#: not tell all of. Others do not look at it.
_NETWORK_KEY = "sr_jax_network"
_FORMAT = 1
_MATLAB_MAGIC = b"MATLAB "


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
  tree.check_arguments(arguments)
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
  content = safetensors.numpy.save(tensors, metadata)
  try:
    read_metadata(content)
  except ValueError as error:
    raise ValueError(
      f"{path} could not be read again ({error}): config or figures are too "
      "long"
    ) from error
  path.parent.mkdir(parents=True, exist_ok=True)
  write_whole(path, content)


def torch_checkpoint(model: Any, variables: Variables) -> dict[str, Any]:
  """What `write_pth` writes so that BasicSR reads it, and `load` does wholly.

  Args:
    model: The network.
    variables: Its variables.

  Returns:
    `params`, the arrays under BasicSR's names, and beside them, as text, what
    no array says: borders, enlargement and the like.

  Raises:
    ValueError: as `to_torch`.
  """
  return {"params": to_torch(model, variables), _NETWORK_KEY: _network(model)}


def torch_safetensors(model: Any, variables: Variables) -> bytes:
  """The same as a safetensors file.

  Args:
    model: The network.
    variables: Its variables.

  Raises:
    ValueError: as `to_torch`.
  """
  arrays = to_torch(model, variables)
  return safetensors.numpy.save(arrays, {_NETWORK_KEY: _network(model)})


def _network(model: Any) -> str:
  name, arguments = describe(model)
  return json.dumps({"model": name, "arguments": arguments})


def load(
  path: epath.PathLike, *, scale: int | None = None
) -> tuple[Any, dict[str, Any]]:
  """A network and its variables, from a file of any kind known here.

  The kind is told by the content, not by the name: our own safetensors, the
  authors' `.mat` (see `load_mat`), ncnn's two files (see `load_ncnn`), and
  PyTorch's arrays as the incumbents save them, in a `.pth` or as safetensors
  (see `recognise`, which tells the network by them).

  Args:
    path: The file; local, or anything epath knows (gs://). Of ncnn's two,
      either. Or the name of a network that comes with the package (`SHIPPED`).
    scale: What it must be for; needed where neither the file nor its name says
      it: a `.mat`, and others' `.pth` of SRCNN or FSRCNN.

  Returns:
    The model, and its variables as they were saved.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: not a weight file known here, a damaged one, one of another
      scale, or a network that is not known here or not whole.
  """
  path = locate(path)
  match file_kind(path):
    case "mat":
      model, variables = load_mat(path, scale=scale)
    case "ncnn":
      model, variables = load_ncnn(path)
    case "pth":
      found = read_pth(path)
      network = found.get(_NETWORK_KEY) if isinstance(found, dict) else None
      model, variables = _of_incumbents(path, found, scale, network)
    case _:
      model, variables = _from_safetensors(path, scale)
  try:
    check_scale(model, scale)
  except ValueError as error:
    raise ValueError(f"{path} {error}") from None
  return model, variables


def check_scale(model: Any, scale: int | None) -> None:
  """Refuses a network for another enlargement than was asked for.

  Raises:
    ValueError: it is one.
  """
  own = getattr(model, "scale", scale)
  if scale not in (None, own):
    raise ValueError(
      f"is a network for x{own}, and scale {scale} was asked for; give the "
      "file of that scale, or leave the scale out"
    )


def file_kind(path: epath.PathLike) -> str:
  """What a weight file is, by its content.

  Args:
    path: The file; of ncnn's two, either.

  Returns:
    "mat", "ncnn", "pth" or "safetensors".

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is none of them.
  """
  path = locate(path)
  if not path.exists():
    message = f"there is no weight file {path}"
    if path.name == str(path) and (not path.suffix or path.stem in SHIPPED):
      message += f"; the networks that come with sr_jax are {list(SHIPPED)}"
    raise FileNotFoundError(message)
  if path.is_dir():
    raise ValueError(
      f"{path} is a folder; give a weight file (.safetensors, .pth, .mat or "
      ".param)"
    )
  check_source(path)
  with path.open("rb") as file:
    start = file.read(16)
  if start.startswith(_MATLAB_MAGIC):
    return "mat"
  if start.startswith(ncnn.MAGIC) or _beside_ncnn(path):
    return "ncnn"
  if path.suffix == ".npz":
    raise ValueError(
      f"{path} is NumPy's, no network's; of VGG19 `python -m sr_jax.weights "
      "vgg19` makes safetensors, and NIQE's prior is for --niqe_prior"
    )
  if is_pth(path):
    return "pth"
  if start[8:9] == b"{":
    return "safetensors"
  beside = ""
  if path.suffix == ".bin":
    beside = f" (there is no {path.with_suffix('.param').name} beside it)"
  raise ValueError(
    f"{path} is not a weight file known here: it is neither safetensors, nor a "
    f"PyTorch checkpoint, nor MATLAB 5, nor ncnn{beside}"
  )


def _of_incumbents(
  path: epath.Path, state_dict: Any, scale: int | None, network: Any
) -> tuple[Any, dict[str, Any]]:
  """PyTorch's arrays; which network, they tell, or we wrote it beside them."""
  try:
    check_mapping(state_dict)
    if network is None:
      model = recognise(state_dict, scale=scale)
    elif not isinstance(network, str):
      raise ValueError(f"its '{_NETWORK_KEY}' is no JSON object")
    else:
      model = _described(read_text({_NETWORK_KEY: network}, _NETWORK_KEY))
    return model, from_torch(model, state_dict)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _described(record: Mapping[str, Any]) -> Any:
  """The network of a file that we wrote."""
  try:
    tree.check_arguments(record["arguments"])
    model = build(record["model"], **record["arguments"])
    tree.shapes(model)
  except Exception as error:  # arguments of a wrong type fail in many ways
    raise ValueError(
      "it holds a network that this version of sr_jax does not know: "
      f"{str(error)[:1000]}"
    ) from error
  return model


def _from_safetensors(
  path: epath.Path, scale: int | None
) -> tuple[Any, dict[str, Any]]:
  """Our own, or the arrays of a state dict."""
  data = path.read_bytes()
  metadata = _metadata(path, data)
  try:
    flat = read_arrays(data)
  except ValueError as error:
    raise ValueError(_damaged(path, error)) from error
  if _METADATA_KEY not in metadata:
    return _of_incumbents(path, flat, scale, metadata.get(_NETWORK_KEY))
  record = _record(path, metadata)
  try:
    model = _described(record)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  shapes = tree.shapes(model)
  _check(flat, shapes, what=f"{path} does not fit the network it describes")
  return model, tree.unflatten(flat)


def read_record(path: epath.PathLike) -> dict[str, Any]:
  """What `save` wrote beside the tensors.

  Args:
    path: One of our own safetensors files.

  Returns:
    The keys format, model, arguments, config and figures; none of them where
    another program saved it.

  Raises:
    ValueError: not safetensors, or a damaged one.
  """
  path = locate(path)
  metadata = _metadata(path, path.read_bytes())
  return _record(path, metadata) if _METADATA_KEY in metadata else {}


def _metadata(path: epath.Path, data: bytes) -> dict[str, str]:
  """Of the header: its length in 8 bytes, then JSON."""
  if data[8:9] != b"{":
    raise ValueError(f"{path} is not safetensors")
  try:
    return read_metadata(data)
  except ValueError as error:
    raise ValueError(_damaged(path, error)) from error


def _record(path: epath.Path, metadata: dict[str, str]) -> dict[str, Any]:
  try:
    record = read_text(metadata, _METADATA_KEY)
    version = record["format"]
    for key in ("config", "figures"):
      if not isinstance(record.get(key), dict | None):
        raise ValueError(f"its '{key}' is no JSON object")
  except (KeyError, ValueError) as error:
    raise ValueError(_damaged(path, error)) from error
  if version != _FORMAT:
    raise ValueError(
      f"{path} is of format {version!r}, and this version of sr_jax reads "
      f"format {_FORMAT}; update sr_jax"
    )
  return record


def _beside_ncnn(path: epath.Path) -> bool:
  """Whether it is the `.bin` of an ncnn network; nothing in it says so."""
  text = path.with_suffix(".param")
  if path.suffix != ".bin" or not text.exists() or not is_file(text):
    return False
  with text.open("rb") as file:
    return file.read(len(ncnn.MAGIC)) == ncnn.MAGIC


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
