"""Networks against benchmarks, beside what the papers printed."""

from sr_jax.evaluation.benchmark import (
  PreparedBenchmark,
  evaluate,
  find_niqe_prior,
  prepare,
)
from sr_jax.evaluation.results import BenchmarkResult, ImageScore

__all__ = [
  "BenchmarkResult",
  "ImageScore",
  "PreparedBenchmark",
  "evaluate",
  "find_niqe_prior",
  "prepare",
]
