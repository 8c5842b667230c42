"""Speed of our deformable convolution beside torchvision's, in one run.

`python benchmarks/deform_conv.py [--json=FILE] [--cpu_time]`. Both sides get
the same operands and must agree before anything is timed; see README.md.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

# On a busy machine: one thread each, and processor seconds, not the clock's.
_CPU_TIME = "--cpu_time" in sys.argv
_THREADS = 1 if _CPU_TIME else 2
# XLA takes as many threads as there are processors when it starts.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_THREADS])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402

from sr_jax.ops.deform_conv import deform_conv2d  # noqa: E402

_TOLERANCE = 2e-5  # of the largest value
_OFFSET = 2.0  # standard deviation, pixels
_TAPS = 3
_NAMES = ("x", "offset", "kernel", "mask")


@dataclasses.dataclass(frozen=True)
class Case:
  """A layer of a published network.

  Attributes:
    name: Of the row.
    shape: Of its input, NHWC.
    cout: Channels of its output.
    deformable_groups: Of its input's channels.
  """

  name: str
  shape: tuple[int, int, int, int]
  cout: int = 64
  deformable_groups: int = 8


CASES = (
  Case("EDVR-M, level 1", (1, 64, 64, 64)),
  Case("EDVR-M, level 1, 5 frames", (5, 64, 64, 64)),
  Case("EDVR-M, level 2, 5 frames", (5, 32, 32, 64)),
  Case("BasicVSR++", (1, 64, 64, 128), deformable_groups=16),
)


def _operands(case: Case) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Ours, in float32, and a cotangent of the output."""
  rng = np.random.default_rng(0)
  b, h, w, cin = case.shape
  channels = case.deformable_groups * _TAPS**2
  kernel = rng.standard_normal((_TAPS, _TAPS, cin, case.cout), np.float32)
  operands = {
    "x": rng.standard_normal(case.shape, np.float32),
    "offset": _OFFSET * rng.standard_normal((b, h, w, 2 * channels)),
    "kernel": kernel / np.sqrt(_TAPS**2 * cin),
    "mask": rng.random((b, h, w, channels), np.float32),
  }
  operands = {name: np.float32(a) for name, a in operands.items()}
  return operands, rng.standard_normal((b, h, w, case.cout), np.float32)


def _our_calls(case: Case, operands: dict, g: np.ndarray) -> dict:
  def layer(operands):
    return deform_conv2d(
      **operands,
      padding=_TAPS // 2,
      deformable_groups=case.deformable_groups,
    )

  forward = jax.jit(layer)
  backward = jax.jit(lambda operands, g: jax.vjp(layer, operands)[1](g)[0])
  operands, g = jax.tree.map(jnp.asarray, (operands, g))
  return {
    "forward": lambda: jax.block_until_ready(forward(operands)),
    "backward": lambda: jax.block_until_ready(backward(operands, g)),
  }


def _to_torch(name: str, a: np.ndarray) -> torch.Tensor:
  axes = (3, 2, 0, 1) if name == "kernel" else (0, 3, 1, 2)
  return torch.from_numpy(np.ascontiguousarray(a.transpose(axes)))


def _from_torch(name: str, a: torch.Tensor) -> np.ndarray:
  axes = (2, 3, 1, 0) if name == "kernel" else (0, 2, 3, 1)
  return a.detach().numpy().transpose(axes)


def _peer_calls(operands: dict, g: np.ndarray) -> dict:
  tensors = {
    name: _to_torch(name, a).requires_grad_() for name, a in operands.items()
  }
  layer = functools.partial(
    torchvision.ops.deform_conv2d,
    tensors["x"],
    tensors["offset"],
    tensors["kernel"],
    padding=_TAPS // 2,
    mask=tensors["mask"],
  )
  cotangent = _to_torch("g", g)
  y = layer()

  def forward():
    with torch.inference_mode():
      return layer()

  def backward():
    return torch.autograd.grad(
      y, [tensors[name] for name in _NAMES], cotangent, retain_graph=True
    )

  return {"forward": forward, "backward": backward}


def _check_equal(case: Case, ours: dict, theirs: dict) -> float:
  """The largest difference, relative to the largest value of each array.

  Raises:
    SystemExit: they do not compute the same.
  """
  pairs = [(ours["forward"](), _from_torch("y", theirs["forward"]()))]
  gradients = ours["backward"]()
  pairs += [
    (gradients[name], _from_torch(name, gradient))
    for name, gradient in zip(_NAMES, theirs["backward"](), strict=True)
  ]
  worst = max(
    float(np.abs(np.float64(a) - b).max() / np.abs(b).max()) for a, b in pairs
  )
  if not worst < _TOLERANCE:
    raise SystemExit(
      f"{case.name}: ours and torchvision's differ by {worst:.1e} of the "
      f"largest value (allowed {_TOLERANCE:.0e}); a speed would mean nothing"
    )
  return worst


def _measure(calls: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
  """Seconds of each call, in turns: a pause, one not counted, two that are."""
  clock = time.process_time if _CPU_TIME else time.perf_counter
  times = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      time.sleep(0.05)
      for turn in range(3):
        start = clock()
        call()
        if turn:
          times[name].append(clock() - start)
  return times


def run(case: Case, rounds: int) -> list[dict]:
  """Two rows of the table: forward and backward.

  Raises:
    SystemExit: the two sides do not compute the same.
  """
  operands, g = _operands(case)
  ours, theirs = _our_calls(case, operands, g), _peer_calls(operands, g)
  difference = _check_equal(case, ours, theirs)
  rows = []
  for what in ours:
    times = _measure({"ours": ours[what], "peer": theirs[what]}, rounds)
    ms = {name: 1e3 * statistics.median(t) for name, t in times.items()}
    fastest = {name: 1e3 * min(t) for name, t in times.items()}
    rows.append(
      {
        "layer": case.name,
        "what": what,
        "input": "x".join(map(str, case.shape)),
        "ours_ms": ms["ours"],
        "peer_ms": ms["peer"],
        "ratio": ms["peer"] / ms["ours"],
        "fastest_ratio": fastest["peer"] / fastest["ours"],
        "difference": difference,
      }
    )
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", type=pathlib.Path, help="also write rows here")
  parser.add_argument(
    "--cpu_time",
    action="store_true",
    help="one thread, processor time: holds on a busy machine",
  )
  parser.add_argument("--rounds", type=int, default=6)
  args = parser.parse_args()
  torch.set_num_threads(_THREADS)
  setup = {
    "threads": _THREADS,
    "clock": "processor" if _CPU_TIME else "wall",
    "backend": jax.default_backend(),
    "jax": jax.__version__,
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
    "load": os.getloadavg()[0],
  }
  print("  ".join(f"{key} {value}" for key, value in setup.items()))
  print(
    f"{'layer':28}{'input NHWC':>13}  {'what':10}{'ours ms':>9}"
    f"{'torchvision ms':>16}{'ratio':>7}{'of fastest':>12}  difference"
  )
  rows = []
  for case in CASES:
    for row in run(case, args.rounds):
      rows.append(row)
      print(
        f"{row['layer']:28}{row['input']:>13}  {row['what']:10}"
        f"{row['ours_ms']:9.1f}{row['peer_ms']:16.1f}{row['ratio']:7.2f}"
        f"{row['fastest_ratio']:12.2f}  {row['difference']:.0e}",
        flush=True,
      )
  if args.json:
    args.json.write_text(json.dumps({"setup": setup, "rows": rows}, indent=1))


if __name__ == "__main__":
  main()
