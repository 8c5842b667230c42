"""The figures that papers printed, and which of them belong to given weights.

They are in `published.toml`, so that adding one is not a change of code.
"""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
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
    ssim: Which SSIM the figures are by, a flavour of `metrics.ssim`.
    parameters: How many it has, by scale; empty where that is not known.
    weights: Paths under a folder of weights or names of interpolations, by
      scale; empty where the weights cannot be had.
    origin: Where the weights are to be had.
    recipe: The config or command that trains it here, or "".
  """

  key: str
  title: str
  table: str
  colour: str
  source: str
  figures: Mapping[tuple[str, int], Figure]
  ssim: str = "per_channel"
  parameters: Mapping[int, int] = dataclasses.field(default_factory=dict)
  weights: Mapping[int, str] = dataclasses.field(default_factory=dict)
  origin: str = ""
  recipe: str = ""

  def find(self, dataset: str, scale: int, colour: str) -> Figure | None:
    """The figure of one set, scale and colour, if one was published."""
    if colour != self.colour:
      return None
    wanted = plain(dataset)
    for (name, factor), figure in self.figures.items():
      if (plain(name), factor) == (wanted, scale):
        return figure
    return None

  def is_file(self, stem: str) -> bool:
    """Whether its weights are called so, with or without their hash.

    Names that it has not alone, such as x3, do not tell.
    """
    for path in self.weights.values():
      name = path.rpartition("/")[2].rpartition(".")[0]
      name = re.sub(r"-[0-9a-f]{8}$", "", name)
      same = rf"{re.escape(name)}(-[0-9a-f]{{8}})?"
      if len(name) > 2 and re.fullmatch(same, stem):
        return True
    return False


def plain(dataset: str) -> str:
  """Vimeo-90K-T is vimeo90k-t."""
  return dataset.lower().replace("-", "")


def _by_scale(value: Any, scales: Iterable[int]) -> dict[int, Any]:
  """One for all scales, `{scale}` filled in, or a table of them."""
  if isinstance(value, dict):
    return {int(key.removeprefix("x")): part for key, part in value.items()}
  return {
    scale: value.format(scale=scale) if isinstance(value, str) else value
    for scale in scales
    if value is not None
  }


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
    scales = dict.fromkeys(scale for _, scale in figures)
    for part in ("weights", "parameters"):
      entry[part] = _by_scale(entry.get(part), scales)
    entries[key] = Published(key=key, figures=figures, **entry)
  return entries


def families() -> dict[str, list[Published]]:
  """The tables of `eval.py --table`, by name."""
  result: dict[str, list[Published]] = {}
  for entry in published().values():
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
  if name in ("bicubic", "sparse_coding"):
    return entries[name]
  stem = path.rpartition("/")[2].rpartition(".")[0]
  for entry in entries.values():
    if entry.is_file(stem):
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
