"""Speed of our networks beside the same networks in PyTorch, in one run.

`python benchmarks/networks.py [--json=FILE] [--cpu_time]`. Both sides get the
same weights and input and must agree before anything is timed; see README.md.
"""

import argparse
import copy
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable

# On a busy machine: one thread each, and processor seconds, not the clock's.
_CPU_TIME = "--cpu_time" in sys.argv
_THREADS = 1 if _CPU_TIME else 2
_CPUS = sorted(os.sched_getaffinity(0))[:_THREADS]
# XLA takes as many threads as there are processors when it starts.
os.sched_setaffinity(0, _CPUS)

import flax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import peers  # noqa: E402
import peers_recurrent  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from sr_jax.models import build  # noqa: E402
from sr_jax.weights import from_torch, to_torch  # noqa: E402

_TOLERANCE = 2e-5  # of the largest value
_KINK_TOLERANCE = 2e-2  # of gradients past ReLUs that round to either side
_LEARNING_RATE = 1e-4


@dataclasses.dataclass
class Case:
  """A network of both libraries and the size of its input.

  Attributes:
    name: Of the row.
    ours: Arguments of `models.build`.
    peer: Makes the same in PyTorch.
    shape: Of the input, NHWC or NTHWC.
    what: "forward", "gradients" (of the mean squared error) or "step": loss,
      gradients and Adam's update, of the mean absolute error.
    slow: Takes a second or so, and fewer rounds.
  """

  name: str
  ours: tuple[str, dict]
  peer: Callable[[], nn.Module]
  shape: tuple[int, ...]
  what: str = "forward"
  slow: bool = False


def _fsrcnn(scale: int, shape: tuple[int, ...], what: str = "forward") -> Case:
  kind = "training step" if what == "gradients" else what
  return Case(
    f"FSRCNN(56,12,4) x{scale}, {kind}",
    ("fsrcnn", {"scale": scale}),
    lambda: peers.FSRCNN(scale),
    shape,
    what,
  )


def _srcnn(sizes: tuple[int, int, int], shape: tuple[int, ...]) -> Case:
  return Case(
    f"SRCNN {'-'.join(map(str, sizes))} x3, forward",
    ("srcnn", {"scale": 3, "kernel_sizes": sizes}),
    lambda: peers.SRCNN(3, sizes),
    shape,
  )


def _edvr() -> nn.Module:
  # torchvision is needed for this alone.
  from peers_video import EDVR

  return EDVR()


def _deep(peer: type[nn.Module], shape: tuple[int, ...], what: str) -> Case:
  name = peer.__name__
  kind = "training step" if what == "step" else what
  return Case(
    f"{name} x4, {kind}", (name.lower(), {"scale": 4}), peer, shape, what, True
  )


CASES = (
  _fsrcnn(4, (1, 180, 320, 1)),
  _fsrcnn(3, (1, 180, 320, 1)),
  _fsrcnn(2, (1, 180, 320, 1)),
  _srcnn((9, 5, 5), (1, 113, 170, 1)),
  _srcnn((9, 1, 5), (1, 113, 170, 1)),
  _fsrcnn(3, (16, 14, 14, 1), "gradients"),
  _fsrcnn(3, (16, 24, 24, 1), "gradients"),
  _fsrcnn(3, (16, 32, 32, 1), "gradients"),
  _deep(peers.MSRResNet, (1, 128, 128, 3), "forward"),
  _deep(peers.RRDBNet, (1, 64, 64, 3), "forward"),
  _deep(peers.MSRResNet, (4, 32, 32, 3), "step"),
  _deep(peers.RRDBNet, (2, 32, 32, 3), "step"),
  Case("EDVR-M x4, forward", ("edvr", {}), _edvr, (1, 5, 64, 64, 3), slow=True),
  Case(
    "BasicVSR x4, forward",
    ("basicvsr", {}),
    peers_recurrent.BasicVSR,
    (1, 5, 64, 64, 3),
    slow=True,
  ),
)


def _scale(case: Case) -> int:
  name, kwargs = case.ours
  return build(name, **kwargs).scale


def _arrays(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict:
  return {name: t.detach().numpy() for name, t in tensors}


def _our_call(case: Case, peer: nn.Module, lr: np.ndarray, hr: np.ndarray):
  """Runs ours once, and returns what the peer's call does."""
  name, kwargs = case.ours
  dtype = lr.dtype
  model = build(name, **kwargs)
  if dtype == np.float64:
    model = model.clone(dtype=dtype)
  variables = jax.tree.map(
    lambda x: jnp.asarray(x, dtype),
    from_torch(model, _arrays(peer.named_parameters())),
  )
  lr, hr = jnp.asarray(lr), jnp.asarray(hr)
  if case.what == "forward":
    forward = jax.jit(model.apply)
    return lambda: jax.block_until_ready(forward(variables, lr))

  def loss(variables, lr, hr):
    difference = model.apply(variables, lr) - hr
    squared = case.what == "gradients"
    return jnp.mean(difference**2 if squared else jnp.abs(difference))

  if case.what == "gradients":
    gradients = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(gradients(variables, lr, hr))

  optimizer = optax.adam(_LEARNING_RATE)

  # As the trainer has it: the old state's memory is the new one's.
  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(variables, state, lr, hr):
    value, gradients = jax.value_and_grad(loss)(variables, lr, hr)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(variables, updates), state, value

  state = jax.jit(optimizer.init)(variables)

  def step():
    nonlocal variables, state
    variables, state, value = jax.block_until_ready(
      update(variables, state, lr, hr)
    )
    return value, state[0].mu

  return step


def _channels_first(
  array: np.ndarray, memory_format: torch.memory_format
) -> torch.Tensor:
  """NHWC or NTHWC in PyTorch's order, its memory as the format says."""
  tensor = torch.from_numpy(array).movedim(-1, -3)
  # It lies channels last as it is, and has no name for that with frames.
  last = memory_format == torch.channels_last
  return tensor if last else tensor.contiguous()


def _peer_call(
  case: Case,
  peer: nn.Module,
  lr: np.ndarray,
  hr: np.ndarray,
  memory_format: torch.memory_format,
):
  peer = copy.deepcopy(peer).to(memory_format=memory_format)
  peer = peer.to(torch.from_numpy(lr).dtype)
  lr, hr = (_channels_first(a, memory_format) for a in (lr, hr))
  # `fused` is the fastest of its three on a CPU.
  optimizer = torch.optim.Adam(peer.parameters(), _LEARNING_RATE, fused=True)

  def forward():
    with torch.inference_mode():
      return peer(lr)

  def gradients():
    optimizer.zero_grad(set_to_none=True)
    difference = peer(lr) - hr
    squared = case.what == "gradients"
    loss = torch.mean(difference**2 if squared else torch.abs(difference))
    loss.backward()
    return loss, peer

  def step():
    loss_and_peer = gradients()
    optimizer.step()
    return loss_and_peer

  return {"forward": forward, "gradients": gradients, "step": step}[case.what]


def _results(case: Case, our_call: Callable, peer_call: Callable):
  """Pairs of arrays that should be equal: output, or loss and gradients."""
  ours, theirs = our_call(), peer_call()
  if case.what == "forward":
    return [(ours, theirs.movedim(-3, -1).numpy())]
  name, kwargs = case.ours
  (loss, grads), (their_loss, peer) = ours, theirs
  # Adam's first moment is a tenth of the first gradient.
  factor = 10 if case.what == "step" else 1
  grads = to_torch(build(name, **kwargs), jax.device_get(grads))
  pairs = [(loss, their_loss.detach().numpy())]
  pairs += [
    (factor * grads[name], p.grad.numpy())
    for name, p in peer.named_parameters()
  ]
  return pairs


def _worst(pairs: Iterable[tuple]) -> float:
  """The largest difference, relative to the largest value of each array."""
  worst = 0.0
  for a, b in pairs:
    a, b = np.float64(a), np.float64(b)
    worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
  return worst


def _check_equal(
  case: Case, peer: nn.Module, lr: np.ndarray, hr: np.ndarray
) -> float:
  """The largest relative difference between ours and the peer's.

  Of a deep network's millions of ReLUs a few are so near zero that rounding
  decides their side, and each moves all gradients before it, by 3.5e-3 in one
  case. So the gradients of a step are compared in float64, on one small crop;
  of the step that is timed, the loss, before and after the update, and the
  gradients within a wider tolerance.

  Raises:
    SystemExit: they do not compute the same.
  """

  def both(lr: np.ndarray, hr: np.ndarray) -> tuple[Callable, Callable]:
    ours = _our_call(case, peer, lr, hr)
    return ours, _peer_call(case, peer, lr, hr, torch.contiguous_format)

  calls = both(lr, hr)
  pairs = _results(case, *calls)
  kinks = 0.0
  if case.what == "step":
    kinks = _worst(pairs[1:]) * _TOLERANCE / _KINK_TOLERANCE
    size, scale = 16, _scale(case)
    updated = (calls[0]()[0], calls[1]()[0].detach().numpy())
    with jax.enable_x64(True):
      crops = lr[:1, :size, :size], hr[:1, : size * scale, : size * scale]
      exact = _results(case, *both(*map(np.float64, crops)))
    pairs = [pairs[0], updated, *exact]
  worst = _worst(pairs)
  if not max(worst, kinks) < _TOLERANCE:
    raise SystemExit(
      f"{case.name}: ours and the peer's differ by {worst:.1e} of the largest "
      f"value (allowed {_TOLERANCE:.0e}), or the gradients in float32 by "
      f"{kinks / _TOLERANCE * _KINK_TOLERANCE:.1e} (allowed "
      f"{_KINK_TOLERANCE:.0e}); a speed would mean nothing"
    )
  return worst


def _measure(calls: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
  """Seconds of each call, in turns.

  A turn is a pause, in which the other library's threads stop spinning, one
  call that is not counted, and three that are.
  """
  clock = time.process_time if _CPU_TIME else time.perf_counter
  times = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      time.sleep(0.05)
      call()
      for _ in range(3):
        start = clock()
        call()
        times[name].append(clock() - start)
  return times


def run(case: Case, rounds: int) -> dict:
  """One row of the table.

  Raises:
    SystemExit: the two networks do not compute the same.
  """
  rng = np.random.default_rng(0)
  torch.manual_seed(0)
  peer = case.peer()
  lr = rng.random(case.shape, np.float32)
  b, h, w, c = (case.shape[0], *case.shape[-3:])
  scale = _scale(case)
  hr = rng.random((b, h * scale, w * scale, c), np.float32)
  difference = _check_equal(case, peer, lr, hr)
  calls = {"ours": _our_call(case, peer, lr, hr)}
  for name, memory_format in (
    ("contiguous", torch.contiguous_format),
    ("channels_last", torch.channels_last),
  ):
    calls[name] = _peer_call(case, peer, lr, hr, memory_format)
  times = _measure(calls, rounds)
  ms = {name: 1e3 * statistics.median(t) for name, t in times.items()}
  layout = min(("contiguous", "channels_last"), key=ms.__getitem__)
  return {
    "network": case.name,
    "input": "x".join(map(str, case.shape)),
    "ours_ms": ms["ours"],
    "peer_ms": ms[layout],
    "peer_layout": layout,
    "ratio": ms[layout] / ms["ours"],
    "channels_last_ratio": ms["channels_last"] / ms["ours"],
    "fastest_ratio": min(*times["contiguous"], *times["channels_last"])
    / min(times["ours"]),
    "ours_per_second": 1e3 * b / ms["ours"],
    "difference": difference,
    "median_ms": ms,
    "fastest_ms": {name: 1e3 * min(t) for name, t in times.items()},
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--json", type=pathlib.Path, help="also write rows here")
  parser.add_argument(
    "--cpu_time",
    action="store_true",
    help="one thread, processor time: holds on a busy machine",
  )
  parser.add_argument("--rounds", type=int, default=20)
  parser.add_argument(
    "--slow_rounds", type=int, default=4, help="of the deep networks"
  )
  parser.add_argument("--only", default="", help="cases whose name has this")
  args = parser.parse_args()
  torch.set_num_threads(_THREADS)
  setup = {
    "threads": _THREADS,
    "clock": "processor" if _CPU_TIME else "wall",
    "backend": jax.default_backend(),
    "jax": jax.__version__,
    "flax": flax.__version__,
    "torch": torch.__version__,
    "load": os.getloadavg()[0],
  }
  print("  ".join(f"{key} {value}" for key, value in setup.items()))
  if setup["load"] > 0.5 and not _CPU_TIME:
    print(
      "other programs are running: the figures mean little, and a library "
      "whose threads spin while they wait suffers most; see --cpu_time"
    )
  print(
    f"{'network':34}{'input NHWC':>15}{'ours ms':>9}{'torch ms':>10}"
    f"{'ratio':>7}{'of fastest':>12}{'images/s':>10}  {'layout':15}difference"
  )
  rows = []
  for case in CASES:
    if args.only not in case.name:
      continue
    row = run(case, args.slow_rounds if case.slow else args.rounds)
    rows.append(row)
    print(
      f"{row['network']:34}{row['input']:>15}{row['ours_ms']:9.2f}"
      f"{row['peer_ms']:10.2f}{row['ratio']:7.2f}{row['fastest_ratio']:12.2f}"
      f"{row['ours_per_second']:10.1f}  {row['peer_layout']:15}"
      f"{row['difference']:.0e}",
      flush=True,
    )
  if args.json:
    args.json.write_text(json.dumps({"setup": setup, "rows": rows}, indent=1))


if __name__ == "__main__":
  main()
