"""Results as text: the table, its protocol, per-image detail, and JSON."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sr_jax.evaluation.benchmark import NamedImages
from sr_jax.evaluation.published import Figure, Published
from sr_jax.evaluation.results import (
  FIGURES,
  BenchmarkResult,
  ClipScore,
  ImageScore,
)

_DECIMALS = {"psnr": 2, "ssim": 4, "niqe": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One line of the table: figures, or why there are none.

  Attributes:
    label: Of the network.
    dataset: As the user wrote it, or as the set is called.
    scale: Enlargement; None where not even that is known.
    result: The figures, on one colour.
    published: The network in the literature.
    images: Of the set, for pictures.
    problem: Why there is no result.
  """

  label: str
  dataset: str
  scale: int | None
  result: BenchmarkResult | None = None
  published: Published | None = None
  images: NamedImages = dataclasses.field(default=(), repr=False)
  problem: str = ""

  @property
  def figure(self) -> Figure | None:
    """What was published for this set, scale and colour."""
    if self.published is None or self.result is None:
      return None
    if "psnr" not in self.result.protocols:
      return None
    protocol = self.result.protocol
    figure = self.published.find(
      protocol.dataset, protocol.scale, protocol.colour
    )
    if figure is None or not figure.degradation:
      return figure
    # Clips are degraded in several ways, and the protocol begins with which.
    same = protocol.degradation.startswith(f"{figure.degradation}:")
    return figure if same else None

  @property
  def difference(self) -> float | None:
    """Measured minus published PSNR, in dB."""
    figure = self.figure
    if figure is None or self.result is None:
      return None
    return self.result.psnr - figure.psnr


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
  """One column of the table.

  Attributes:
    heading: Over it.
    kind: "name", "figure" (the network's), "other" or "difference".
    text: What stands in a row; "" where that has no result.
  """

  heading: str
  kind: str
  text: Callable[[Row], str]


def columns(rows: Sequence[Row]) -> list[Column]:
  """The columns that these rows can fill."""
  found = [
    Column(heading="network", kind="name", text=lambda row: row.label),
    Column(heading="set", kind="name", text=lambda row: row.dataset),
    Column(
      heading="scale",
      kind="name",
      text=lambda row: f"x{row.scale}" if row.scale else "-",
    ),
    Column(
      heading="on",
      kind="name",
      text=lambda row: row.result.protocol.colour if row.result else "",
    ),
  ]
  figures = _figures([row.result for row in rows if row.result is not None])
  for name, heading in figures.items():
    kind = "other" if "_" in name else "figure"
    text = functools.partial(_mean, name)
    found.append(Column(heading=heading, kind=kind, text=text))
  if any(row.figure is not None for row in rows):
    found += [
      Column(heading="published", kind="other", text=_published),
      Column(heading="difference", kind="difference", text=_difference),
    ]
  return found


def _figures(results: Sequence[BenchmarkResult]) -> dict[str, str]:
  """The figures that were measured and their headings, in a table's order.

  PSNR and SSIM of the network, then both of bicubic; NIQE by itself.
  """
  measured = [
    metric
    for metric in FIGURES
    if any(metric in result.protocols for result in results)
  ]
  pairs = [metric for metric in measured if metric != "niqe"]
  headings = {metric: metric.upper() for metric in pairs}
  for i, metric in enumerate(pairs):
    headings[f"bicubic_{metric}"] = metric.upper() if i else "bicubic"
  if "niqe" in measured:
    headings |= zip(FIGURES["niqe"], ("NIQE", "bicubic", "truth"), strict=True)
  return headings


def _format(name: str, value: float) -> str:
  """With the decimals of its metric."""
  return f"{value:.{_DECIMALS[name.rpartition('_')[2]]}f}"


def _mean(name: str, row: Row) -> str:
  """Of a metric that is not measured on this colour there is none."""
  metric = name.rpartition("_")[2]
  if row.result is None or metric not in row.result.protocols:
    return ""
  return _format(name, row.result.mean(name))


def _published(row: Row) -> str:
  if row.result is None:
    return ""
  return "-" if row.figure is None else f"{row.figure.psnr:.2f}"


def _difference(row: Row) -> str:
  if row.result is None:
    return ""
  return "-" if row.difference is None else _signed(row.difference)


def protocol_lines(rows: Sequence[Row]) -> list[str]:
  """How the figures were measured, a line for each way that occurs."""
  lines = {}
  for row in rows:
    if row.result is None:
      continue
    protocols, first = row.result.protocols, row.result.protocol
    crop = f"{first.crop_border} px"
    if first.crop_border == first.scale:
      crop = "= scale"
    elif not first.crop_border:
      crop = "none"
    made = f"{first.degradation}, crop {crop}, {first.rounding}"
    mean = "mean over images"
    if first.frames:
      mean = f"mean over {first.frames} of a clip, then over clips"
    pair = []
    if "psnr" in protocols:
      pair.append("PSNR in dB")
    if "ssim" in protocols:
      pair.append(f"SSIM ({protocols['ssim'].ssim_flavour})")
    if pair:
      what = " and ".join(pair)
      lines[f"{first.colour}: {what}, {made}, {mean}"] = None
    if "niqe" in protocols:
      lines[
        f"{first.colour}: NIQE on rounded Y, lower is better, no reference, "
        f"prior {protocols['niqe'].prior}, {made}, {mean}"
      ] = None
  return list(lines)


def cost_lines(rows: Sequence[Row]) -> list[str]:
  """How long networks took for the frames of clips, and what memory."""
  lines = {}
  for row in rows:
    if row.result is not None and row.result.frames:
      result = row.result
      each = result.seconds / result.frames
      line = (
        f"{row.label}, {row.dataset}: {each:.3g} s a frame in the network, "
        f"over {result.frames} frames, compilation included"
      )
      if result.memory is not None:
        device = result.memory.device_bytes / 1e9
        host = result.memory.host_bytes / 1e9
        line += (
          f"; {device:.2f} GB on the device, however long the clip, and "
          f"{host:.2f} GB of features of the longest waiting on the host"
        )
      lines[line] = None
  return list(lines)


def source_lines(rows: Sequence[Row]) -> list[str]:
  """Where the published figures are from."""
  lines = {}
  for row in rows:
    if row.published is not None and row.figure is not None:
      lines[f"published {row.published.title}: {row.published.source}"] = None
  return list(lines)


def print_table(rows: Sequence[Row], console: Console) -> None:
  """The table, the protocol under it, and what could not be computed."""
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
  shown = columns(rows)
  for i, column in enumerate(shown):
    table.add_column(
      column.heading,
      justify="left" if column.kind == "name" else "right",
      no_wrap=i > 0,
    )
  previous = None
  for row in rows:
    cells = [escape(column.text(row)) for column in shown]
    if row.result is None:
      cells[4:5] = ["see below"]
    if previous is not None and row.label != previous:
      table.add_section()
    elif row.label == previous:
      cells[0] = ""
    previous = row.label
    table.add_row(*cells)
  _print_whole(table, console)
  for line in protocol_lines(rows) + source_lines(rows) + cost_lines(rows):
    console.print(
      line, style="dim", markup=False, highlight=False, soft_wrap=True
    )
  for row in rows:
    if row.problem:
      what = f"{row.label}, {row.dataset}"
      what += f" x{row.scale}" if row.scale else ""
      console.print(
        f"{what}: {row.problem}",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
      )


def _print_whole(table: Table, console: Console) -> None:
  """Wider than the terminal rather than with digits left out."""
  unlimited = console.options.update_width(10_000)
  needed = console.measure(table, options=unlimited).minimum
  console.width = max(console.width, needed)
  console.print(table)


def print_details(rows: Sequence[Row], console: Console) -> None:
  """What every image scored, a table for each row."""
  for row in rows:
    if row.result is None:
      continue
    protocol = row.result.protocol
    console.print(
      f"{row.label}, {protocol.dataset} x{protocol.scale} on "
      f"{protocol.colour}, {row.result.seconds:.1f} s in the network",
      markup=False,
      highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("clip" if row.result.frames else "image")
    figures = _figures([row.result])
    gain = ["gain"] if "psnr" in figures else []
    for heading in (*figures.values(), *gain):
      table.add_column(heading, justify="right")
    for image in row.result.images:
      cells = [_format(name, getattr(image, name)) for name in figures]
      if gain:
        cells.append(_signed(image.psnr - image.bicubic_psnr))
      table.add_row(escape(image.name), *cells)
    _print_whole(table, console)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Everything the rows hold but pictures, as JSON can hold it."""
  return [_row_json(row) for row in rows]


def _row_json(row: Row) -> dict[str, Any]:
  record: dict[str, Any] = {
    "network": row.label,
    "dataset": row.dataset,
    "scale": row.scale,
  }
  if row.result is None:
    return {**record, "problem": row.problem}
  result = row.result
  figures = _figures([result])
  record.update({name: _number(result.mean(name)) for name in figures})
  record.update(
    published=None,
    seconds=round(result.seconds, 3),
    protocol=dataclasses.asdict(result.protocol),
    images=[_score_json(image, [*figures]) for image in result.images],
  )
  if result.frames:
    record["seconds_per_frame"] = round(result.seconds / result.frames, 4)
  if result.memory is not None:
    record.update(dataclasses.asdict(result.memory))
  for metric, protocol in result.protocols.items():
    if metric != "psnr":
      record[f"{metric}_protocol"] = dataclasses.asdict(protocol)
  if row.published is not None and row.figure is not None:
    record["published"] = {
      **dataclasses.asdict(row.figure),
      "difference": _number(row.difference),
      "key": row.published.key,
      "source": row.published.source,
    }
  return record


def _score_json(score: ImageScore, figures: Sequence[str]) -> dict[str, Any]:
  """Of an image; of a clip with its frames."""
  record = {name: _number(getattr(score, name)) for name in ("name", *figures)}
  if isinstance(score, ClipScore):
    record["frames"] = [_score_json(frame, figures) for frame in score.frames]
  return record


def _number(value: Any) -> Any:
  """JSON has no infinity, which the PSNR of a perfect image is."""
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


def _signed(value: float) -> str:
  """+0.12; a difference that rounds to nothing has no sign."""
  text = f"{value:+.2f}"
  return "0.00" if text in ("+0.00", "-0.00") else text
