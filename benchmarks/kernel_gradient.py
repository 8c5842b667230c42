"""The gradient of a convolution's kernel on a CPU: XLA's and ours, in one run.

`python benchmarks/kernel_gradient.py [--json=FILE]`. Shapes of MSRResNet and
RRDBNet in training, alone and in the body of a loop; see README.md.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

# One thread and its processor seconds, which hold on a busy machine.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402

from sr_jax.ops import conv  # noqa: E402

_PADS = ((1, 1), (1, 1))
_LENGTH = 2  # of the loop

# What XLA makes of the convolution's own gradient, and what a CPU gets here.
_FORMS = {
  "xla": conv._kernel_gradient_lax,
  "ours": conv._kernel_gradient_cpu,
}

# Crops, pixels on a side, channels in and out; and whether the networks have
# it in a loop (there XLA's takes seconds, so the others are not tried).
_SHAPES = (
  ((4, 32, 64, 64), True),  # MSRResNet's body
  ((4, 32, 64, 256), False),  # upconv1
  ((4, 64, 64, 256), False),  # upconv2
  ((4, 128, 64, 64), False),  # conv_hr
  ((4, 128, 64, 3), False),  # conv_last
  ((2, 32, 64, 32), True),  # RRDBNet's dense blocks, conv1
  ((2, 32, 160, 32), True),  # conv4
  ((2, 32, 192, 64), True),  # conv5
)


def _exact(x: np.ndarray, g: np.ndarray) -> np.ndarray:
  """The gradient in float64."""
  rows, width = g.shape[1:3]
  x = np.pad(np.float64(x), ((0, 0), *_PADS, (0, 0)))
  g = np.float64(g).reshape(-1, g.shape[-1])
  windows = [
    x[:, i : i + rows, j : j + width].reshape(-1, x.shape[-1])
    for i in range(3)
    for j in range(3)
  ]
  return np.stack([w.T @ g for w in windows]).reshape(3, 3, -1, g.shape[-1])


def _looped(form):
  """The same gradient `_LENGTH` times, of arrays that differ each time."""

  def loop(x, kernel, g):
    def body(total, factor):
      return total + form(factor * x, kernel, g, _PADS), None

    factors = jnp.arange(1.0, _LENGTH + 1)
    return lax.scan(body, jnp.zeros_like(kernel), factors)[0]

  return jax.jit(loop)


def run(shape: tuple[int, int, int, int], looped: bool, rounds: int) -> dict:
  """Milliseconds a gradient, and its error, of each form."""
  batch, size, cin, cout = shape
  rng = np.random.default_rng(0)
  x = rng.standard_normal((batch, size, size, cin), np.float32)
  g = rng.standard_normal((batch, size, size, cout), np.float32)
  exact = _exact(x, g)
  x, g, kernel = jnp.asarray(x), jnp.asarray(g), jnp.zeros((3, 3, cin, cout))
  calls, errors = {}, {}
  for name, form in _FORMS.items():
    alone = jax.jit(lambda x, kernel, g, form=form: form(x, kernel, g, _PADS))
    calls[f"{name} alone"] = alone
    if looped:
      calls[f"{name} looped"] = _looped(form)
    errors[name] = float(
      np.abs(np.float64(alone(x, kernel, g)) - exact).max()
      / np.abs(exact).max()
    )
  times = {name: [] for name in calls}
  for turn in range(rounds + 1):
    for name, call in calls.items():
      start = time.process_time()
      jax.block_until_ready(call(x, kernel, g))
      seconds = time.process_time() - start
      if turn:  # the first compiles
        times[name].append(seconds / (_LENGTH if "looped" in name else 1))
  return {
    "shape": shape,
    "ms": {name: 1e3 * statistics.median(t) for name, t in times.items()},
    "fastest_ms": {name: 1e3 * min(t) for name, t in times.items()},
    "error": errors,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", type=pathlib.Path, help="also write rows here")
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  if jax.default_backend() != "cpu":
    sys.exit("this compares forms for a CPU; set JAX_PLATFORMS=cpu")
  print(
    f"one thread, processor time, jax {jax.__version__}, load "
    f"{os.getloadavg()[0]:.1f}\n{'crops':>6}{'size':>6}{'channels':>10}"
    f"{'alone: XLA ms':>15}{'ours':>8}{'ratio':>7}"
    f"{'looped: XLA ms':>16}{'ours':>8}{'ratio':>7}  error: XLA, ours"
  )
  rows = []
  for shape, looped in _SHAPES:
    row = run(shape, looped, args.rounds)
    rows.append(row)
    ms, errors = row["ms"], row["error"]
    line = f"{shape[0]:6}{shape[1]:6}{f'{shape[2]}->{shape[3]}':>10}"
    for kind, width in (("alone", 15), ("looped", 16)):
      if f"xla {kind}" not in ms:
        line += f"{'-':>{width}}{'-':>8}{'-':>7}"
        continue
      xla, ours = ms[f"xla {kind}"], ms[f"ours {kind}"]
      line += f"{xla:{width}.1f}{ours:8.1f}{xla / ours:7.1f}"
    print(f"{line}  {errors['xla']:.0e}, {errors['ours']:.0e}", flush=True)
  if args.json:
    args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
  main()
