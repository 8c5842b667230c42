"""Results as text: the table, its protocol, per-image detail, and JSON."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sr_jax.evaluation.benchmark import BenchmarkResult, NamedImages
from sr_jax.evaluation.published import Figure, Published

HEADINGS = (
  "network",
  "set",
  "scale",
  "on",
  "PSNR",
  "SSIM",
  "bicubic",
  "SSIM",
  "published",
  "difference",
)


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
    protocol = self.result.protocol
    return self.published.find(
      protocol.dataset, protocol.scale, protocol.colour
    )

  @property
  def difference(self) -> float | None:
    """Measured minus published PSNR, in dB."""
    figure = self.figure
    if figure is None or self.result is None:
      return None
    return self.result.psnr - figure.psnr

  def cells(self) -> tuple[str, ...]:
    """The texts under `HEADINGS`; a problem leaves all but three empty."""
    scale = f"x{self.scale}" if self.scale else "-"
    if self.result is None:
      return (self.label, self.dataset, scale) + ("",) * (len(HEADINGS) - 3)
    result, figure, difference = self.result, self.figure, self.difference
    return (
      self.label,
      self.dataset,
      scale,
      result.protocol.colour,
      f"{result.psnr:.2f}",
      f"{result.ssim:.4f}",
      f"{result.bicubic_psnr:.2f}",
      f"{result.bicubic_ssim:.4f}",
      "-" if figure is None else f"{figure.psnr:.2f}",
      "-" if difference is None else _signed(difference),
    )


def protocol_lines(rows: Sequence[Row]) -> list[str]:
  """How the figures were measured, a line for each way that occurs."""
  lines = {}
  for row in rows:
    if row.result is not None:
      psnr, ssim = row.result.protocol, row.result.ssim_protocol
      lines[
        f"{psnr.colour}: PSNR in dB and SSIM ({ssim.ssim_flavour}), "
        f"{psnr.degradation}, crop = scale, {psnr.rounding}, mean over images"
      ] = None
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
  for i, heading in enumerate(HEADINGS):
    table.add_column(
      heading, justify="left" if i < 4 else "right", no_wrap=i > 0
    )
  previous = None
  for row in rows:
    cells = [escape(cell) for cell in row.cells()]
    if row.result is None:
      cells[4] = "see below"
    if previous is not None and row.label != previous:
      table.add_section()
    elif row.label == previous:
      cells[0] = ""
    previous = row.label
    table.add_row(*cells)
  console.print(table)
  for line in protocol_lines(rows) + source_lines(rows):
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
    table.add_column("image")
    for heading in ("PSNR", "SSIM", "bicubic", "SSIM", "gain"):
      table.add_column(heading, justify="right")
    for image in row.result.images:
      table.add_row(
        escape(image.name),
        f"{image.psnr:.2f}",
        f"{image.ssim:.4f}",
        f"{image.bicubic_psnr:.2f}",
        f"{image.bicubic_ssim:.4f}",
        _signed(image.psnr - image.bicubic_psnr),
      )
    console.print(table)


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
  means = ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim")
  record.update({name: _number(getattr(result, name)) for name in means})
  record.update(
    published=None,
    seconds=round(result.seconds, 3),
    protocol=dataclasses.asdict(result.protocol),
    ssim_protocol=dataclasses.asdict(result.ssim_protocol),
    images=[
      {key: _number(value) for key, value in dataclasses.asdict(image).items()}
      for image in result.images
    ],
  )
  if row.published is not None and row.figure is not None:
    record["published"] = {
      **dataclasses.asdict(row.figure),
      "difference": _number(row.difference),
      "key": row.published.key,
      "source": row.published.source,
    }
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
