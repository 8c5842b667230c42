"""FSRCNN x3 after so many steps, by optimizer, rate and loss.

`SR_JAX_DATA=/my/sets python benchmarks/optimizers.py muon:1e-2:l1:0.3 ...`
prints the PSNR on Set5 for each OPTIMIZER:RATE:LOSS:FACTOR, of which the last
multiplies the deconvolution's rate: a minute of one CPU core for 10,000 steps.
T91 + BSD200, cut into crops that stay in memory; the step is compiled into a
loop, so that the time is the network's and the optimizer's alone.
"""

import argparse
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import fsrcnn as recipe
from sr_jax import losses, models
from sr_jax.data import load_images
from sr_jax.evaluation import benchmark
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize
from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.schedules import cosine_restarts

_SCALE, _SIDE, _STRIDE, _BATCH, _LOOP = 3, 20, 9, 8, 500
_EMA = 0.999
_LOSSES = {"l1": losses.l1, "mse": losses.mse}


def crops() -> tuple[np.ndarray, np.ndarray]:
  """Low and high resolution, `[n, 20, 20, 1]` and `[n, 60, 60, 1]`."""
  small, large = [], []
  images = load_images("t91+bsd200")
  for index in range(len(images)):
    y = np.asarray(rgb_to_y(images[index][1] / 255.0))
    rows, columns = (side // _SCALE for side in y.shape[:2])
    hr = y[: rows * _SCALE, : columns * _SCALE].astype(np.float32)
    lr = np.asarray(imresize(hr, 1 / _SCALE))
    for i in range(0, rows - _SIDE + 1, _STRIDE):
      for j in range(0, columns - _SIDE + 1, _STRIDE):
        small.append(lr[i : i + _SIDE, j : j + _SIDE])
        top, left, side = i * _SCALE, j * _SCALE, _SIDE * _SCALE
        large.append(hr[top : top + side, left : left + side])
  return np.stack(small), np.stack(large)


def flipped(images: np.ndarray, kinds: np.ndarray) -> np.ndarray:
  """Each in one of the eight ways."""
  images = images.copy()
  for kind in range(1, 8):
    part = images[kinds == kind]
    part = part[:, ::-1] if kind & 1 else part
    part = part[:, :, ::-1] if kind & 2 else part
    images[kinds == kind] = part.transpose(0, 2, 1, 3) if kind & 4 else part
  return images


def train(spec: str, steps: int, small: np.ndarray, large: np.ndarray) -> str:
  """A line of the table."""
  name, rate, loss, factor = spec.split(":")
  model = models.build(**recipe.get_config("x3").model)
  variables = model.init(jax.random.key(0), jnp.zeros((1, _SIDE, _SIDE, 1)))
  rate = float(rate)
  optimizer = make_optimizer(
    cosine_restarts(rate, periods=(steps,), eta_min=rate / 1000),
    name=name,
    multipliers=(("deconv", float(factor)),),
  )
  criterion = _LOSSES[loss]

  def of(variables, lr, hr):
    return criterion(model.apply(variables, lr), hr)

  @jax.jit
  def loop(state, lr, hr):
    def update(state, batch):
      variables, moments, average, step = state
      gradients = jax.grad(of)(variables, *batch)
      updates, moments = optimizer.update(
        gradients, moments, variables, step=step
      )
      variables = optax.apply_updates(variables, updates)
      average = optax.incremental_update(variables, average, 1 - _EMA)
      return (variables, moments, average, step + 1), None

    return jax.lax.scan(update, state, (lr, hr))[0]

  rng = np.random.default_rng(0)
  state = variables, optimizer.init(variables), variables, jnp.int32(0)
  spent = time.process_time()
  for _ in range(steps // _LOOP):
    chosen = rng.integers(0, len(small), _LOOP * _BATCH)
    kinds = rng.integers(0, 8, _LOOP * _BATCH)
    batches = [
      flipped(x[chosen], kinds).reshape(_LOOP, _BATCH, *x.shape[1:])
      for x in (small, large)
    ]
    state = jax.block_until_ready(loop(state, *batches))
  spent = time.process_time() - spent
  prepared = benchmark.prepare("set5", scale=_SCALE, channels=1)
  result = benchmark.evaluate(model, state[2], prepared)
  return f"{spec}: {result.psnr:.2f} dB on Set5 x3, {spent:.0f} s of a core"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("specs", nargs="+", metavar="OPTIMIZER:RATE:LOSS:FACTOR")
  parser.add_argument("--steps", type=int, default=10_000)
  args = parser.parse_args()
  small, large = crops()
  for spec in args.specs:
    print(train(spec, args.steps, small, large), flush=True)


if __name__ == "__main__":
  main()
