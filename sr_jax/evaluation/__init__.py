"""Networks against benchmarks, beside what the papers printed."""

from sr_jax.evaluation.benchmark import (
  PreparedBenchmark,
  evaluate,
  find_niqe_prior,
  prepare,
)
from sr_jax.evaluation.clip_protocols import CLIP_PROTOCOLS, ClipProtocol
from sr_jax.evaluation.clips import (
  PreparedClips,
  evaluate_clips,
  prepare_clips,
)
from sr_jax.evaluation.results import BenchmarkResult, ClipScore, ImageScore

__all__ = [
  "CLIP_PROTOCOLS",
  "BenchmarkResult",
  "ClipProtocol",
  "ClipScore",
  "ImageScore",
  "PreparedBenchmark",
  "PreparedClips",
  "evaluate",
  "evaluate_clips",
  "find_niqe_prior",
  "prepare",
  "prepare_clips",
]
