"""Small networks whose game is known in closed form, and its state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import losses
from sr_jax.models.layers import BatchNorm, Conv
from sr_jax.training import (
  Adversarial,
  NetState,
  TrainState,
  make_gan_step,
  make_optimizer,
)
from sr_jax.training.schedules import constant


class Gain(nn.Module):
  """sr = gain * x."""

  @nn.compact
  def __call__(self, x):
    return x * self.param("gain", nn.initializers.constant(1.5), ())


class Judge(nn.Module):
  """logit = slope * mean of the image + offset."""

  @nn.compact
  def __call__(self, x):
    slope = self.param("slope", nn.initializers.constant(0.7), ())
    offset = self.param("offset", nn.initializers.constant(-0.1), ())
    return slope * x.mean((1, 2, 3)) + offset


def pairs(batch, key):
  del key
  return batch["x"], batch["y"]


def mse(sr, hr, frozen):
  del frozen
  return {"pixel": losses.mse(sr, hr)}


def make_batch(seed, size=4, shape=(2, 2, 1)):
  rng = np.random.default_rng(seed)
  return {
    "x": rng.random((size, *shape)).astype(np.float32),
    "y": rng.random((size, *shape)).astype(np.float32),
  }


def make_game(
  generator,
  discriminator,
  *,
  adversarial=None,
  loss_fn=mse,
  optimizer=None,
  ema=True,
  shape=(1, 2, 2, 1),
  d_shape=None,
  prepare=pairs,
  **kwargs,
):
  """A step that is not yet compiled, and its first state."""
  optimizer = optimizer or make_optimizer(constant(0.1), name="sgd")
  key = jax.random.key(0, impl="rbg")
  nets = [
    jax.jit(model.init)(k, jnp.zeros(size))
    for model, k, size in (
      (generator, key, shape),
      (discriminator, jax.random.fold_in(key, 1), d_shape or shape),
    )
  ]
  step = make_gan_step(
    generator,
    discriminator,
    optimizer=optimizer,
    d_optimizer=optimizer,
    loss_fn=loss_fn,
    adversarial=adversarial or Adversarial(weight=0.5),
    prepare=prepare,
    ema_decay=0.9 if ema else 0.0,
    **kwargs,
  )
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    generator=NetState.create(nets[0], optimizer, ema=ema),
    discriminator=NetState.create(nets[1], optimizer, ema=False),
  )
  return step, state


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


class Norm(nn.Module):
  """A convolution and BatchNorm: an image of the same size."""

  @nn.compact
  def __call__(self, x, *, train=False):
    x = Conv(x.shape[-1], 3, name="conv")(x)
    return BatchNorm(name="bn")(x, train=train)


class NormJudge(nn.Module):
  """A logit for each image, by `Norm`."""

  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.leaky_relu(Norm(name="norm")(x, train=train))
    return Judge(name="judge")(x)


IMAGES = {"shape": (1, 4, 4, 2), "optimizer": make_optimizer(constant(1e-3))}


def image_batch(seed):
  return make_batch(seed, size=2, shape=(4, 4, 2))


def norm_game(**kwargs):
  """Both networks with BatchNorm."""
  return make_game(
    Norm(),
    NormJudge(),
    adversarial=Adversarial(weight=0.1, relativistic=True),
    **IMAGES,
    **kwargs,
  )
