"""Networks against benchmarks, beside what the papers printed."""

from sr_jax.evaluation.benchmark import (
  BenchmarkResult,
  ImageScore,
  PreparedBenchmark,
  evaluate,
  prepare,
)

__all__ = [
  "BenchmarkResult",
  "ImageScore",
  "PreparedBenchmark",
  "evaluate",
  "prepare",
]
