"""The step against NumPy, in parts, on a mesh, and where it is not finite."""

import dataclasses
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import degradations, losses, models
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize
from sr_jax.training import NetState, TrainState, make_optimizer, make_prepare
from sr_jax.training import make_step as make_step_
from sr_jax.training.schedules import constant, multi_step
from tests.golden import golden_io
from tests.training import runs


class Gain(nn.Module):
  """sr = gain * lr, so that gradients are known in closed form."""

  scale: int = 1

  @nn.compact
  def __call__(self, lr):
    return lr * self.param("gain", nn.initializers.constant(2.0), ())


def _mse(sr, hr, frozen):
  return {"pixel": losses.mse(sr, hr)}


def _state(model, optimizer, *, ema=True, shape=(1, 4, 4, 1)):
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros(shape))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    generator=NetState.create(variables, optimizer, ema=ema),
  )


def _gain_step(**kwargs):
  optimizer = make_optimizer(constant(0.1), name="sgd")
  step = make_step_(
    Gain(),
    optimizer=optimizer,
    loss_fn=_mse,
    prepare=lambda batch, key: (batch["x"], batch["y"]),
    **kwargs,
  )
  return jax.jit(step), _state(Gain(), optimizer)


def _batch(seed, size=4):
  rng = np.random.default_rng(seed)
  return {
    "x": rng.random((size, 4, 4, 1)).astype(np.float32),
    "y": rng.random((size, 4, 4, 1)).astype(np.float32),
  }


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_update_and_average_are_the_formulas(accumulate):
  step, state = _gain_step(ema_decay=0.9, accumulate=accumulate)
  gain = ema = 2.0
  for i in range(5):
    batch = _batch(i)
    state, metrics = step(state, batch, jax.random.key(0))
    error = gain * batch["x"] - batch["y"]
    grad = 2 * np.mean(error * batch["x"])
    np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], abs(grad), rtol=1e-5)
    gain -= 0.1 * grad
    ema = 0.9 * ema + 0.1 * gain
    np.testing.assert_allclose(state.generator.params["gain"], gain, rtol=1e-6)
    np.testing.assert_allclose(
      state.generator.variables["params"]["gain"], ema, rtol=1e-6
    )
  assert int(state.step) == 5


def test_average_is_the_references():
  arrays, _, record = golden_io.load("lr_schedules")
  sequence, expected = arrays["ema_params"], arrays["ema_seq"]
  optimizer = make_optimizer(constant(1.0), name="sgd")

  class Vector(nn.Module):
    @nn.compact
    def __call__(self, lr):
      return self.param("v", lambda _: jnp.asarray(sequence[0]))

  # The gradient of sum(v * y) is y: each step moves v to the next recorded.
  step = make_step_(
    Vector(),
    optimizer=optimizer,
    loss_fn=lambda sr, hr, _: {"product": (sr * hr).sum()},
    prepare=lambda batch, key: (batch["y"], batch["y"]),
    ema_decay=float(arrays["ema_decay"]),
  )
  state = _state(Vector(), optimizer)
  for i in range(len(sequence)):
    move = np.asarray(state.generator.params["v"]) - sequence[i]
    state, _ = step(state, {"y": jnp.asarray(move)}, jax.random.key(0))
    np.testing.assert_allclose(
      state.generator.ema_params["v"], expected[i], atol=record["atol"]["ema"]
    )


def test_what_is_not_finite_changes_nothing():
  step, state = _gain_step(ema_decay=0.9)
  state, metrics = step(state, _batch(0), jax.random.key(0))
  assert metrics["skipped"] == 0
  for poison in (np.nan, np.inf):
    batch = _batch(1)
    batch["x"][0, 0, 0, 0] = poison
    after, metrics = step(state, batch, jax.random.key(0))
    assert metrics["skipped"] == 1
    assert int(after.step) == int(state.step) + 1
    jax.tree.map(
      np.testing.assert_array_equal, after.generator, state.generator
    )


def test_schedule_and_freezing_go_on_over_skipped_steps():
  optimizer = make_optimizer(
    multi_step(0.1, milestones=[2], gamma=0.1),
    name="sgd",
    freeze=[("gain", 3, 4)],
  )
  step = jax.jit(
    make_step_(
      Gain(),
      optimizer=optimizer,
      loss_fn=_mse,
      prepare=lambda batch, key: (batch["x"], batch["y"]),
    )
  )
  state, gain = _state(Gain(), optimizer, ema=False), 2.0
  for i, rate in enumerate([0.1, None, 0.01, 0.0, 0.01]):
    batch = _batch(i)
    grad = 2 * np.mean((gain * batch["x"] - batch["y"]) * batch["x"])
    if rate is None:
      batch["x"][:] = np.nan
    state, _ = step(state, batch, jax.random.key(0))
    gain -= (rate or 0.0) * grad
    np.testing.assert_allclose(state.generator.params["gain"], gain, rtol=1e-6)


@pytest.mark.parametrize(("channels", "quantize"), [(1, False), (3, True)])
def test_prepare_makes_what_the_papers_trained_on(channels, quantize):
  rng = np.random.default_rng(0)
  hr = rng.integers(0, 256, (2, 18, 18, 3), dtype=np.uint8)
  # The tests' crops have less context than bicubic needs at their edges.
  made = dataclasses.replace(degradations.find("BI"), margin=1)
  prepare = make_prepare(
    scale=3, channels=channels, degradation=made, quantize=quantize
  )
  lr, target = jax.jit(prepare)({"hr": hr}, jax.random.key(0))
  image = hr / 255.0
  if channels == 1:
    weights = np.asarray([65.481, 128.553, 24.966]) / 255
    image = image @ weights[:, None] + 16 / 255
  expected = imresize(image, 1 / 3)[:, 1:-1, 1:-1]
  if quantize:
    expected = np.floor(np.clip(expected, 0, 1) * 255 + 0.5) / 255
  np.testing.assert_allclose(target, image[:, 3:-3, 3:-3], atol=1e-6)
  np.testing.assert_allclose(lr, expected, atol=1e-6)


def test_prepare_takes_pairs_as_they_are():
  rng = np.random.default_rng(0)
  batch = {
    "hr": rng.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8),
    "lr": rng.integers(0, 256, (1, 4, 4, 3), dtype=np.uint8),
  }
  lr, hr = make_prepare(scale=2, channels=3)(batch, jax.random.key(0))
  np.testing.assert_allclose(lr, batch["lr"] / 255.0, atol=1e-7)
  np.testing.assert_allclose(hr, batch["hr"] / 255.0, atol=1e-7)
  y, _ = make_prepare(scale=2, channels=1)(batch, jax.random.key(0))
  np.testing.assert_allclose(y, rgb_to_y(batch["lr"] / 255.0), atol=1e-6)


_ON_A_MESH = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
import numpy as np
from sr_jax import losses, models, sharding
from sr_jax.training import *
from sr_jax.training.schedules import constant, multi_step

model = models.build("fsrcnn", scale=2, num_features=8, shrink_features=4,
                     num_blocks=1)
optimizer = make_optimizer(constant(1e-2))
step = make_step(model, optimizer=optimizer, ema_decay=0.9,
                 loss_fn=lambda sr, hr, _: {"pixel": losses.mse(sr, hr)},
                 prepare=make_prepare(scale=2, channels=1), accumulate=2)
def init(key):
  variables = jax.jit(model.init)(key, jax.numpy.zeros((1, 8, 8, 1)))
  return TrainState(step=jax.numpy.zeros((), "int32"),
    generator=NetState.create(variables, optimizer, ema=True))
result = {}
for name, axes, count in [("1", {}, 1), ("data=8", {}, 8),
                          ("data=2,fsdp=2,space=2",
                           {"data": 2, "fsdp": 2, "space": 2}, 8)]:
  mesh = sharding.make_mesh(**axes, devices=jax.devices()[:count])
  shapes = jax.eval_shape(init, jax.random.key(0))
  shardings = sharding.state_sharding(mesh, shapes)
  state = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
  run = jax.jit(step, in_shardings=(shardings, None, None),
                out_shardings=(shardings, sharding.replicated(mesh)))
  found = []
  for i in range(3):
    hr = np.random.default_rng(i).integers(0, 256, (16, 24, 24, 3), "uint8")
    batch = sharding.global_batch(mesh, {"hr": hr})
    state, metrics = run(state, batch, jax.random.key(0))
    found.append(float(metrics["loss"]))
  local = sum(s.data.nbytes for x in jax.tree.leaves(state)
              for s in x.addressable_shards[:1])
  result[name] = {"loss": found, "bytes": local,
    "sum": float(sum(abs(np.asarray(x)).sum()
                     for x in jax.tree.leaves(state.generator.params)))}
print(json.dumps(result))
"""


@pytest.mark.slow
def test_step_is_the_same_on_every_mesh():
  """8 fake CPU devices in a process of their own."""
  out = subprocess.run(
    [sys.executable, "-c", _ON_A_MESH],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, **runs.QUICKLY_COMPILED},
  )
  result = json.loads(out.stdout.splitlines()[-1])
  one = result.pop("1")
  for name, other in result.items():
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(other["sum"], one["sum"], rtol=1e-5)
    if "fsdp" in name:  # parameters, moments and average lie half on each
      assert other["bytes"] < 0.6 * one["bytes"]


def test_net_state_has_no_functions():
  optimizer = make_optimizer(constant(0.1), freeze=[("gain", 0, 3)])
  state = _state(Gain(), optimizer, ema=False)
  assert all(hasattr(x, "dtype") for x in jax.tree.leaves(state))
  assert state.generator.variables == {"params": state.generator.params}
  fields = {f.name for f in dataclasses.fields(NetState)}
  assert fields == {"params", "batch_stats", "opt_state", "ema_params"}
  assert models.MODELS  # the step takes any of them
