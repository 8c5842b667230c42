"""Perceptual and style loss against BasicSR's, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import perceptual
from sr_jax.losses.norms import l2_norm
from sr_jax.models.vgg import VGG19
from tests.golden import golden_io


@pytest.fixture(scope="module")
def golden():
  return golden_io.load("losses_perceptual")


def _variables(params):
  tree = {}
  for key, value in params.items():
    if key in ("mean", "std"):
      continue
    _, layer, kind = key.split(".")
    if kind == "weight":
      value = value.transpose(2, 3, 1, 0)
    name = {"weight": "kernel", "bias": "bias"}[kind]
    tree.setdefault(layer, {})[name] = jnp.asarray(value)
  return {"params": tree}


@pytest.mark.parametrize("span", ["norange", "range"])
@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
@pytest.mark.usefixtures("optimized")
def test_matches_basicsr(golden, criterion, span):
  arrays, params, record = golden
  ctor = record["ctor"]
  model = VGG19(
    layers=tuple(ctor["layer_weights"]),
    widths=(4, 8, 16, 32, 32),
    range_norm=span == "range",
  )
  variables = _variables(params)
  sr, hr = (
    jnp.asarray(golden_io.nhwc(arrays[key])) for key in ("pred", "target")
  )

  @jax.jit
  def terms(sr):
    values, pullback = jax.vjp(
      lambda sr: perceptual(
        sr,
        hr,
        features_fn=lambda image: model.apply(variables, image),
        criterion=criterion,
        layer_weights=ctor["layer_weights"],
        perceptual_weight=ctor["perceptual_weight"],
        style_weight=ctor["style_weight"],
      ),
      sr,
    )
    one, zero = jnp.ones(()), jnp.zeros(())
    return values, (pullback((one, zero))[0], pullback((zero, one))[0])

  for name, value, gradient in zip(
    ("percep", "style"), *terms(sr), strict=True
  ):
    case = f"{name}_{criterion}_{span}"
    for kind, ours in (("value", value), ("grad", golden_io.nchw(gradient))):
      key = f"{kind}/{case}"
      np.testing.assert_allclose(
        ours, arrays[key], 0, record["atol"][key], err_msg=key
      )


def _layers(image):
  """Features in closed form."""
  return {"first": image**2, "second": image[:, ::2, :, :2] - 0.3}


def _pair(seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(x) for x in rng.random((2, 2, 4, 6, 3), np.float32)]


def test_matches_numpy():
  sr, hr = _pair()
  layer_weights = {"first": 0.5, "second": 2.0}
  content, style = perceptual(
    sr,
    hr,
    features_fn=_layers,
    layer_weights=layer_weights,
    perceptual_weight=3.0,
    style_weight=7.0,
    criterion="l2",
  )
  ours, theirs = (_layers(np.asarray(x, np.float64)) for x in (sr, hr))
  expected, gram = 0.0, 0.0
  for name, weight in layer_weights.items():
    a, b = ours[name], theirs[name]
    expected += 3.0 * weight * np.mean((a - b) ** 2)
    a, b = (
      np.stack(
        [f.reshape(-1, f.shape[-1]).T @ f.reshape(-1, f.shape[-1]) for f in x]
      )
      / x[0].size
      for x in (a, b)
    )
    gram += 7.0 * weight * np.mean((a - b) ** 2)
  np.testing.assert_allclose(content, expected, 1e-5)
  np.testing.assert_allclose(style, gram, 1e-5)


def test_srgan_content_loss_is_a_weight():
  """Features divided by 12.75, as the paper says it (sec. 3.2)."""
  sr, hr = _pair(1)
  content, _ = perceptual(
    sr,
    hr,
    features_fn=_layers,
    layer_weights={"first": 1 / 12.75**2},
    criterion="l2",
  )
  a, b = (_layers(np.asarray(x, np.float64))["first"] / 12.75 for x in (sr, hr))
  np.testing.assert_allclose(content, np.mean((a - b) ** 2), 1e-5)


def test_a_weight_of_zero_is_no_term():
  sr, hr = _pair()
  options = {"features_fn": _layers, "layer_weights": {"first": 1.0}}
  content, style = perceptual(sr, hr, **options)
  assert content > 0
  assert style == 0
  content, style = perceptual(
    sr, hr, perceptual_weight=0.0, style_weight=1.0, **options
  )
  assert content == 0
  assert style > 0

  def never(image):
    raise AssertionError("features of what weighs nothing")

  zeros = perceptual(
    sr, hr, features_fn=never, layer_weights={"x": 1.0}, perceptual_weight=0.0
  )
  assert zeros == (0, 0)


def test_no_gradient_into_hr():
  sr, hr = _pair()
  gradient = jax.grad(
    lambda hr: sum(
      perceptual(
        sr,
        hr,
        features_fn=_layers,
        layer_weights={"first": 1.0},
        style_weight=1.0,
      )
    )
  )(hr)
  np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
def test_equal_images_have_no_gradient(criterion):
  # In sixteenths, with a power of two of values, a Gram matrix is exact: it is
  # the same of the same images, however its two computations are compiled.
  hr = jnp.round(_pair()[1][:, :, :4, :2] * 16) / 16
  gradient = jax.grad(
    lambda sr: sum(
      perceptual(
        sr,
        hr,
        features_fn=lambda image: {"all": image, "some": image[:, ::2] * 2},
        layer_weights={"all": 1.0, "some": 1.0},
        style_weight=1.0,
        criterion=criterion,
      )
    )
  )(hr)
  np.testing.assert_array_equal(gradient, 0.0)


def test_norm_is_numpys_and_flat_at_zero():
  x = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32)
  x[1] = 0
  for axis in (None, -1, (1, 2)):
    expected = np.sqrt((x.astype(np.float64) ** 2).sum(axis))
    np.testing.assert_allclose(
      l2_norm(jnp.asarray(x), axis=axis), expected, 1e-6
    )
  gradient = jax.grad(lambda x: l2_norm(x, axis=(1, 2)).sum())(jnp.asarray(x))
  norms = np.sqrt((x.astype(np.float64) ** 2).sum((1, 2), keepdims=True))
  expected = x / np.where(norms == 0, 1, norms)
  np.testing.assert_allclose(gradient, expected, 1e-5)


def test_errors():
  sr, hr = _pair()
  loss = perceptual.__wrapped__  # the shape hook of the tests would speak first
  options = {"features_fn": _layers, "layer_weights": {"first": 1.0}}
  for change, message in (
    ({"layer_weights": {}}, "layer_weights is empty"),
    ({"layer_weights": {"frist": 1.0}}, "did you mean 'first'"),
    ({"criterion": "l3"}, "criterion 'l3' is not one of"),
    ({"style_weight": -1.0}, "style_weight -1.0 must be"),
    ({"layer_weights": {"first": -1.0}}, "layer_weights.first -1.0 must be"),
    ({"perceptual_weight": np.nan}, "perceptual_weight nan must be finite"),
  ):
    with pytest.raises(ValueError, match=message):
      loss(sr, hr, **{**options, **change})
  with pytest.raises(ValueError, match=r"sr \(2, 4, 6, 3\) and hr \(2, 4, 5"):
    loss(sr, hr[:, :, 1:], **options)
