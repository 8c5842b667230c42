"""Deep networks beside PyTorch on one GPU, in one run.

`python benchmarks/gpu.py`. Both sides compute in bfloat16 or in TF32 (each
library's default for float32 convolutions on such a chip), PyTorch eagerly and
in channels_last. Forwards, and the losses of a step, must agree before they are
timed. A step is loss (mean absolute error), gradients and Adam's update.
"""

import copy
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import torch
from torch import nn

from sr_jax.models import build
from sr_jax.weights import from_torch

_ROUNDS, _CALLS = 5, 4
_LEARNING_RATE = 1e-4
# Of the largest value; the second is bfloat16's, 8 bits through 100 layers.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 6e-2}

#: Class of the peer, what is timed, and the shape of its input, NHWC.
CASES = (
  (peers.RRDBNet, "training step", (16, 32, 32, 3)),
  (peers.RRDBNet, "forward", (1, 256, 256, 3)),
  (peers.MSRResNet, "training step", (16, 32, 32, 3)),
  (peers.MSRResNet, "forward", (1, 256, 256, 3)),
)


def _ours(
  peer: nn.Module, what: str, lr: np.ndarray, hr: np.ndarray, dtype: str
) -> Callable[[], jax.Array]:
  model = build(type(peer).__name__.lower(), scale=4, dtype=dtype)
  arrays = {k: v.detach().numpy() for k, v in peer.named_parameters()}
  variables = jax.device_put(from_torch(model, arrays))
  lr, hr = jax.device_put((lr, hr))
  if what == "forward":
    forward = jax.jit(model.apply)
    return lambda: forward(variables, lr)
  optimizer = optax.adam(_LEARNING_RATE)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(variables, state, lr, hr):
    value, gradients = jax.value_and_grad(
      lambda v: jnp.mean(jnp.abs(model.apply(v, lr) - hr))
    )(variables)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(variables, updates), state, value

  state = jax.jit(optimizer.init)(variables)

  def step():
    nonlocal variables, state
    variables, state, value = update(variables, state, lr, hr)
    return value

  return step


def _theirs(
  peer: nn.Module,
  what: str,
  lr: np.ndarray,
  hr: np.ndarray,
  dtype: str,
) -> Callable[[], torch.Tensor]:
  layout = {"device": "cuda", "memory_format": torch.channels_last}
  peer = copy.deepcopy(peer).to(**layout)
  lr, hr = (
    torch.from_numpy(a.transpose(0, 3, 1, 2)).to(**layout) for a in (lr, hr)
  )
  optimizer = torch.optim.Adam(peer.parameters(), _LEARNING_RATE, fused=True)
  cast = functools.partial(
    torch.autocast, "cuda", torch.bfloat16, enabled=dtype == "bfloat16"
  )

  def forward():
    with torch.no_grad(), cast():
      return peer(lr)

  def step():
    optimizer.zero_grad(set_to_none=True)
    with cast():
      loss = torch.mean(torch.abs(peer(lr) - hr))
    loss.backward()
    optimizer.step()
    return loss

  return forward if what == "forward" else step


def _measure(calls: dict[str, Callable], wait: Callable) -> dict[str, float]:
  """Median milliseconds of a call, in turns, each a few calls and a wait."""
  times = {name: [] for name in calls}
  for name, call in calls.items():
    for _ in range(3):
      wait(name, call())
  for _ in range(_ROUNDS):
    for name, call in calls.items():
      start = time.perf_counter()
      for _ in range(_CALLS):
        result = call()
      wait(name, result)
      times[name].append((time.perf_counter() - start) / _CALLS)
  return {name: 1e3 * statistics.median(t) for name, t in times.items()}


def _wait(name: str, result) -> None:
  if name == "ours":
    jax.block_until_ready(result)
  else:
    torch.cuda.synchronize()


def main() -> None:
  torch.backends.cuda.matmul.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  print(
    torch.cuda.get_device_name(0),
    "jax",
    jax.__version__,
    "torch",
    torch.__version__,
  )
  print(
    f"{'network':26}{'input':>14}  {'dtype':9}{'ours ms':>9}"
    f"{'torch ms':>10}{'ratio':>7}  difference"
  )
  for make, what, shape in CASES:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    peer = make()
    lr = rng.random(shape, np.float32)
    b, h, w, c = shape
    hr = rng.random((b, 4 * h, 4 * w, c), np.float32)
    for dtype in ("float32", "bfloat16"):
      calls = {
        "ours": _ours(peer, what, lr, hr, dtype),
        "torch": _theirs(peer, what, lr, hr, dtype),
      }
      ours = np.asarray(calls["ours"](), np.float32)
      theirs = calls["torch"]().float().detach().cpu().numpy()
      if theirs.ndim:
        theirs = theirs.transpose(0, 2, 3, 1)
      difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
      if not difference < _TOLERANCE[dtype]:
        raise SystemExit(f"{make.__name__} {dtype}: differ by {difference:.1e}")
      ms = _measure(calls, _wait)
      print(
        f"{make.__name__ + ', ' + what:26}{'x'.join(map(str, shape)):>14}  "
        f"{dtype:9}{ms['ours']:9.2f}{ms['torch']:10.2f}"
        f"{ms['torch'] / ms['ours']:7.2f}  {difference:.0e}",
        flush=True,
      )


if __name__ == "__main__":
  main()
