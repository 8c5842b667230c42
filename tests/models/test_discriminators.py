"""Discriminators against the recorded references and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.models.discriminators import SpectralConv
from tests.golden import golden_io
from tests.models import numpy_layers as layers

GOLDEN = {
  "vggdisc128": models.VGGDiscriminator(num_features=4),
  "srgan_disc96": models.SRGANDiscriminator(num_features=2),
  "unetdisc_sn": models.UNetDiscriminator(num_features=8),
}


def _train(model, variables, image):
  """Logits, and the variables after the step's one forward."""
  run = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
  )
  logits, moved = run(variables, image)
  return logits, {**variables, **moved}


def _random(model, image, seed=0):
  """Variables of a network whose running statistics say something."""
  variables = jax.jit(model.init)(layers.KEY, image)
  rng = np.random.default_rng(seed)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (
      jnp.asarray(0.5 + rng.random(x.shape), x.dtype)
      if path[-1].key in ("mean", "var", "scale")
      else x
    ),
    variables,
  )


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.usefixtures("optimized")
def test_is_the_recorded_one_in_both_modes(name):
  arrays, params, record = golden_io.load(name)
  model, atol = GOLDEN[name], record["atol"]
  variables = weights.from_torch(model, params)
  image = jnp.asarray(golden_io.nhwc(arrays["input"]))
  logits = jax.jit(model.apply)(variables, image)
  trained, after = _train(model, variables, image)
  torch_logits = np.asarray if logits.ndim == 2 else golden_io.nchw
  for key, value in (("output", logits), ("output_train", trained)):
    np.testing.assert_allclose(
      torch_logits(value), arrays[key], rtol=0, atol=atol[key]
    )
  buffers = {
    key.replace(".", "_"): value
    for key, value in weights.to_torch(model, after).items()
  }
  recorded = [key for key in arrays if key.startswith("after_")]
  assert len(recorded) == {"srgan_disc96": 0}.get(name, 3)
  for key in recorded:
    np.testing.assert_allclose(
      buffers[key.removeprefix("after_")], arrays[key], rtol=0, atol=atol[key]
    )


def _vgg(model, w, x, train):
  """BasicSR's layers: all but the first with BatchNorm."""
  for i in range({128: 5, 256: 6}[model.input_size]):
    for j in (0, 1):
      x = layers.conv(x, w, f"conv{i}_{j}", stride=1 + j)
      if (i, j) != (0, 0):
        x = layers.batch_norm(x, w, f"bn{i}_{j}", train=train)
      x = layers.leaky(x)
  x = layers.leaky(layers.linear(x, w, "linear1"))
  return layers.linear(x, w, "linear2")


def _srgan(model, w, x, train):
  place = 0
  for i in range(8):
    x = layers.conv(x, w, f"features.{place}", stride=1 + i % 2)
    if i:
      place += 1
      x = layers.batch_norm(x, w, f"features.{place}", train=train)
    place += 2  # LeakyReLU
    x = layers.leaky(x)
  x = layers.leaky(layers.linear(x, w, "classifier.0"))
  return layers.linear(x, w, "classifier.2")


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
  ("model", "reference"),
  [
    (models.VGGDiscriminator(num_features=1, input_size=256), _vgg),
    (models.SRGANDiscriminator(num_features=1, input_size=112), _srgan),
    (
      models.SRGANDiscriminator(num_features=1, input_size=96, in_channels=1),
      _srgan,
    ),
  ],
)
def test_other_sizes_are_numpy_s(model, reference, train):
  rng = np.random.default_rng(1)
  image = jnp.asarray(rng.random((2, *model.input_shape)), jnp.float32)
  variables = _random(model, image)
  state = layers.state_dict(model, variables)
  expected = reference(model, state, golden_io.nchw(image), train)
  if train:
    logits, after = _train(model, variables, image)
  else:
    logits, after = jax.jit(model.apply)(variables, image), variables
  np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
  for key, value in layers.state_dict(model, after).items():
    np.testing.assert_allclose(value, state[key], 1e-5, 1e-6, err_msg=key)


@pytest.mark.parametrize("skip", [False, True])
def test_unet_is_numpy_s(skip):
  model = models.UNetDiscriminator(
    num_features=2, in_channels=1, skip_connection=skip
  )
  image = jnp.asarray(
    np.random.default_rng(2).random((2, 16, 24, 1)), jnp.float32
  )
  variables = jax.jit(model.init)(layers.KEY, image)
  w = layers.state_dict(model, variables)
  for i in range(1, 9):
    kernel = w[f"conv{i}.weight_orig"]
    u, v = w[f"conv{i}.weight_u"], w[f"conv{i}.weight_v"]
    sigma = u @ kernel.reshape(len(u), -1) @ v
    w[f"conv{i}.weight"] = kernel / sigma
  x = golden_io.nchw(image).astype(np.float64)
  maps = [layers.leaky(layers.conv(x, w, "conv0"))]
  for i in (1, 2, 3):
    maps.append(layers.leaky(layers.conv(maps[-1], w, f"conv{i}", stride=2)))
  x = maps[3]
  for i in (4, 5, 6):
    x = layers.leaky(layers.conv(layers.bilinear_x2(x), w, f"conv{i}"))
    if skip:
      x = x + maps[6 - i]
  for i in (7, 8):
    x = layers.leaky(layers.conv(x, w, f"conv{i}"))
  expected = layers.conv(x, w, "conv9")
  logits = golden_io.nchw(jax.jit(model.apply)(variables, image))
  atol = 2e-5 * np.abs(expected).max()
  np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)


def _spectral():
  layer = SpectralConv(5, 1)
  x = jax.random.normal(jax.random.key(3), (1, 4, 3, 6))
  variables = layer.init(jax.random.key(4), x, train=False)
  return layer, variables, x


@pytest.mark.parametrize("train", [False, True])
def test_spectral_norm_s_gradient_goes_through_the_kernel_alone(train):
  """W / (u . W v) has the derivative (G - <G, W> / sigma * u v) / sigma."""
  layer, variables, x = _spectral()
  cotangent = np.random.default_rng(5).standard_normal((1, 4, 3, 5))

  def loss(params):
    y, _ = layer.apply(
      {**variables, "params": params}, x, train=train, mutable=["batch_stats"]
    )
    return jnp.sum(y * cotangent)

  gradient = jax.grad(loss)(variables["params"])["kernel"][0, 0].T
  kernel = np.asarray(variables["params"]["kernel"][0, 0].T, np.float64)
  u, v = (np.asarray(variables["batch_stats"][key], np.float64) for key in "uv")
  if train:
    v = kernel.T @ u / np.linalg.norm(kernel.T @ u)
    u = kernel @ v / np.linalg.norm(kernel @ v)
  sigma = u @ kernel @ v
  inner = np.einsum("bhwo,bhwi->oi", cotangent, np.asarray(x))
  expected = inner - np.sum(inner * kernel) / sigma * np.outer(u, v)
  expected /= sigma
  np.testing.assert_allclose(
    gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
  )


def test_spectral_norm_finds_the_largest_singular_value():
  layer, variables, x = _spectral()
  step = jax.jit(
    lambda v: layer.apply(v, x, train=True, mutable=["batch_stats"])
  )
  for _ in range(400):
    y, moved = step(variables)
    variables = {**variables, **moved}
  kernel = np.asarray(variables["params"]["kernel"][0, 0], np.float64)
  largest = np.linalg.svd(kernel, compute_uv=False)[0]
  expected = np.asarray(x) @ kernel / largest
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
  # What training stored is what evaluation uses.
  again = layer.apply(variables, x, train=False)
  np.testing.assert_allclose(again, y, rtol=0, atol=1e-6)


def test_initialisation_is_torch_s():
  model = models.VGGDiscriminator(num_features=2)
  params = jax.jit(model.init)(layers.KEY, jnp.zeros((1, 128, 128, 3)))[
    "params"
  ]
  for name, fan_in in (("linear1", 16 * 4 * 4), ("conv2_1", 8 * 4 * 4)):
    kernel = np.asarray(params[name]["kernel"])
    bound = fan_in**-0.5
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.05)

  stats = jax.jit(models.UNetDiscriminator(num_features=4).init)(
    layers.KEY, jnp.zeros((1, 8, 8, 3))
  )["batch_stats"]
  vectors = jax.tree.leaves(stats)
  assert len(vectors) == 16
  for vector in vectors:
    np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-6)
  assert abs(np.vdot(stats["conv7"]["v"], stats["conv8"]["v"])) < 0.9


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("vgg_discriminator", 14_499_401),
    ("unet_discriminator", 4_376_897),
    # 8 convolutions, 7 BatchNorms, 512 * 6 * 6 -> 1024 -> 1.
    ("srgan_discriminator", 4_683_520 + 3_712 + 18_875_392 + 1_025),
  ],
)
def test_parameter_counts_are_published_ones(name, count):
  model = models.build(name)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), *models.example_inputs(model)
  )
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count


def test_bfloat16_computes_low_and_answers_in_float32():
  image = jax.random.uniform(jax.random.key(6), (1, 16, 16, 3))
  exact = models.UNetDiscriminator(num_features=4)
  variables = jax.jit(exact.init)(layers.KEY, image)
  _, variables = _train(exact, variables, image)
  low = models.build("unet_discriminator", num_features=4, dtype="bfloat16")
  logits, reference = (jax.jit(m.apply)(variables, image) for m in (low, exact))
  assert logits.dtype == jnp.float32
  assert 0 < np.abs(logits - reference).max() < 0.05


@pytest.mark.parametrize(
  ("name", "arguments", "shape", "message"),
  [
    ("vgg_discriminator", {"input_size": 96}, (1, 96, 96, 3), "128 or 256"),
    ("vgg_discriminator", {}, (1, 128, 96, 3), r"\(128, 96\) is not 128x128"),
    ("vgg_discriminator", {}, (1, 128, 128, 1), "in_channels=3"),
    ("srgan_discriminator", {"input_size": 80}, (1, 80, 80, 3), "from 96"),
    ("srgan_discriminator", {"input_size": 100}, (1, 9, 9, 3), "multiple of"),
    ("srgan_discriminator", {}, (1, 128, 128, 3), "is not 96x96"),
    ("unet_discriminator", {}, (1, 16, 20, 3), r"\(16, 20\).*multiple of 8"),
  ],
)
def test_bad_sizes_are_refused(name, arguments, shape, message):
  model = models.build(name, **arguments)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
