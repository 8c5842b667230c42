"""Results as JSON can hold them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from sr_jax.evaluation.published import Figure, Published
from sr_jax.evaluation.results import ClipScore, ImageScore
from sr_jax.evaluation.tables import Row, figure_headings


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Everything the rows hold but pictures, as JSON can hold it."""
  return [_row_json(row) for row in rows]


def _row_json(row: Row) -> dict[str, Any]:
  record: dict[str, Any] = {
    "network": row.label,
    "dataset": row.dataset,
    "scale": row.scale,
  }
  result = row.result
  if result is None:
    record["problem"] = row.problem
    if row.published is not None and row.figure is not None:
      record["published"] = _published_json(row.published, row.figure)
    return record
  figures = figure_headings([result])
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
      **_published_json(row.published, row.figure),
      "difference": _number(row.difference),
      "ssim_difference": _number(row.ssim_difference),
    }
  return record


def _published_json(entry: Published, figure: Figure) -> dict[str, Any]:
  return {
    **dataclasses.asdict(figure),
    "key": entry.key,
    "source": entry.source,
  }


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
