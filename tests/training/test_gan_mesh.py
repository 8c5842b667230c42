"""The adversarial step on 1 and on 8 devices: one game, whatever the mesh."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.training import runs

# Relativistic means and BatchNorm are over the whole batch, wherever it lies.
_ON_A_MESH = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
import jax.numpy as jnp
import numpy as np
from sr_jax import losses, models, sharding
from sr_jax.training import *
from sr_jax.training.schedules import constant
from sr_jax.training.steps import compile_step

name, arguments = json.loads(sys.argv[1])
generator = models.build(name, scale=2, num_features=8, num_blocks=1,
                         **arguments)
discriminator = models.build("dcgan_discriminator", num_features=8,
                             image_size=16)
vgg = models.build(
  "vgg19", layers=("conv2_1",), widths=(8,) * 5)
# A large epsilon: Adam would blow the last digit of a small gradient up.
optimizer = make_optimizer(constant(1e-3), eps=1e-3)

def content(sr, hr, frozen):
  features, _ = losses.perceptual(
    sr, hr, features_fn=lambda image: vgg.apply(frozen, image),
    layer_weights={"conv2_1": 1.0})
  return {"pixel": 0.01 * losses.l1(sr, hr), "perceptual": features}

step = make_gan_step(
  generator, discriminator, optimizer=optimizer, d_optimizer=optimizer,
  loss_fn=content, prepare=make_prepare(scale=2, channels=3), ema_decay=0.9,
  adversarial=Adversarial(weight=0.1, relativistic=True, gradient_penalty=0.1),
  d_steps=%(d_steps)d)

def init(key):
  g = generator.init(key, jnp.zeros((1, 8, 8, 3)))
  d = discriminator.init(jax.random.fold_in(key, 1), jnp.zeros((1, 16, 16, 3)))
  return TrainState(step=jnp.zeros((), "int32"),
    generator=NetState.create(g, optimizer, ema=True),
    discriminator=NetState.create(d, optimizer, ema=False))

key = jax.random.key(0, impl="rbg")
first = jax.device_get(jax.jit(init)(key))
frozen = jax.device_get(jax.jit(vgg.init)(key, jnp.zeros((1, 8, 8, 3))))
result = {}
for axes, count in [({}, 1), ({}, 8), ({"data": 4, "fsdp": 2}, 8)] + %(space)r:
  mesh = sharding.make_mesh(**axes, devices=jax.devices()[:count])
  shardings = sharding.state_sharding(mesh, first)
  state = sharding.put(mesh, first)
  run = compile_step(step, mesh, shardings)
  everywhere = sharding.put(mesh, frozen)
  draw = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
  rows = []
  for i in range(3):
    hr = np.random.default_rng(i).integers(0, 256, (8, 24, 24, 3), "uint8")
    batch = sharding.global_batch(mesh, {"hr": hr})
    state, metrics = run(state, batch, draw, everywhere)
    rows.append({k: float(v) for k, v in metrics.items()})
  local = sum(s.data.nbytes for x in jax.tree.leaves(state)
              for s in x.addressable_shards[:1])
  flat = jax.tree_util.tree_leaves_with_path(
    [{"params": net.params, "stats": net.batch_stats, "ema": net.ema_params}
     for net in (state.generator, state.discriminator)])
  result[f"{count}{axes}"] = {"metrics": rows, "bytes": local,
    "parts": mesh.shape["fsdp"], "leaves": {
    jax.tree_util.keystr(path): np.asarray(x).ravel().tolist()
    for path, x in flat}}
print(json.dumps(result))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("generator", "d_steps", "space"),
  [
    (
      ("rrdbnet", {"growth_features": 8}),
      1,
      [({"data": 4, "space": 2}, 8), ({"fsdp": 8}, 8)],
    ),
    # 9x9 kernels, and three rows on a device.
    (("srresnet", {}), 2, [({"data": 2, "space": 4}, 8)]),
  ],
  ids=["rrdbnet", "srresnet"],
)
def test_the_game_is_the_same_on_every_mesh(generator, d_steps, space):
  """8 fake CPU devices in a process of their own."""
  out = subprocess.run(
    [
      sys.executable,
      "-c",
      _ON_A_MESH % {"d_steps": d_steps, "space": space},
      json.dumps(generator),
    ],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, **runs.QUICKLY_COMPILED},
  )
  assert out.returncode == 0, out.stderr[-4000:]
  result = json.loads(out.stdout.splitlines()[-1])
  one = result.pop("1{}")
  assert len(result) == 2 + len(space)
  for name, other in result.items():
    for i, (a, b) in enumerate(
      zip(one["metrics"], other["metrics"], strict=True)
    ):
      assert set(a) == set(b)
      assert a["skipped"] == 0
      for key, value in a.items():
        np.testing.assert_allclose(
          b[key], value, rtol=1e-5, atol=1e-6, err_msg=f"{name} {i} {key}"
        )
    assert set(one["leaves"]) == set(other["leaves"])
    for key, value in one["leaves"].items():
      np.testing.assert_allclose(
        other["leaves"][key],
        value,
        rtol=1e-4,
        atol=1e-5,
        err_msg=f"{name} {key}",
      )
    # Of parameters, moments and averages each device holds its part alone.
    held = other["bytes"] / one["bytes"]
    assert held <= {1: 1, 2: 0.6, 8: 1 / 7}[other["parts"]], name
  assert any("mean" in key for key in one["leaves"])
