"""SRCNN and FSRCNN against the recorded reference networks; build()."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.models import srcnn
from sr_jax.ops.resize import imresize
from tests.golden import golden_io


def _check(name, model):
  arrays, params, record = golden_io.load(name)
  variables = weights.from_torch(model, params)
  lr = jnp.asarray(golden_io.nhwc(arrays["input"]))
  sr = golden_io.nchw(jax.jit(model.apply)(variables, lr))
  np.testing.assert_allclose(
    sr, arrays["output"], rtol=0, atol=record["atol"]["output"]
  )


@pytest.mark.parametrize("name", ["fsrcnn_x2", "fsrcnn_x4"])
def test_fsrcnn_is_the_recorded_one(name):
  ctor = golden_io.manifest()[name]["ctor"]
  _check(
    name,
    models.build(
      "fsrcnn",
      scale=ctor["scale_factor"],
      num_features=ctor["d"],
      shrink_features=ctor["s"],
      num_blocks=ctor["m"],
    ),
  )


def test_srcnn_is_the_recorded_one():
  _check(
    "srcnn_x4_915",
    models.build(
      "srcnn", scale=4, in_channels=3, out_channels=3, features=[16, 8]
    ),
  )


def _count(model, channels=1):
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, channels))
  )
  return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ("name", "arguments", "count"),
  [
    # weights + biases of the papers; FSRCNN with one slope a channel.
    ("srcnn", {}, 8032 + 97),
    ("srcnn", {"kernel_sizes": (9, 3, 5)}, 24416 + 97),
    ("srcnn", {"kernel_sizes": (9, 5, 5)}, 57184 + 97),
    ("srcnn", {"in_channels": 3, "out_channels": 3, "scale": 4}, 20099),
    ("fsrcnn", {}, 12464 + 173 + 172),
    (
      "fsrcnn",
      {"num_features": 32, "shrink_features": 5, "num_blocks": 1},
      3937 + 75 + 74,
    ),
  ],
)
def test_parameter_counts_are_published_ones(name, arguments, count):
  model = models.build(name, **arguments)
  assert _count(model, arguments.get("in_channels", 1)) == count


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "nearest"])
def test_interpolations_are_imresize(name):
  lr = np.random.default_rng(0).random((1, 5, 6, 3)).astype(np.float32)
  sr = models.build(name, scale=3).apply({}, jnp.asarray(lr))
  np.testing.assert_allclose(sr, imresize(lr, 3, method=name), atol=1e-6)


def test_edge_padding_sees_the_border_repeated():
  """With edge padding a flat image stays flat up to its corners."""
  flat = jnp.full((1, 9, 9, 1), 0.5)
  # The deconvolution repeats the border once, as the authors' code does: at x2
  # its nine taps would reach further.
  for name, scale, extra in [
    ("srcnn", 2, {}),
    ("fsrcnn", 3, {"deconv_padding": 3}),
    ("fsrcnn", 4, {}),
  ]:
    model = models.build(name, scale=scale, padding="edge", **extra)
    variables = model.init(jax.random.key(1), flat)
    sr = np.asarray(model.apply(variables, flat))[0, ..., 0]
    assert sr.shape == (9 * scale, 9 * scale)
    # A deconvolution repeats with the stride.
    step = scale if name == "fsrcnn" else 1
    middle = sr[4 * step : 5 * step, 4 * step : 5 * step]
    np.testing.assert_allclose(
      sr, np.tile(middle, (sr.shape[0] // step,) * 2), atol=1e-6
    )


@pytest.mark.parametrize("padding", ["zero", "edge"])
def test_srcnn_in_bands_is_srcnn(padding, monkeypatch):
  """Large images go in bands of rows on a CPU, with the same result."""
  lr = jnp.asarray(np.random.default_rng(0).random((2, 67, 9, 1)), jnp.float32)
  model = models.build(
    "srcnn", scale=3, features=(8, 4), kernel_sizes=(9, 3, 5), padding=padding
  )
  whole = model.init(jax.random.key(0), lr)
  whole = jax.tree.map(lambda x: x * 30 + 0.01, whole)
  expected = model.apply(whole, lr)
  # 201 rows; three bands of 67.
  monkeypatch.setattr(srcnn, "_BAND_BYTES", 2 * 201 * 27 * 8 * 4 // 3 + 1)
  sr = jax.jit(model.apply)(whole, lr)
  np.testing.assert_allclose(sr, expected, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a.shape, b.shape),
    model.init(jax.random.key(0), lr),
    whole,
  )


def test_bfloat16_computes_low_and_answers_in_float32():
  lr = jnp.asarray(np.random.default_rng(0).random((1, 8, 8, 1)), jnp.float32)
  exact = models.build("fsrcnn", scale=2)
  variables = exact.init(jax.random.key(0), lr)
  low = models.build("fsrcnn", scale=2, dtype="bfloat16").apply(variables, lr)
  reference = exact.apply(variables, lr)
  assert low.dtype == jnp.float32
  scale = np.abs(reference).max()
  error = np.abs(low - reference).max()
  assert 0 < error < 0.05 * scale


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_describe_rebuilds(name):
  model = models.build(name, scale=2)
  found, arguments = models.describe(model)
  assert found == name
  assert models.build(found, **arguments) == model


def test_describe_refuses_strangers():
  import flax.linen as nn

  with pytest.raises(ValueError, match="MODELS"):
    models.describe(nn.Dense(3))


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("fsrnn", {}, "did you mean 'fsrcnn'"),
    ("fsrcnn", {"num_feature": 3}, "did you mean 'num_features'"),
    ("bicubic", {"method": "nearest"}, "no argument 'method'"),
    ("fsrcnn", {"dtype": "float33"}, "not a dtype"),
    ("fsrcnn", {"scale": 0}, "scale 0 of model 'fsrcnn'"),
    ("fsrcnn", {"num_features": 2.5}, "positive integer, such as 56"),
    ("srcnn", {"features": (64, 0)}, "positive integer"),
  ],
)
def test_build_names_the_nearest(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    models.build(name, **arguments)


def test_a_scale_is_checked_where_build_was_not_asked():
  with pytest.raises(ValueError, match="not a positive int"):
    models.FSRCNN(scale=0).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize(
  ("name", "arguments", "shape", "message"),
  [
    ("fsrcnn", {}, (1, 8, 8, 3), "in_channels=1"),
    ("fsrcnn", {"padding": "same"}, (1, 8, 8, 1), "'zero' or 'edge'"),
    ("fsrcnn", {"scale": 2, "deconv_padding": 2}, (1, 8, 8, 1), "can go"),
    ("srcnn", {"features": (3,)}, (1, 8, 8, 1), "two hidden layers"),
    ("srcnn", {"upsampler": "cv2"}, (1, 8, 8, 1), "upsampler"),
  ],
)
def test_bad_input_is_refused(name, arguments, shape, message):
  model = models.build(name, **arguments)
  with pytest.raises(ValueError, match=message):
    model.init(jax.random.key(0), jnp.zeros(shape))
