"""The results as one HTML page that needs nothing beside it."""

import base64
import html
import string
from collections.abc import Sequence
from importlib import resources

import cv2
import numpy as np

from sr_jax.evaluation import benchmark, pictures, tables
from sr_jax.evaluation.results import BenchmarkResult

#: Pictures of one set and scale; they are taken evenly from the set.
_PICTURES = 5
#: Side of the square that is shown, in pixels of the ground truth.
_WINDOW = 96
_WHOLE = 320


def render(rows: Sequence[tables.Row], *, title: str, subtitle: str) -> str:
  """The page.

  Args:
    rows: The table; pictures are made of those whose result has its outputs.
    title: Heading.
    subtitle: What it was computed with.

  Returns:
    HTML with the pictures inside.
  """
  notes = [
    *(f'<p class="dim">{_text(x)}</p>' for x in tables.protocol_lines(rows)),
    *(f'<p class="dim">{_text(x)}</p>' for x in tables.source_lines(rows)),
    *(f'<p class="problem">{_text(x)}</p>' for x in tables.problem_lines(rows)),
  ]
  page = (
    resources.files("sr_jax.evaluation").joinpath("report.html").read_text()
  )
  return string.Template(page).substitute(
    title=_text(title),
    subtitle=_text(subtitle),
    table=_table(rows),
    notes="\n".join(notes),
    pictures="\n".join(_pictures(rows)),
  )


def _text(value: object) -> str:
  return html.escape(str(value))


def _table(rows: Sequence[tables.Row]) -> str:
  columns = tables.columns(rows)
  headings = (f"<th>{_text(column.heading)}</th>" for column in columns)
  lines = ["<tr>", *headings, "</tr>"]
  previous = None
  for row in rows:
    first = row.label != previous
    previous = row.label
    lines.append('<tr class="first">' if first else "<tr>")
    for i, column in enumerate(columns):
      kind, difference = column.kind, row.difference or 0.0
      # What is left of rounding the published figure is no difference.
      if kind == "difference" and abs(difference) >= 0.015:
        kind = "up" if difference > 0 else "down"
      text = _text(column.text(row)) if first or i else ""
      lines.append(f'<td class="{kind}">{text}</td>')
    lines.append("</tr>")
  return "\n".join(lines)


def _pictures(rows: Sequence[tables.Row]) -> list[str]:
  """A heading for each set and scale, and some of its pictures."""
  groups: dict[tuple[str, int | None], list[tables.Row]] = {}
  for row in rows:
    if row.result is not None and row.result.outputs:
      groups.setdefault((row.dataset, row.scale), []).append(row)
  parts = []
  for (dataset, scale), members in groups.items():
    parts.append(f"<h2>{_text(dataset)}, {scale} times enlarged</h2>")
    parts.append(
      '<p class="dim">The square is where bicubic interpolation is furthest '
      "from the ground truth.</p>"
    )
    count = len(members[0].images)
    chosen = np.linspace(0, count - 1, min(count, _PICTURES)).round()
    for index in chosen.astype(int):
      parts += _comparison(members, int(index))
  return parts


def _comparison(rows: Sequence[tables.Row], index: int) -> list[str]:
  """One picture by every network of the same set and scale."""
  results = {row.label: row.result for row in rows if row.result is not None}
  name, image = benchmark.ground_truth(rows[0].images, index)
  shown = pictures.panels(
    image,
    {label: result.outputs[index] for label, result in results.items()},
    scale=rows[0].scale or 1,
  )
  one = next(iter(results.values()))
  captions = {
    pictures.BICUBIC: _caption(one, index, "bicubic_"),
    pictures.GROUND_TRUTH: _caption(one, index, "hr_"),
    **{label: _caption(result, index) for label, result in results.items()},
  }
  window = pictures.busiest_window(shown, _WINDOW)
  whole = _framed(shown[pictures.GROUND_TRUTH], window)
  parts = [f"<h3>{_text(name)}</h3>", '<div class="panels">']
  height, width = image.shape[:2]
  parts.append(_figure(whole, "whole image", f"{width}×{height}", "whole"))
  for title, picture in shown.items():
    # Interpolations are networks of the table too; one panel is enough.
    caption = captions.get(title, "")
    parts.append(_figure(picture[window], title, caption))
  return [*parts, "</div>"]


def _caption(result: BenchmarkResult, index: int, of: str = "") -> str:
  """PSNR and NIQE of one image, as far as there are."""
  parts = []
  if "psnr" in result.protocols and of != "hr_":
    parts.append(f"{getattr(result.images[index], f'{of}psnr'):.2f} dB")
  luma = result.on_luma or result  # where NIQE is
  if "niqe" in luma.protocols:
    parts.append(f"NIQE {getattr(luma.images[index], f'{of}niqe'):.2f}")
  return ", ".join(parts)


def _framed(picture: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
  """The whole picture, small, with the window drawn on it."""
  factor = min(1.0, _WHOLE / max(picture.shape[:2]))
  size = [max(1, round(n * factor)) for n in picture.shape[1::-1]]
  small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
  rows, columns = window
  start = (round(columns.start * factor), round(rows.start * factor))
  stop = (round(columns.stop * factor) - 1, round(rows.stop * factor) - 1)
  return cv2.rectangle(small, start, stop, (232, 89, 12), 2)


def _figure(
  picture: np.ndarray, title: str, caption: str, kind: str = ""
) -> str:
  _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
  data = base64.b64encode(png.tobytes()).decode()
  return (
    f'<figure class="{kind}"><img alt="{_text(title)}" '
    f'src="data:image/png;base64,{data}"><figcaption><b>{_text(title)}</b> '
    f"<span>{_text(caption)}</span></figcaption></figure>"
  )
