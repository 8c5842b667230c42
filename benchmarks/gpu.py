"""Deep networks beside PyTorch on one GPU, in one run.

`python benchmarks/gpu.py [NETWORK ...]`; torchvision stands beside torch. Both
sides compute in bfloat16 or in TF32 (each library's default for float32
convolutions on such a chip), PyTorch eagerly, in channels_last. Forwards, and
the losses of a step, must agree before they are timed. A step is loss (mean
absolute error), gradients and Adam's update.
"""

import copy
import functools
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import peers_recurrent
import peers_video
import torch
from torch import nn

from sr_jax.models import build
from sr_jax.weights import from_torch

_ROUNDS, _CALLS = 5, 4
_LEARNING_RATE = 1e-4
# Of the largest value; the second is bfloat16's, 8 bits through 100 layers.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 6e-2}

#: Class of the peer, what is timed, and the shape of its input, NHWC or NTHWC.
CASES = (
  (peers.RRDBNet, "training step", (16, 32, 32, 3)),
  (peers.RRDBNet, "forward", (1, 256, 256, 3)),
  (peers.MSRResNet, "training step", (16, 32, 32, 3)),
  (peers.MSRResNet, "forward", (1, 256, 256, 3)),
  (peers_video.EDVR, "training step", (4, 5, 64, 64, 3)),
  (peers_video.EDVR, "forward", (1, 5, 180, 320, 3)),
  (peers_recurrent.BasicVSR, "training step", (2, 15, 64, 64, 3)),
  (peers_recurrent.BasicVSR, "forward", (1, 15, 192, 320, 3)),
)


def _ours(
  peer: nn.Module, what: str, lr: np.ndarray, hr: np.ndarray, dtype: str
) -> Callable[[], jax.Array]:
  model = build(type(peer).__name__.lower(), dtype=dtype)
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
  peer = copy.deepcopy(peer).to("cuda", memory_format=torch.channels_last)
  # Channels last in memory as they are.
  lr, hr = (torch.from_numpy(a).cuda().movedim(-1, -3) for a in (lr, hr))
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
  wanted = sys.argv[1:]
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
    f"{'network':26}{'input':>15}  {'dtype':9}{'ours ms':>9}"
    f"{'torch ms':>10}{'ratio':>7}  difference"
  )
  for make, what, shape in CASES:
    if wanted and make.__name__ not in wanted:
      continue
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    peer = make()
    lr = rng.random(shape, np.float32)
    *front, h, w, c = shape
    # Of the middle of five frames, or of all.
    front = front[: 1 if make is peers_video.EDVR else None]
    hr = rng.random((*front, 4 * h, 4 * w, c), np.float32)
    for dtype in ("float32", "bfloat16"):
      calls = {
        "ours": _ours(peer, what, lr, hr, dtype),
        "torch": _theirs(peer, what, lr, hr, dtype),
      }
      ours = np.asarray(calls["ours"](), np.float32)
      theirs = calls["torch"]().float().detach().cpu().numpy()
      if theirs.ndim:
        theirs = np.moveaxis(theirs, -3, -1)
      difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
      if not difference < _TOLERANCE[dtype]:
        raise SystemExit(f"{make.__name__} {dtype}: differ by {difference:.1e}")
      ms = _measure(calls, _wait)
      print(
        f"{make.__name__ + ', ' + what:26}{'x'.join(map(str, shape)):>15}  "
        f"{dtype:9}{ms['ours']:9.2f}{ms['torch']:10.2f}"
        f"{ms['torch'] / ms['ours']:7.2f}  {difference:.0e}",
        flush=True,
      )


if __name__ == "__main__":
  main()
