"""Rows of an image on several devices, and a state in eight parts."""

import importlib
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from sr_jax import sharding
from sr_jax.training import experiment
from tests.training import runs

# Where a device has fewer rows than a kernel reaches XLA's partitioner is
# wrong: SPyNet's coarse levels have 1 to 8 rows here, and SRResNet's 9x9 four
# a device.
_NETWORKS = {
  "fsrcnn": (
    {"scale": 4, "num_features": 8, "shrink_features": 4, "num_blocks": 1},
    (2, 32, 16, 1),
  ),
  "srresnet": (
    {"scale": 4, "num_features": 8, "num_blocks": 1},
    (2, 16, 16, 3),
  ),
  "rrdbnet": (
    {"scale": 4, "num_features": 8, "num_blocks": 1, "growth_features": 4},
    (2, 16, 16, 3),
  ),
  "basicvsr": ({"num_features": 8, "num_blocks": 1}, (2, 3, 32, 32, 3)),
  "iconvsr": (
    {"num_features": 8, "num_blocks": 1, "keyframe_stride": 2},
    (2, 3, 64, 64, 3),
  ),
}

# Of IconVSR's clips, which have more rows, some samples are so near to a
# pixel's border that 6e-8 of the input, on one device, changes the third digit.
_GRADIENTS = ("fsrcnn", "srresnet", "rrdbnet", "basicvsr")

_IN_ROWS = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# Of six million activations some are so near to a ReLU's corner that the last
# digit of a sum, on some processors, changes a gradient's third. What is
# exchanged does not depend on it: gradients are those with round corners.
def rounded(x, negative_slope=0.01):
  return negative_slope * x + (1 - negative_slope) * jax.nn.softplus(x)

sharp = nn.leaky_relu, nn.relu
smooth = rounded, jax.nn.softplus
nn.leaky_relu = lambda *args, **options: used[0](*args, **options)
nn.relu = lambda x: used[1](x)
from sr_jax import models, sharding

def apart(a, b):
  return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))

used = sharp
mesh = sharding.make_mesh(space=4)
for name, (arguments, shape), gradients in json.loads(sys.argv[1]):
  model = models.build(name, **arguments)
  lr = np.random.default_rng(0).uniform(size=shape).astype("float32")
  variables = jax.jit(model.init)(jax.random.key(0), lr)
  hr = jax.eval_shape(model.apply, variables, lr).shape
  weights = np.random.default_rng(1).normal(size=hr).astype("float32")

  def mean(params, lr):
    sr = model.apply({**variables, "params": params}, lr)
    return jnp.mean(sr * weights), sr

  rows = sharding.batch_sharding(mesh, lr.ndim)
  params = variables["params"]
  found = []
  for used in (sharp, smooth)[:1 + gradients]:
    run = lambda *args: mean(*args)
    if used is smooth:
      run = jax.grad(lambda *args: mean(*args)[0], (0, 1))
    whole = jax.jit(run)(params, lr)
    parts = jax.jit(sharding.on_mesh(mesh, run), in_shardings=(None, rows))(
      params, jax.device_put(lr, rows))
    found += jax.tree.leaves(jax.tree.map(apart, whole, parts))
  print(json.dumps([name, rows.shard_shape(lr.shape), max(found)]))
"""


@pytest.mark.slow
def test_rows_on_four_devices_are_as_on_one():
  """Values, and gradients by parameters and input; 8 fake CPU devices."""
  networks = [
    (name, network, name in _GRADIENTS) for name, network in _NETWORKS.items()
  ]
  out = subprocess.run(
    [sys.executable, "-c", _IN_ROWS, json.dumps(networks)],
    capture_output=True,
    text=True,
    check=False,
    env={
      **os.environ,
      **runs.QUICKLY_COMPILED,
      # Else exchanges that do not wait for one another take up the few threads
      # that there are.
      "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
      + " --xla_cpu_enable_concurrency_optimized_scheduler=false",
    },
  )
  assert out.returncode == 0, out.stderr[-4000:]
  found = [json.loads(line) for line in out.stdout.splitlines()]
  assert [name for name, _, _ in found] == list(_NETWORKS)
  for name, part, apart in found:
    shape = _NETWORKS[name][1]
    assert part[-3] == shape[-3] // 4
    assert part[0] == shape[0] // 2
    assert apart < 1e-5, name


@pytest.mark.parametrize(
  ("recipe", "variant"),
  [("esrgan", ""), ("srgan", ""), ("edvr", "l"), ("basicvsr_plusplus", "")],
)
def test_eight_devices_hold_an_eighth_of_the_state_each(recipe, variant):
  """Parameters, moments and averages of both trees at the published size."""
  config = importlib.import_module(f"configs.{recipe}").get_config(variant)
  with config.unlocked():
    config.init_parts = {}
    config.perceptual.vgg = "random"
  state = jax.eval_shape(experiment.build(config).init_state, jax.random.key(0))
  # As if it were eight.
  mesh = jax.sharding.Mesh(
    np.array(8 * jax.devices()[:1]).reshape(1, 8, 1), sharding.AXES
  )
  leaves = jax.tree.leaves(state)
  whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
  shardings = jax.tree.leaves(sharding.state_sharding(mesh, state))
  part = sum(
    math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
    for x, s in zip(leaves, shardings, strict=True)
  )
  assert whole > 50e6
  assert part <= whole / 7
