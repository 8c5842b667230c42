"""The golden vectors: what PyTorch's reference implementations computed.

Each `NAME.npz` here holds inputs, weights and outputs of one reference
implementation, run once; `manifest.json` has its record: the source repository
and commit, constructor arguments, tolerances, and notes on its quirks.
Arrays are as torch takes and returns them (NCHW) unless the record says
otherwise. Two of EDVR, whose like are here, are left out for their size, and
are looked for in `golden` beside SR_JAX_DATA.
"""

import functools
import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest

_HERE = pathlib.Path(__file__).parent
_PARAM = "param/"

Arrays = dict[str, np.ndarray]


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
  """The record of every item here, by name."""
  return json.loads((_HERE / "manifest.json").read_text())["items"]


def load(name: str) -> tuple[Arrays, Arrays, dict[str, Any]]:
  """The arrays of an item, its weights by torch name, and its record."""
  record = manifest()[name]
  path = _HERE / record["file"]
  if not path.exists():
    path = pathlib.Path(os.environ.get("SR_JAX_DATA", ".")).parent / "golden"
    path /= record["file"]
    if not path.exists():
      pytest.skip(f"{record['file']} is neither here nor in {path.parent}")
  with np.load(path) as file:
    stored = {key: file[key] for key in file.files}
  params = _draw(record["recipe"]) if "recipe" in record else {}
  arrays = {}
  for key, value in stored.items():
    if key.startswith(_PARAM):
      params[key.removeprefix(_PARAM)] = value
    else:
      arrays[key] = value
  return arrays, params, record


def _draw(recipe: dict[str, Any]) -> Arrays:
  """Weights too large to store: drawn again, in the order of the entries."""
  rng = np.random.RandomState(recipe["seed"])
  params = {}
  for key, shape, kind, mean, std in recipe["entries"]:
    if kind in ("const", "power_iter"):
      continue  # buffers: fixed by the network, or stored in the npz
    z = rng.standard_normal(tuple(shape))
    z = np.abs(z) if kind == "absnormal" else z
    params[key] = np.asarray(mean + std * z, np.float32)
  return params


def nhwc(x: np.ndarray) -> np.ndarray:
  """[..., c, h, w], as torch has it, to [..., h, w, c]."""
  return np.moveaxis(x, -3, -1)


def nchw(x: np.ndarray) -> np.ndarray:
  """[..., h, w, c] to [..., c, h, w], as torch has it."""
  return np.moveaxis(np.asarray(x), -1, -3)
