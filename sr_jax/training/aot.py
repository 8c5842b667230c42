"""Compiles the step of a recipe for TPUs that are not there.

`pip install 'sr_jax[aot]'` brings the compiler (libtpu); no chip is needed.
What is lowered is the very function that the loop runs, with the shapes,
shardings and donation that it runs it with.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from sr_jax import sharding
from sr_jax.training import experiment
from sr_jax.training.checkpoints import abstract
from sr_jax.training.hlo import Cost, cost, written
from sr_jax.training.steps import compile_step
from sr_jax.types import Config

#: Entries of every chip beyond which none are tried.
MOST = 4096
_SHAPE = r"[1-9]\d*(x[1-9]\d*){1,2}"
# Times the largest that fits, the next that is tried at most.
_LEAP = 8


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of TPU; figures of one device.

  Attributes:
    memory: Bytes.
    flops: A second, in bfloat16, at its best.
    config: How libtpu lays it out; of a v4 chip the two cores are one device.

  Source: cloud.google.com/tpu/docs, "TPU versions".
  """

  memory: float
  flops: float
  config: str = "default"


#: By the generation that a topology names.
CHIPS = {
  "v4": Chip(32e9, 275e12, config="megacore"),
  "v5e": Chip(16e9, 197e12),
  "v5p": Chip(95e9, 459e12),
  "v6e": Chip(32e9, 918e12),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """What the compiler says of a step on one topology.

  Attributes:
    topology: "v5e:2x2".
    chips: In it.
    batch_size: Over all chips.
    seconds: Spent compiling.
    arguments: Bytes a chip holds all the time: state, batch, frozen networks.
    temporaries: Bytes a chip needs besides while it computes.
    cost: What a chip multiplies in a step, as an even share of what is
      written, and exchanges.
    hlo: The program after the compiler's passes, as text.
  """

  topology: str
  chips: int
  batch_size: int
  seconds: float
  arguments: int
  temporaries: int
  cost: Cost
  hlo: str = dataclasses.field(repr=False)

  @property
  def chip(self) -> Chip:
    """What the topology is made of."""
    return _chip(self.topology)

  @property
  def peak(self) -> int:
    """Bytes a chip has to have."""
    return self.arguments + self.temporaries

  @property
  def fits(self) -> bool:
    """Whether that goes into its memory."""
    return self.peak <= self.chip.memory

  def __str__(self) -> str:
    told = ", ".join(
      f"{found.count} {kind} of {_of_bytes(found.bytes)}"
      for kind, found in self.cost.collectives.items()
    )
    over = self.peak - self.chip.memory
    return (
      f"{self.topology}, {self.chips} chips, batch {self.batch_size} "
      f"({self.batch_size / self.chips:g} a chip): compiled in "
      f"{self.seconds:.0f} s; a chip holds {self.arguments / 1e9:.2f} GB and "
      f"needs {self.temporaries / 1e9:.2f} GB of temporaries, together "
      f"{self.peak / 1e9:.2f} of its {self.chip.memory / 1e9:.0f} GB: "
      f"{'it fits' if self.fits else f'too much by {over / 1e9:.2f} GB'}; "
      f"{self.cost.flops / 1e12:.3g} TFLOP a step and chip; exchanges: "
      f"{told or 'none'}"
      + (
        f"; {self.cost.unknown_loops} loops of unknown length count once"
        if self.cost.unknown_loops
        else ""
      )
    )


def _of_bytes(count: int) -> str:
  """In the unit that suits."""
  for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if count >= size:
      return f"{count / size:.3g} {unit}"
  return f"{count} bytes"


class DoesNotFitError(ValueError):
  """The compiler itself finds no room for a step."""


def compile_for(
  config: Config, topology: str, *, each: int | None = None
) -> Compiled:
  """Compiles a recipe's step.

  Args:
    config: A recipe. VGG19 is taken to be random: its values do not matter.
    topology: Generation and shape, as "v5e:2x2".
    each: Instead of the recipe's batch, the entries of every chip, or of all
      chips that share out an image's rows (`config.mesh.space`) together.

  Returns:
    Memory, collectives, and the time it took.

  Raises:
    ValueError: no such topology, libtpu is not installed, the config or its
      batch are of no use on that many chips, or the step does not fit.
  """
  devices = _devices(topology)
  config = config.copy_and_resolve_references()
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  if each is not None:
    config.data.batch_size = each * mesh.shape["data"] * mesh.shape["fsdp"]
  if config.perceptual.weight or config.perceptual.style_weight:
    config.perceptual.vgg = "random"
  parts = experiment.build(config)
  shape = (config.data.batch_size, *parts.batch_shape)
  sharding.check_batch(mesh, shape, accumulate=config.accumulate)

  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(parts.init_state, key)
  shardings = sharding.state_sharding(mesh, state)
  frozen = jax.eval_shape(lambda: parts.frozen)
  batch = {
    "hr": jax.ShapeDtypeStruct(
      shape, jnp.uint8, sharding=sharding.batch_sharding(mesh, len(shape))
    )
  }
  lowered = compile_step(parts.step, mesh, shardings).lower(
    abstract(state, shardings),
    batch,
    key,
    abstract(frozen, sharding.state_sharding(mesh, frozen)),
  )
  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    try:
      compiled = lowered.compile(compiler_options=_written_to(folder))
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      raise DoesNotFitError(
        f"{config.name} with a batch of {config.data.batch_size} does not fit "
        f"{topology}: {' '.join(str(error).split())[:300]}"
      ) from error
    seconds = time.perf_counter() - start
    hlo = _text(compiled, folder)
  memory: Any = compiled.memory_analysis()
  made, exchanged = cost(written(lowered)), cost(hlo)
  return Compiled(
    topology=topology,
    chips=len(devices),
    batch_size=config.data.batch_size,
    seconds=seconds,
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    cost=Cost(
      flops=made.flops / len(devices),
      collectives=exchanged.collectives,
      unknown_loops=max(made.unknown_loops, exchanged.unknown_loops),
    ),
    hlo=hlo,
  )


def _written_to(folder: str) -> dict[str, bool | str]:
  """Compiler options that write the finished program, as text, to a folder."""
  return {
    "xla_dump_to": folder,
    "xla_dump_hlo_as_text": True,
    "xla_dump_hlo_pass_re": "^$",  # no pass by itself
  }


def _text(compiled: Any, folder: str) -> str:
  """A compiled program as text."""
  try:
    return compiled.as_text() or ""
  except jax.errors.JaxRuntimeError:
    # jaxlib cannot read the gathers that libtpu gives to the sparse cores of
    # v5p and v6e ("async-update instruction should have 1 operands"); libtpu
    # writes them itself.
    files = pathlib.Path(folder).glob("*.after_optimizations.txt")
    texts = [file.read_text() for file in files]
    if not texts:
      raise
    return max(texts, key=len)


def largest_batch(
  config: Config,
  topology: str,
  *,
  on_compiled: Callable[[Compiled], None],
  on_begin: Callable[[int], None] = lambda size: None,
) -> int:
  """The largest batch that fits, as entries of every chip.

  Where chips share out an image's rows (`config.mesh.space`), it is the entries
  of all these together: an image may be too large for one chip.

  Memory grows by nearly the same with each entry of a batch, so that from two
  sizes the largest is foreseen; it is compiled, and its neighbours, until one
  fits and the next does not, or one a sixteenth larger.

  Args:
    config: A recipe.
    topology: As for `compile_for`.
    on_compiled: Called after each.
    on_begin: Called before each with its entries.

  Returns:
    The entries; 0 where not one fits. More than `MOST` are not tried.

  Raises:
    ValueError: see `compile_for`.
  """
  peaks: dict[int, int] = {}
  low, high = 0, 0
  parts = config.accumulate  # a step splits a batch into as many
  shares = max(1, count_chips(topology) // max(1, config.mesh.space))
  size = max(1, config.data.batch_size // (shares * parts))
  while low < MOST and (not high or high - low > max(1, low // 16)):
    on_begin(size * parts)
    try:
      found = compile_for(config, topology, each=size * parts)
    except DoesNotFitError:
      high = size
    else:
      on_compiled(found)
      peaks[size] = found.peak
      low, high = (size, high) if found.fits else (low, size)
    size = _next_size(peaks, low, high, memory=_chip(topology).memory)
    # What small sizes foretell is wrong by far for large ones.
    size = min(size, max(_LEAP * low, 1), MOST)
  return low * parts


def count_chips(topology: str) -> int:
  """How many devices a topology has.

  Raises:
    ValueError: there is no such topology, or libtpu is not installed.
  """
  return len(_devices(topology))


def _next_size(
  peaks: dict[int, int], low: int, high: int, *, memory: float
) -> int:
  """What to try where `low` fits and `high` does not; 0 is not known yet."""
  if len(peaks) < 2:
    return (low + high) // 2 if high else 2 * low
  a, b = min(peaks), max(peaks)
  slope = max((peaks[b] - peaks[a]) / (b - a), 1.0)
  foreseen = int(b + (memory - peaks[b]) / slope)
  # What is foreseen and fits is the largest if one that is larger does not.
  size = max(foreseen, low + max(1, low // 16))
  return min(size, high - 1) if high else size


def _chip(topology: str) -> Chip:
  generation, _, shape = topology.partition(":")
  # libtpu itself ends the process at a side of 0.
  if generation not in CHIPS or not re.fullmatch(_SHAPE, shape):
    raise ValueError(
      f"--aot '{topology}' is not one of {sorted(CHIPS)} with a shape, such as "
      "v5e:2x2"
    )
  return CHIPS[generation]


def _devices(topology: str) -> list[Any]:
  """The abstract chips."""
  chip = _chip(topology)
  # Else libtpu asks a server that is not there, and one process locks it.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
  # What it says that it misses, in a page.
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      f"--aot {topology}: the TPU compiler is not installed; "
      "pip install 'sr_jax[aot]' brings it"
    )
  try:
    return list(
      topologies.get_topology_desc(
        platform="tpu",
        topology_name=topology,
        chip_config_name=chip.config,
      ).devices
    )
  except Exception as error:
    raise ValueError(
      f"--aot {topology}: the TPU compiler does not know that shape "
      f"({' '.join(str(error).split())[:200]})"
    ) from error
