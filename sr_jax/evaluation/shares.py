"""A set shared out over processes, and its figures put together again."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from sr_jax.evaluation.results import BenchmarkResult, ClipScore, ImageScore
from sr_jax.inference.clips import ClipMemory


def share(found: Any) -> Any:
  """Of a set every so many-th image or clip, from this process's first on.

  None where there are fewer than processes; an empty set, to be refused, stays.
  """
  if not found:
    return found
  return found[jax.process_index() :: jax.process_count()] or None


def as_share(result: BenchmarkResult | None) -> dict[str, Any] | None:
  """What a process found, as JSON; None where it had nothing to measure."""
  if result is None:
    return None
  colours = [x for x in (result, result.on_luma) if x is not None]
  return {
    "scores": [[dataclasses.asdict(x) for x in c.images] for c in colours],
    "seconds": result.seconds,
    "frames": result.frames,
    "memory": result.memory and dataclasses.asdict(result.memory),
  }


def pooled(
  result: BenchmarkResult, shares: Sequence[dict[str, Any] | None]
) -> BenchmarkResult:
  """The figures of a whole set, from those of every process's share.

  Args:
    result: Of this process's share.
    shares: `as_share` of each process, in their order.

  Returns:
    The result with the scores of all images, in the order of the set, the time
    of the slowest process, and the memory of the clip that took the most.
  """
  parts = [x for x in shares if x is not None]
  memory = ClipMemory()
  for part in parts:
    memory.include(ClipMemory(**(part["memory"] or {})))

  def whole(of: BenchmarkResult, colour: int) -> BenchmarkResult:
    scores = [part["scores"][colour] for part in parts]
    count, total = len(scores), sum(map(len, scores))
    return dataclasses.replace(
      of,
      images=tuple(_score(scores[i % count][i // count]) for i in range(total)),
      seconds=max(part["seconds"] for part in parts),
      frames=sum(part["frames"] for part in parts),
      memory=memory if memory.device_bytes else None,
    )

  luma = result.on_luma
  return dataclasses.replace(whole(result, 0), on_luma=luma and whole(luma, 1))


def _score(fields: dict[str, Any]) -> ImageScore:
  frames = fields.pop("frames", None)
  if frames is None:
    return ImageScore(**fields)
  return ClipScore(**fields, frames=tuple(ImageScore(**x) for x in frames))
