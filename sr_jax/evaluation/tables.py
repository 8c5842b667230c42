"""Results as text: the table, its protocol, per-image detail."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sr_jax.evaluation.benchmark import NamedImages
from sr_jax.evaluation.published import Figure, Published
from sr_jax.evaluation.results import (
  FIGURES,
  BenchmarkResult,
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
    if self.published is None:
      return None
    if self.result is None:
      return self.published.find(
        self.dataset, self.scale or 0, self.published.colour
      )
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

  @property
  def ssim_difference(self) -> float | None:
    """Measured minus published SSIM, where both are of one kind."""
    figure = self.figure
    if figure is None or figure.ssim is None or self.result is None:
      return None
    how = self.result.protocols.get("ssim")
    if how is None or how.ssim_flavour != getattr(self.published, "ssim", ""):
      return None
    return self.result.mean("ssim") - figure.ssim


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
      text=_colour,
    ),
  ]
  figures = figure_headings(
    [row.result for row in rows if row.result is not None]
  )
  for name, heading in figures.items():
    kind = "other" if "_" in name else "figure"
    text = functools.partial(_mean, name)
    found.append(Column(heading=heading, kind=kind, text=text))
  if any(row.figure is not None for row in rows):
    found += [
      Column(heading="published", kind="other", text=_published),
      Column(heading="difference", kind="difference", text=_difference),
    ]
  if any(row.ssim_difference is not None for row in rows):
    found += [
      Column(heading="SSIM", kind="other", text=_published_ssim),
      Column(heading="difference", kind="other", text=_ssim_difference),
    ]
  return found


def _colour(row: Row) -> str:
  if row.result is not None:
    return row.result.protocol.colour
  return row.published.colour if row.published and row.figure else ""


def figure_headings(results: Sequence[BenchmarkResult]) -> dict[str, str]:
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
  if row.figure is None:
    return "" if row.result is None else "-"
  return f"{row.figure.psnr:.2f}"


def _difference(row: Row) -> str:
  if row.result is None:
    return ""
  return "-" if row.difference is None else _signed(row.difference)


def _published_ssim(row: Row) -> str:
  figure = row.figure
  if figure is None or figure.ssim is None:
    return "" if row.result is None else "-"
  return f"{figure.ssim:.4f}"


def _ssim_difference(row: Row) -> str:
  if row.result is None:
    return ""
  difference = row.ssim_difference
  return "-" if difference is None else _signed(difference, 4)


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
      line = f"published {row.published.title}: {row.published.source}"
      if count := row.published.parameters.get(row.scale or 0):
        line += f"; {count:,} parameters"
      lines[line] = None
  return list(lines)


def problem_lines(rows: Sequence[Row]) -> list[str]:
  """What could not be computed and why; one line for what has one reason."""
  lines: dict[tuple[str, str], list[str]] = {}
  for row in rows:
    if row.problem:
      where = row.dataset + (f" x{row.scale}" if row.scale else "")
      lines.setdefault((row.label, row.problem), []).append(where)
  return [
    f"{label}, {', '.join(places)}: {problem}"
    for (label, problem), places in lines.items()
  ]


def print_table(rows: Sequence[Row], console: Console) -> None:
  """The table, the protocol under it, and what could not be computed."""
  table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
  shown = columns(rows)
  for i, column in enumerate(shown):
    table.add_column(
      column.heading,
      justify="left" if column.kind == "name" else "right",
      no_wrap=i > 0,
      overflow="fold",
    )
  previous = None
  for row in rows:
    cells = [escape(column.text(row)) for column in shown]
    if row.result is None and shown[4].kind == "figure":
      cells[4] = "see below"
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
  for line in problem_lines(rows):
    console.print(
      line, style="red", markup=False, highlight=False, soft_wrap=True
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
    figures = figure_headings([row.result])
    gain = ["gain"] if "psnr" in figures else []
    for heading in (*figures.values(), *gain):
      table.add_column(heading, justify="right")
    for image in row.result.images:
      cells = [_format(name, getattr(image, name)) for name in figures]
      if gain:
        cells.append(_signed(image.psnr - image.bicubic_psnr))
      table.add_row(escape(image.name), *cells)
    _print_whole(table, console)


def _signed(value: float, decimals: int = 2) -> str:
  """+0.12; a difference that rounds to nothing has no sign."""
  text = f"{value:+.{decimals}f}"
  return text[1:] if not text.strip("+-0.") else text
