"""The figures that papers printed, and which of them belong to given weights.

They are in `published.toml`, so that adding one is not a change of code.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
  """What a paper printed for one set and scale, of clips by a degradation."""

  psnr: float
  ssim: float | None = None
  degradation: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
  """One trained network in the literature.

  Attributes:
    key: Its name in `published.toml`, and in the config of weights that are
      meant to reproduce it.
    title: What tables call it.
    table: The family it belongs to.
    colour: "Y" or "RGB", of the figures.
    source: Paper and table.
    figures: By set and scale.
    weights: Path under the data folder, or an interpolation; None where the
      weights cannot be had.
    files: What the authors' weight files are called, without what follows the
      last dot.
  """

  key: str
  title: str
  table: str
  colour: str
  source: str
  figures: Mapping[tuple[str, int], Figure]
  weights: str | None = None
  files: tuple[str, ...] = ()

  def find(self, dataset: str, scale: int, colour: str) -> Figure | None:
    """The figure of one set, scale and colour, if one was published."""
    same = colour == self.colour
    return self.figures.get((dataset.lower(), scale)) if same else None


@functools.cache
def published() -> dict[str, Published]:
  """Every entry of `published.toml`, by key."""
  text = (
    resources.files("sr_jax.evaluation").joinpath("published.toml").read_text()
  )
  entries = {}
  for key, entry in tomllib.loads(text).items():
    figures = {
      (dataset, int(scale.removeprefix("x"))): Figure(**figure)
      for dataset, scales in entry.pop("figures").items()
      for scale, figure in scales.items()
    }
    entry["files"] = tuple(entry.get("files", ()))
    entries[key] = Published(key=key, figures=figures, **entry)
  return entries


def families() -> dict[str, list[Published]]:
  """The families that have weights to run, for `eval.py --table`."""
  result: dict[str, list[Published]] = {}
  for entry in published().values():
    if entry.weights is not None:
      result.setdefault(entry.table, []).append(entry)
  return result


def match(
  name: str, arguments: Mapping[str, Any], *, path: str = "", key: str = ""
) -> Published | None:
  """The published network that weights are to be compared with.

  Args:
    name: Of the model, as `models.describe` gives it.
    arguments: Of the model.
    path: Where the weights are from: SRCNN's training set is known only by
      the name of a folder, such as `9-1-5_t91`, and that of BasicSR's networks
      by the name of the file.
    key: What the weights themselves say, where they do.

  Returns:
    The entry, or None where nothing comparable was published.

  Raises:
    ValueError: the key is not in `published.toml`.
  """
  entries = published()
  if key:
    if key not in entries:
      raise ValueError(
        f"published '{key}' is not one of {sorted(entries)}; correct the "
        "config, or add it to sr_jax/evaluation/published.toml"
      )
    return entries[key]
  if name == "bicubic":
    return entries[name]
  stem = path.rpartition("/")[2].rpartition(".")[0]
  for entry in entries.values():
    if stem in entry.files:
      return entry
  if arguments.get("in_channels") != 1:
    return None
  if name == "srcnn":
    kernels = "-".join(str(size) for size in arguments["kernel_sizes"])
    for entry in entries.values():
      folder = entry.key.removeprefix("srcnn_")
      if folder.startswith(kernels) and folder in path:
        return entry
  if name == "fsrcnn":
    size = ("num_features", "shrink_features", "num_blocks")
    known = {(56, 12, 4): "fsrcnn", (32, 5, 1): "fsrcnn_s"}
    return entries.get(known.get(tuple(arguments[part] for part in size), ""))
  return None
