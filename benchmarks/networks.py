"""Speed of our networks beside the same networks in PyTorch, in one run.

`python benchmarks/networks.py [--json=FILE] [--cpu_time]`. Both sides get the
same weights and input and must agree before anything is timed; see README.md.
"""

import argparse
import copy
import dataclasses
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
_CPUS = sorted(os.sched_getaffinity(0))[:_THREADS]
# XLA takes as many threads as there are processors when it starts.
os.sched_setaffinity(0, _CPUS)

import flax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from sr_jax.models import build  # noqa: E402

_TOLERANCE = 2e-5  # of the largest value


class TorchFSRCNN(nn.Sequential):
  """FSRCNN(56, 12, 4), as Dong et al. 2016 have it."""

  def __init__(self, scale: int):
    layers = [nn.Conv2d(1, 56, 5, padding=2), nn.PReLU(56)]
    layers += [nn.Conv2d(56, 12, 1), nn.PReLU(12)]
    for _ in range(4):
      layers += [nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12)]
    layers += [nn.Conv2d(12, 56, 1), nn.PReLU(56)]
    layers += [
      nn.ConvTranspose2d(56, 1, 9, scale, padding=4, output_padding=scale - 1)
    ]
    super().__init__(*layers)


class TorchSRCNN(nn.Module):
  """SRCNN f1-f2-f3 behind bicubic enlargement."""

  def __init__(self, scale: int, kernel_sizes: tuple[int, int, int]):
    super().__init__()
    self.scale = scale
    widths = (1, 64, 32, 1)
    self.convs = nn.ModuleList(
      nn.Conv2d(widths[i], widths[i + 1], size, padding=size // 2)
      for i, size in enumerate(kernel_sizes)
    )

  def forward(self, x):
    """Low resolution in, high resolution out."""
    x = nn.functional.interpolate(x, scale_factor=self.scale, mode="bicubic")
    for conv in self.convs[:-1]:
      x = torch.relu(conv(x))
    return self.convs[-1](x)


@dataclasses.dataclass
class Case:
  """A network of both libraries and the size of its input."""

  name: str
  ours: tuple[str, dict]
  peer: Callable[[], nn.Module]
  layers: tuple[str, ...]  # ours, in the order of the peer's parameters
  shape: tuple[int, int, int, int]  # NHWC
  train: bool = False


_FSRCNN_LAYERS = (
  *(("feature", "feature_act", "shrink", "shrink_act")),
  *(f"map_{i}{act}" for i in range(4) for act in ("", "_act")),
  *(("expand", "expand_act", "deconv")),
)
_SRCNN_LAYERS = ("conv1", "conv2", "conv3")


def _fsrcnn(scale: int, shape: tuple[int, ...], train: bool = False) -> Case:
  kind = "training step" if train else "forward"
  return Case(
    f"FSRCNN(56,12,4) x{scale}, {kind}",
    ("fsrcnn", {"scale": scale}),
    lambda: TorchFSRCNN(scale),
    _FSRCNN_LAYERS,
    shape,
    train,
  )


def _srcnn(sizes: tuple[int, int, int], shape: tuple[int, ...]) -> Case:
  return Case(
    f"SRCNN {'-'.join(map(str, sizes))} x3, forward",
    ("srcnn", {"scale": 3, "kernel_sizes": sizes}),
    lambda: TorchSRCNN(3, sizes),
    _SRCNN_LAYERS,
    shape,
  )


CASES = (
  _fsrcnn(4, (1, 180, 320, 1)),
  _fsrcnn(3, (1, 180, 320, 1)),
  _fsrcnn(2, (1, 180, 320, 1)),
  _srcnn((9, 5, 5), (1, 113, 170, 1)),
  _srcnn((9, 1, 5), (1, 113, 170, 1)),
  _fsrcnn(3, (16, 14, 14, 1), train=True),
  _fsrcnn(3, (16, 24, 24, 1), train=True),
  _fsrcnn(3, (16, 32, 32, 1), train=True),
)


def _variables(peer: nn.Module, layers: tuple[str, ...]) -> dict:
  """The peer's parameters as ours."""
  params = {}
  modules = [m for m in peer.modules() if not list(m.children())]
  for name, module in zip(layers, modules, strict=True):
    weight = module.weight.detach().numpy()
    if isinstance(module, nn.PReLU):
      params[name] = {"slope": weight}
      continue
    transposed = isinstance(module, nn.ConvTranspose2d)
    axes = (2, 3, 0, 1) if transposed else (2, 3, 1, 0)
    params[name] = {
      "kernel": np.ascontiguousarray(weight.transpose(axes)),
      "bias": module.bias.detach().numpy(),
    }
  return {"params": jax.tree.map(jnp.asarray, params)}


def _our_call(case: Case, variables: dict, lr: np.ndarray, hr: np.ndarray):
  name, kwargs = case.ours
  model = build(name, **kwargs)
  lr, hr = jnp.asarray(lr), jnp.asarray(hr)
  if case.train:

    def loss(variables, lr, hr):
      return jnp.mean((model.apply(variables, lr) - hr) ** 2)

    compiled = jax.jit(jax.value_and_grad(loss))
  else:
    compiled = jax.jit(lambda variables, lr, hr: model.apply(variables, lr))
  return lambda: jax.block_until_ready(compiled(variables, lr, hr))


def _peer_call(
  case: Case,
  peer: nn.Module,
  lr: np.ndarray,
  hr: np.ndarray,
  memory_format: torch.memory_format,
):
  peer = copy.deepcopy(peer).to(memory_format=memory_format)
  lr, hr = (
    torch.from_numpy(a)
    .permute(0, 3, 1, 2)
    .contiguous(memory_format=memory_format)
    for a in (lr, hr)
  )

  def forward():
    with torch.inference_mode():
      return peer(lr)

  def step():
    peer.zero_grad(set_to_none=True)
    loss = torch.mean((peer(lr) - hr) ** 2)
    loss.backward()
    return loss, peer

  return step if case.train else forward


def _check_equal(case: Case, ours, theirs) -> float:
  """The largest difference, relative to the largest value of each array."""
  if case.train:
    loss, grads = ours
    their_loss, peer = theirs
    as_is = {name: p.grad for name, p in peer.named_parameters()}
    for name, p in peer.named_parameters():
      p.grad = None
      p.data = as_is[name]
    theirs = {"loss": their_loss.detach().numpy()[None]}
    theirs |= _variables(peer, case.layers)
    ours = {"loss": loss[None], **grads}
  else:
    theirs = theirs.permute(0, 2, 3, 1).numpy()
  worst = 0.0
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    a, b = np.float64(a), np.float64(b)
    worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
  if not worst < _TOLERANCE:
    raise SystemExit(
      f"{case.name}: ours and the peer's differ by {worst:.1e} of the largest "
      f"value, more than {_TOLERANCE:.0e}; a speed would mean nothing"
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
  b, h, w, c = case.shape
  scale = case.ours[1]["scale"]
  hr = rng.random((b, h * scale, w * scale, c), np.float32)
  calls = {"ours": _our_call(case, _variables(peer, case.layers), lr, hr)}
  for name, memory_format in (
    ("contiguous", torch.contiguous_format),
    ("channels_last", torch.channels_last),
  ):
    calls[name] = _peer_call(case, peer, lr, hr, memory_format)
  difference = _check_equal(
    case,
    calls["ours"](),
    _peer_call(case, peer, lr, hr, torch.contiguous_format)(),
  )
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
    row = run(case, args.rounds)
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
