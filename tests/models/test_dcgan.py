"""DCGAN against float64 NumPy, and what Radford et al. begin with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models
from tests.golden import golden_io
from tests.models import numpy_layers as layers

GENERATOR = models.DCGANGenerator(
  latent_features=5, num_features=3, image_size=16, out_channels=2
)
DISCRIMINATOR = models.DCGANDiscriminator(
  in_channels=2, num_features=3, image_size=32
)


def _start(model, x):
  """Weights large enough for the nonlinearities to matter."""
  variables = jax.jit(model.init)(layers.KEY, x)
  params = jax.tree_util.tree_map_with_path(
    lambda path, p: p * 20 if path[-1].key == "kernel" else p,
    variables["params"],
  )
  stats = jax.tree.map(lambda s: s + s.size * 0.1, variables["batch_stats"])
  stats = jax.tree.map(
    lambda new, old: new.astype(old.dtype), stats, variables["batch_stats"]
  )
  return {"params": params, "batch_stats": stats}


def _run(model, variables, x, train):
  if not train:
    return jax.jit(model.apply)(variables, x), variables
  run = lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
  y, moved = jax.jit(run)(variables, x)
  return y, {**variables, **moved}


def _compare_stats(model, after, state):
  for key, value in layers.state_dict(model, after).items():
    np.testing.assert_allclose(value, state[key], 1e-5, 1e-6, err_msg=key)


@pytest.mark.parametrize("train", [False, True])
def test_generator_is_numpy_s(train):
  z = jax.random.normal(jax.random.key(1), (3, 5))
  variables = _start(GENERATOR, z)
  w = layers.state_dict(GENERATOR, variables)
  x = np.asarray(z, np.float64)[:, :, None, None]
  x = layers.conv_transpose(x, w, "main.0", stride=1, padding=0)
  for norm, deconv in ((1, 3), (4, 6)):
    x = np.maximum(layers.batch_norm(x, w, f"main.{norm}", train=train), 0)
    x = layers.conv_transpose(x, w, f"main.{deconv}", stride=2, padding=1)
  expected = (np.tanh(x) + 1) / 2
  image, after = _run(GENERATOR, variables, z, train)
  assert expected.std() > 0.03
  np.testing.assert_allclose(golden_io.nchw(image), expected, rtol=0, atol=3e-6)
  _compare_stats(GENERATOR, after, w)


@pytest.mark.parametrize("train", [False, True])
def test_discriminator_is_numpy_s(train):
  image = jax.random.uniform(jax.random.key(1), (3, 32, 32, 2))
  variables = _start(DISCRIMINATOR, image)
  w = layers.state_dict(DISCRIMINATOR, variables)
  x = golden_io.nchw(image).astype(np.float64) * 2 - 1
  x = layers.leaky(layers.conv(x, w, "main.0", stride=2))
  for i in (2, 5):
    x = layers.conv(x, w, f"main.{i}", stride=2)
    x = layers.leaky(layers.batch_norm(x, w, f"main.{i + 1}", train=train))
  expected = layers.conv(x, w, "main.8", padding=0)[..., 0, 0]
  logits, after = _run(DISCRIMINATOR, variables, image, train)
  assert np.abs(expected).min() > 1e-2
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
  _compare_stats(DISCRIMINATOR, after, w)


@pytest.mark.parametrize(
  ("name", "count"),
  # As counted in the DCGAN of pytorch/examples at 64x64.
  [("dcgan_generator", 3_576_704), ("dcgan_discriminator", 2_765_568)],
)
def test_parameter_counts_are_the_example_s(name, count):
  model = models.build(name)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), *models.example_inputs(model)
  )
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count


def test_initialisation_is_the_paper_s():
  model = models.DCGANGenerator(latent_features=20, num_features=16)
  params = jax.jit(model.init)(layers.KEY, jnp.zeros((1, 20)))["params"]
  for name in ("project", "deconv1", "deconv4"):
    kernel = np.asarray(params[name]["kernel"])
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.1)
    assert abs(kernel.mean()) < 0.002
  scale = np.asarray(params["bn0"]["scale"])
  np.testing.assert_allclose(scale.mean(), 1, rtol=0.01)
  np.testing.assert_allclose(scale.std(), 0.02, rtol=0.3)


@pytest.mark.parametrize("size", [8, 128])
def test_every_power_of_two_is_reached(size):
  generator = models.DCGANGenerator(
    latent_features=2, num_features=1, image_size=size
  )
  judge = models.DCGANDiscriminator(num_features=1, image_size=size)
  z = jnp.ones((2, 2))

  def both(key):
    image = generator.apply(generator.init(key, z), z)
    return image, judge.apply(judge.init(key, image), image)

  image, logits = jax.eval_shape(both, jax.random.key(0))
  assert image.shape[1:] == judge.input_shape == (size, size, 3)
  assert logits.shape == (2, 1)


@pytest.mark.parametrize(
  ("name", "arguments", "shape", "message"),
  [
    ("dcgan_generator", {"image_size": 48}, (1, 100), "48 is not 8, 16"),
    ("dcgan_generator", {"image_size": 4}, (1, 100), "4 is not 8, 16"),
    ("dcgan_generator", {}, (1, 99), r"\[batch, 100\]"),
    ("dcgan_discriminator", {"image_size": 96}, (1, 96, 96, 3), "96 is not"),
    ("dcgan_discriminator", {}, (1, 32, 32, 3), "is not 64x64"),
    ("dcgan_discriminator", {}, (1, 64, 64, 4), "in_channels=3"),
  ],
)
def test_bad_sizes_are_refused(name, arguments, shape, message):
  model = models.build(name, **arguments)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
