"""What `python -m sr_jax.weights` does: a function for each subcommand."""

import hashlib
import json
from typing import Any

import numpy as np
from etils import epath
from rich import box
from rich.console import Console
from rich.table import Table

from sr_jax.files import check_target, write_whole
from sr_jax.models import build, describe
from sr_jax.weights import tree
from sr_jax.weights.native import (
  file_kind,
  load,
  read_record,
  save,
  torch_checkpoint,
  torch_safetensors,
)
from sr_jax.weights.plain_safetensors import read_arrays
from sr_jax.weights.pth import read_pth
from sr_jax.weights.shipped import locate
from sr_jax.weights.torch import unwrap
from sr_jax.weights.vgg import convert_vgg19
from sr_jax.weights.write_pth import write_pth

_KINDS = {
  "mat": "MATLAB, the authors' of SRCNN and FSRCNN",
  "ncnn": "ncnn",
  "pth": "PyTorch checkpoint",
  "safetensors": "safetensors with PyTorch's names",
}
# Of whatever width: tables are not cut, and may be read by a program.
_CONSOLE = Console(width=200, soft_wrap=True, highlight=False)


def inspect(file: str, scale: int | None, layers: bool) -> int:
  """Prints the network, its arguments, and what the file says beside.

  Args:
    file: The weight file.
    scale: Enlargement, where it does not say it.
    layers: Whether its arrays are listed.

  Returns:
    0, the exit code.
  """
  path = locate(file)
  kind = file_kind(path)
  model, variables = load(path, scale=scale)
  record = read_record(path) if kind == "safetensors" else {}
  name, arguments = describe(model)
  usual = describe(build(name))[1]
  flat = tree.flatten(variables)
  params = {k: v for k, v in flat.items() if k.startswith("params/")}
  lines = {
    "file": str(path),
    "kind": "sr_jax safetensors" if record else _KINDS[kind],
    "network": f"{type(model).__name__}, build('{name}', ...)",
    "arguments": _arguments(arguments, usual),
    "parameters": f"{sum(x.size for x in params.values()):,}",
    "stored as": ", ".join(sorted(_dtypes(path, kind))),
  }
  files = [path]
  if kind == "ncnn":
    files = [path.with_suffix(suffix) for suffix in (".param", ".bin")]
  for each in files:
    digest = hashlib.sha256(each.read_bytes()).hexdigest()
    lines["sha256" + f" {each.suffix}" * (len(files) > 1)] = digest
  for key, figure in (record.get("figures") or {}).items():
    # Any name, without what would steer a terminal.
    lines["figures." + json.dumps(key)[1:-1]] = json.dumps(figure)
  if record.get("config"):
    lines["config"] = json.dumps(record["config"])
  width = max(map(len, lines))
  for key, text in lines.items():
    _CONSOLE.print(f"{key:{width}}  ", end="", style="bold", markup=False)
    _CONSOLE.print(text, markup=False)
  if layers:
    table = _table("array", "shape", "mean", "deviation")
    for key, value in flat.items():
      table.add_row(
        key, str(value.shape), f"{value.mean():.4g}", f"{value.std():.4g}"
      )
    _CONSOLE.print(table)
  return 0


def convert(source: str, target: str, scale: int | None, torch: bool) -> int:
  """Writes the weights for sr_jax, or under PyTorch's names.

  Args:
    source: The weight file.
    target: What is written; its name ends in .safetensors or .pth.
    scale: Enlargement, where the source does not say it.
    torch: Whether a .safetensors has PyTorch's names and layouts.

  Returns:
    0, the exit code.

  Raises:
    ValueError: the target ends otherwise.
  """
  path = epath.Path(target).expanduser()
  if path.suffix not in (".pth", ".safetensors"):
    raise ValueError(
      f"{target} ends neither in .safetensors nor in .pth, which say what is "
      "to be written"
    )
  check_target(path)
  model, variables = load(source, scale=scale)
  if path.suffix == ".pth":
    write_pth(path, torch_checkpoint(model, variables))
  elif torch:
    write_whole(path, torch_safetensors(model, variables))
  else:
    record: dict[str, Any] = {}
    if file_kind(source) == "safetensors":
      record = read_record(source)
    kept = {key: record.get(key) for key in ("config", "figures")}
    save(path, model, variables, **kept)
  _CONSOLE.print(f"{target}: {type(model).__name__}", markup=False)
  return 0


def diff(first: str, second: str, scale: int | None) -> int:
  """Prints by how much each layer differs.

  Args:
    first: A weight file.
    second: Another.
    scale: Enlargement, where the files do not say it.

  Returns:
    1 where they differ, else 0.

  Raises:
    ValueError: they are of two networks.
  """
  models, flats = [], []
  for file in (first, second):
    model, variables = load(file, scale=scale)
    models.append(describe(model))
    flats.append(tree.flatten(variables))
  (name, arguments), (other, others) = models
  if name != other:
    raise ValueError(f"{first} is a {name}, and {second} a {other}")
  for key in arguments:
    if arguments[key] != others[key]:
      _CONSOLE.print(f"{key}: {arguments[key]} -> {others[key]}", markup=False)
  table = _table("array", "largest difference", "of the largest", "rms")
  differ = arguments != others
  a, b = flats
  for key in (keys := dict.fromkeys([*a, *b])):
    if key not in a or key not in b or a[key].shape != b[key].shape:
      shapes = [f"{x[key].shape}" if key in x else "not there" for x in (a, b)]
      table.add_row(key, " -> ".join(shapes))
      differ = True
      continue
    if np.array_equal(a[key], b[key], equal_nan=True):
      continue
    differ = True
    change = a[key].astype(np.float64) - b[key]
    largest = np.abs(change).max()
    share = largest / max(np.abs(a[key]).max(), np.finfo(np.float64).tiny)
    rms = np.sqrt(np.square(change).mean())
    table.add_row(key, f"{largest:.3g}", f"{share:.2g}", f"{rms:.3g}")
  if table.row_count:
    _CONSOLE.print(table)
  same = len(keys) - table.row_count
  _CONSOLE.print(f"{table.row_count} arrays differ, {same} are equal")
  return int(differ)


def vgg19(source: str, target: str) -> int:
  """Writes VGG19's convolutions as safetensors.

  Args:
    source: torchvision's .pth, safetensors, or the Caffe .npz.
    target: The .safetensors.

  Returns:
    0, the exit code.
  """
  convs = convert_vgg19(source, target)
  print(f"{target}: {convs[0]} to {convs[-1]}")
  return 0


def _arguments(arguments: dict[str, Any], usual: dict[str, Any]) -> str:
  """Those that are the class's own in brackets."""
  own = [f"{k}={v!r}" for k, v in arguments.items() if v != usual[k]]
  rest = [f"{k}={v!r}" for k, v in arguments.items() if v == usual[k]]
  return " ".join([", ".join(own)] * bool(own) + [f"({', '.join(rest)})"])


def _dtypes(path: epath.Path, kind: str) -> set[str]:
  """Of the arrays in the file, as far as its reader tells."""
  if kind == "pth":
    arrays = unwrap(read_pth(path))
  elif kind == "safetensors":
    arrays = read_arrays(path.read_bytes())
  else:
    return {"float64" if kind == "mat" else "float16 or float32"}
  names = {np.asarray(value).dtype.name for value in arrays.values()}
  # The readers make float32 of bfloat16, which NumPy has not.
  return {"float32 or bfloat16" if x == "float32" else x for x in names}


def _table(*headings: str) -> Table:
  table = Table(box=box.SIMPLE_HEAD)
  for i, heading in enumerate(headings):
    table.add_column(heading, justify="right" if i else "left", no_wrap=True)
  return table
