"""Compiles the step of a recipe for TPUs that are not there.

`pip install 'sr_jax[aot]'` brings the compiler (libtpu); no chip is needed.
What is lowered is the very function that the loop runs, with the shapes,
shardings and donation that it runs it with.
"""

import collections
import dataclasses
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from sr_jax import sharding
from sr_jax.training import experiment
from sr_jax.training.checkpoints import abstract
from sr_jax.training.steps import compile_step
from sr_jax.types import Config

#: Memory of a chip, in bytes, by the generation that a topology names.
HBM = {"v4": 32e9, "v5e": 16e9, "v5p": 95e9, "v6e": 32e9}

_COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)


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
    collectives: Kind of exchange between chips -> how often it stands in the
      program (once for a loop).
    hlo: The program after the compiler's passes, as text.
  """

  topology: str
  chips: int
  batch_size: int
  seconds: float
  arguments: int
  temporaries: int
  collectives: dict[str, int]
  hlo: str = dataclasses.field(repr=False)

  @property
  def fits(self) -> bool:
    """Whether arguments and temporaries go into a chip's memory."""
    memory = HBM[self.topology.partition(":")[0]]
    return self.arguments + self.temporaries <= memory

  def __str__(self) -> str:
    told = ", ".join(f"{n} {kind}" for kind, n in self.collectives.items())
    memory = HBM[self.topology.partition(":")[0]]
    return (
      f"{self.topology}, {self.chips} chips, batch {self.batch_size} "
      f"({self.batch_size / self.chips:g} a chip): compiled in "
      f"{self.seconds:.0f} s; a chip holds {self.arguments / 1e9:.2f} GB and "
      f"needs {self.temporaries / 1e9:.2f} GB of temporaries of its "
      f"{memory / 1e9:.0f} GB: it {'fits' if self.fits else 'does not fit'}; "
      f"exchanges: {told or 'none'}"
    )


def compile_for(
  config: Config, topology: str, *, batch_per_chip: int | None = None
) -> Compiled:
  """Compiles a recipe's step.

  Args:
    config: A recipe. VGG19 is taken to be random: its values do not matter.
    topology: Generation and shape, as "v5e:2x2".
    batch_per_chip: Instead of the recipe's batch.

  Returns:
    Memory, collectives, and the time it took.

  Raises:
    ValueError: no such topology, libtpu is not installed, the config or its
      batch are of no use on that many chips, or the step does not fit.
  """
  generation = topology.partition(":")[0]
  if generation not in HBM or ":" not in topology:
    raise ValueError(
      f"--aot '{topology}' is not one of {sorted(HBM)} with a shape, such as "
      "v5e:2x2"
    )
  devices = _devices(topology)
  config = config.copy_and_resolve_references()
  if batch_per_chip is not None:
    config.data.batch_size = batch_per_chip * len(devices)
  if config.perceptual.weight or config.perceptual.style_weight:
    config.perceptual.vgg = "random"
  parts = experiment.build(config)
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  shape = (config.data.batch_size, *parts.batch_shape)
  sharding.check_batch(
    mesh, shape, scale=parts.scale, accumulate=config.accumulate
  )

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
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise ValueError(
      f"{config.name} with a batch of {config.data.batch_size} does not fit "
      f"{topology}: {' '.join(str(error).split())[:300]}"
    ) from error
  seconds = time.perf_counter() - start
  memory: Any = compiled.memory_analysis()
  hlo = compiled.as_text() or ""
  found = re.findall(rf"= .*? ({'|'.join(_COLLECTIVES)})(?:-start)?\(", hlo)
  return Compiled(
    topology=topology,
    chips=len(devices),
    batch_size=config.data.batch_size,
    seconds=seconds,
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    collectives=dict(collections.Counter(found)),
    hlo=hlo,
  )


def _devices(topology: str) -> list[Any]:
  """The abstract chips."""
  # Else libtpu asks a server that is not there, and one process locks it.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
  try:
    return list(
      topologies.get_topology_desc(
        platform="tpu", topology_name=topology
      ).devices
    )
  except Exception as error:
    raise ValueError(
      f"--aot {topology}: the TPU compiler is not there or does not know that "
      "shape; pip install 'sr_jax[aot]' brings it "
      f"({' '.join(str(error).split())[:200]})"
    ) from error
