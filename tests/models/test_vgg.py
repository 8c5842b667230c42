"""VGG19's features against BasicSR's, at a sixteenth of the width and whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.models.vgg import VGG19, _max_pool
from tests.golden import golden_io

_NARROW = {"widths": (4, 8, 16, 32, 32)}


def _variables(params):
  """Linen variables of weights by torch name, such as vgg_net.conv1_1.bias."""
  tree = {}
  for key, value in params.items():
    prefix, _, rest = key.partition(".")
    if prefix != "vgg_net":
      continue  # mean and std are attributes here
    layer, kind = rest.split(".")
    if kind == "weight":
      value, kind = value.transpose(2, 3, 1, 0), "kernel"
    tree.setdefault(layer, {})[kind] = jnp.asarray(value)
  return {"params": tree}


def _features(name, params, arrays, **arguments):
  layers = golden_io.manifest()[name]["ctor"]["layer_name_list"]
  model = VGG19(layers=tuple(layers), **arguments)
  image = jnp.asarray(golden_io.nhwc(arrays["input"]))
  return jax.jit(model.apply)(_variables(params), image), layers


@pytest.mark.usefixtures("optimized")
def test_narrow_is_the_recorded_one():
  arrays, params, record = golden_io.load("vgg19_div16")
  features, layers = _features("vgg19_div16", params, arrays, **_NARROW)
  assert set(features) == set(layers)
  for layer in layers:
    key = f"feat/{layer}"
    np.testing.assert_allclose(
      golden_io.nchw(features[layer]),
      arrays[key],
      rtol=0,
      atol=record["atol"][key],
      err_msg=layer,
    )


@pytest.mark.usefixtures("optimized")
def test_full_width_is_the_recorded_one():
  arrays, params, record = golden_io.load("vgg19_full_recipe")
  features, layers = _features("vgg19_full_recipe", params, arrays)
  for layer in layers:
    key = f"feat/{layer}"
    ours, theirs = golden_io.nchw(features[layer]), arrays[key]
    # The large ones are stored every few channels, rows and columns.
    steps = [a // b for a, b in zip(ours.shape, theirs.shape, strict=True)]
    ours = ours[tuple(slice(None, None, step) for step in steps)]
    np.testing.assert_allclose(
      ours, theirs, rtol=0, atol=record["atol"][key], err_msg=layer
    )


def test_normalisation_of_the_input():
  """Both ranges and none, from the image normalised by NumPy."""
  arrays, params, _ = golden_io.load("vgg19_div16")
  variables = _variables(params)
  image = golden_io.nhwc(arrays["input"])[:, :8, :8].astype(np.float64)
  mean, std = np.array([0.3, 0.4, 0.5]), np.array([0.2, 0.25, 0.5])
  plain = VGG19(layers=("conv1_1",), input_norm=False, **_NARROW)

  def features(model, x):
    return model.apply(variables, jnp.asarray(x, jnp.float32))["conv1_1"]

  expected = features(plain, (image - mean) / std)
  for range_norm, x in ((False, image), (True, 2 * image - 1)):
    model = plain.clone(
      input_norm=True,
      range_norm=range_norm,
      mean=tuple(mean),
      std=tuple(std),
    )
    np.testing.assert_allclose(features(model, x), expected, atol=2e-5)
  half = features(plain.clone(range_norm=True), 2 * image - 1)
  np.testing.assert_allclose(half, features(plain, image), atol=1e-5)


def test_pooling_is_xlas():
  """Values and gradients, with ties, NaN and an odd row and column."""
  rng = np.random.default_rng(5)
  x = rng.integers(0, 3, (2, 9, 7, 4)).astype(np.float32)
  seed = jnp.asarray(rng.normal(size=(2, 4, 3, 4)), jnp.float32)

  def pool(x):
    return nn.max_pool(x, (2, 2), strides=(2, 2))

  for ours, theirs in (
    (_max_pool, pool),
    (
      jax.grad(lambda x: (_max_pool(x) * seed).sum()),
      jax.grad(lambda x: (pool(x) * seed).sum()),
    ),
  ):
    np.testing.assert_array_equal(ours(jnp.asarray(x)), theirs(jnp.asarray(x)))
  for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
    one = jnp.zeros((1, 2, 2, 1)).at[0, row, column].set(jnp.nan)
    assert jnp.isnan(_max_pool(one)).all()


def _count(*layers):
  shapes = jax.eval_shape(
    VGG19(layers=layers).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  return sum(x.size for x in jax.tree.leaves(shapes))


def test_what_is_not_asked_for_is_not_there():
  assert _count("relu1_1") == 3 * 64 * 9 + 64
  assert _count("pool1", "conv1_1") == 3 * 64 * 9 + 64 + 64 * 64 * 9 + 64
  # torchvision's vgg19, 143,667,240, less its three dense layers.
  dense = (25088 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
  assert _count("pool5") == 143_667_240 - dense == 20_024_384


def test_bfloat16_gives_float32_near_it():
  arrays, params, _ = golden_io.load("vgg19_div16")
  arguments = {**_NARROW, "dtype": jnp.bfloat16}
  features, layers = _features("vgg19_div16", params, arrays, **arguments)
  for layer in layers:
    assert features[layer].dtype == jnp.float32
    theirs = arrays[f"feat/{layer}"]
    error = golden_io.nchw(features[layer]) - theirs
    assert 0 < np.abs(error).mean() < 0.02 * theirs.std(), layer


@pytest.mark.parametrize(
  ("arguments", "shape", "message"),
  [
    ({"layers": ("conv5_5",)}, (1, 32, 32, 3), "did you mean 'conv5_4'"),
    ({"layers": ("relu_54",)}, (1, 32, 32, 3), "did you mean 'relu5_4'"),
    ({"layers": ()}, (1, 32, 32, 3), "names no layers"),
    ({"layers": "conv5_4"}, (1, 32, 32, 3), "'conv5_4' names no layers"),
    ({"widths": (4, 8)}, (1, 32, 32, 3), r"widths \(4, 8\) must be 5"),
    ({"mean": (0.5,)}, (1, 32, 32, 3), r"mean \(0.5,\) must be one number"),
    ({}, (1, 32, 32, 1), r"got shape \(1, 32, 32, 1\)"),
    ({}, (1, 32, 15, 3), "at least 16 pixels"),
    ({"layers": ("pool5",)}, (1, 31, 32, 3), "at least 32 pixels"),
  ],
)
def test_errors(arguments, shape, message):
  with pytest.raises(ValueError, match=message):
    VGG19(**arguments).init(jax.random.key(0), jnp.zeros(shape))


def test_integers_are_refused():
  image = jnp.zeros((1, 32, 32, 3), jnp.uint8)
  model = VGG19(range_norm=True)
  # The shape hook of the tests would speak first.
  with pytest.raises(ValueError, match=r"uint8; VGG19 takes floats in \[-1, 1"):
    model._check_image(image, 0)
