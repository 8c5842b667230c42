"""Adversarial losses and penalties against BasicSR's, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import (
  adversarial,
  gradient_penalty,
  r1_penalty,
  relativistic_discriminator,
  relativistic_generator,
)
from tests.golden import golden_io

_KINDS = ["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]
_LOSS_WEIGHT = 0.005  # the recorded one; the generator's alone


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("side", ["disc", "gen"])
@pytest.mark.parametrize("target", ["real", "fake"])
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.usefixtures("optimized")
def test_matches_basicsr(kind, target, side, soft):
  arrays, _, record = golden_io.load("losses_gan")
  case = f"{kind}_{target}_{side}_lab{'0.9' if soft else '1.0'}"
  labels = {"real_label": 0.9, "fake_label": 0.1} if soft else {}
  factor = 1.0 if side == "disc" else _LOSS_WEIGHT
  value, gradient = jax.value_and_grad(
    lambda x: (
      factor
      * adversarial(
        x,
        real=target == "real",
        for_discriminator=side == "disc",
        kind=kind,
        **labels,
      )
    )
  )(jnp.asarray(arrays["input"]))
  for key, ours in ((f"value/{case}", value), (f"grad/{case}", gradient)):
    np.testing.assert_allclose(
      ours, arrays[key], 0, record["atol"][key], err_msg=key
    )


@pytest.mark.usefixtures("optimized")
def test_several_scales_are_averaged():
  arrays, _, _ = golden_io.load("losses_gan")
  x = jnp.asarray(arrays["input"])
  value = adversarial(
    [x, x * 0.5], real=True, for_discriminator=True, kind="hinge"
  )
  expected = arrays["value/multiscale_hinge_real_disc"]
  np.testing.assert_allclose(value, expected, 1e-6)
  # Each scale counts the same, however many logits it has.
  value = adversarial(
    (x[:1], x), real=False, for_discriminator=True, kind="wgan"
  )
  expected = (arrays["input"][0, 0] + arrays["input"].mean()) / 2
  np.testing.assert_allclose(value, expected, 1e-5)


def test_large_logits_lose_nothing():
  x = jnp.asarray([-100.0, 100.0])
  for real in (True, False):
    value = adversarial(x, real=real, for_discriminator=True)
    np.testing.assert_allclose(value, 50.0)
  # A sure and right discriminator: log(1 + exp(-20)), not 0.
  sure = adversarial(jnp.asarray([20.0]), real=True, for_discriminator=True)
  np.testing.assert_allclose(sure, np.log1p(np.exp(-20.0)), 1e-5)


def test_bfloat16_logits_are_summed_in_float32():
  x = jnp.asarray([256.0, 1.0, 1.0, 1.0], jnp.bfloat16)
  value = adversarial(x, real=False, for_discriminator=True, kind="wgan")
  assert value.dtype == jnp.float32
  assert value == 259.0 / 4


def _flat(z):
  """NHWC to what torch's flatten makes of NCHW."""
  return z.transpose(0, 3, 1, 2).reshape(z.shape[0], -1)


def _leaky_discriminator(weights, z):
  hidden = _flat(z) @ weights["W1"].T + weights["b1"]
  hidden = jnp.where(hidden >= 0, hidden, 0.2 * hidden)
  return hidden @ weights["W2"].T + weights["b2"]


def _softplus_discriminator(weights, z):
  hidden = jax.nn.softplus(_flat(z) @ weights["W1"].T + weights["b1"])
  return hidden @ weights["W2"].T + weights["b2"]


def _load(name):
  arrays, _, record = golden_io.load(name)
  weights = {k: jnp.asarray(arrays[k]) for k in ("W1", "b1", "W2", "b2")}
  images = {
    k: jnp.asarray(golden_io.nhwc(arrays[k]))
    for k in ("real", "fake", "mask")
    if k in arrays
  }
  return arrays, weights, images, record["atol"]


@pytest.mark.parametrize("kind", ["vanilla", "lsgan"])
@pytest.mark.usefixtures("optimized")
def test_relativistic_matches_basicsr(kind):
  arrays, weights, images, atol = _load(f"losses_relativistic_{kind}")
  real, fake = images["real"], images["fake"]

  def generator(fake):
    return _LOSS_WEIGHT * relativistic_generator(
      _leaky_discriminator(weights, real),
      _leaky_discriminator(weights, fake),
      kind=kind,
    )

  def discriminator(weights):
    on_real = _leaky_discriminator(weights, real)
    on_fake = _leaky_discriminator(weights, fake)
    terms = (
      relativistic_discriminator(on_real, on_fake, real=True, kind=kind),
      relativistic_discriminator(on_fake, on_real, real=False, kind=kind),
    )
    return sum(terms), terms

  g_loss, g_gradient = jax.value_and_grad(generator)(fake)
  d_gradient, d_terms = jax.grad(discriminator, has_aux=True)(weights)
  results = {
    "g_loss": g_loss,
    "grad_fake_from_g": golden_io.nchw(g_gradient),
    "d_loss_real": d_terms[0],
    "d_loss_fake": d_terms[1],
    **{f"grad_d_{key}": value for key, value in d_gradient.items()},
  }
  for key, ours in results.items():
    np.testing.assert_allclose(ours, arrays[key], 0, atol[key], err_msg=key)


def _softplus(x):
  return np.logaddexp(0, x)


def test_relativistic_with_soft_labels():
  """Against NumPy, the two sides with different numbers of logits."""
  rng = np.random.default_rng(4)
  real, fake = rng.normal(size=(5, 1)), rng.normal(size=(4, 3, 2, 1))

  def cross_entropy(x, label):
    return np.mean(label * _softplus(-x) + (1 - label) * _softplus(x))

  labels = {"real_label": 0.9, "fake_label": 0.2}
  inputs = [jnp.asarray(x, jnp.float32) for x in (real, fake)]
  against_fake, against_real = real - fake.mean(), fake - real.mean()
  expected = cross_entropy(against_fake, 0.2) + cross_entropy(against_real, 0.9)
  np.testing.assert_allclose(
    relativistic_generator(*inputs, **labels), expected / 2, 1e-5
  )
  for real_side in (True, False):
    x = against_fake if real_side else against_real
    pair = inputs if real_side else inputs[::-1]
    np.testing.assert_allclose(
      relativistic_discriminator(*pair, real=real_side, **labels),
      cross_entropy(x, 0.9 if real_side else 0.2) / 2,
      1e-5,
    )


def test_the_other_side_is_held():
  x, y = jnp.asarray([0.3, -1.0]), jnp.asarray([0.8, 0.1])
  held = jax.grad(relativistic_generator, argnums=0)(x, y)
  np.testing.assert_array_equal(held, 0.0)
  for real in (True, False):
    held = jax.grad(
      lambda y, real=real: relativistic_discriminator(x, y, real=real)
    )(y)
    np.testing.assert_array_equal(held, 0.0)


@pytest.mark.parametrize("case", ["gp", "gp_mask", "r1"])
def test_penalties_match_basicsr(case):
  arrays, weights, images, atol = _load("losses_gp_r1")

  def penalty(weights):
    def logits(z):
      return _softplus_discriminator(weights, z)

    if case == "r1":
      return r1_penalty(logits, images["real"])
    return gradient_penalty(
      logits,
      images["real"],
      images["fake"],
      alpha=jnp.asarray(arrays["alpha"]),
      norm="pixel",
      mask=images["mask"] if case == "gp_mask" else None,
    )

  value, gradient = jax.jit(jax.value_and_grad(penalty))(weights)
  for key, ours in ((case, value), (f"{case}_grad_W1", gradient["W1"])):
    np.testing.assert_allclose(ours, arrays[key], 0, atol[key], err_msg=key)


@pytest.mark.parametrize("masked", [False, True])
def test_penalty_of_a_whole_sample(masked):
  """Gulrajani's, against the slope in closed form and its differences."""
  arrays, weights, images, _ = _load("losses_gp_r1")
  names = ("real", "fake", "alpha", "mask", "W1", "b1", "W2")
  real, fake, alpha, mask, W1, b1, W2 = (
    arrays[k].astype(np.float64) for k in names
  )
  mixed = (alpha * real + (1 - alpha) * fake).reshape(len(real), -1)
  mask = np.broadcast_to(mask if masked else np.ones_like(mask), real.shape)

  def expected(W1):
    sigmoid = 1 / (1 + np.exp(-(mixed @ W1.T + b1)))
    slope = (W2 * sigmoid) @ W1 * mask.reshape(len(real), -1)
    return np.mean((np.sqrt((slope**2).sum(1)) - 1) ** 2)

  def ours(W1):
    return gradient_penalty(
      lambda z: _softplus_discriminator({**weights, "W1": W1}, z),
      images["real"],
      images["fake"],
      alpha=jnp.asarray(arrays["alpha"]),
      norm="sample",
      mask=images["mask"] if masked else None,
    )

  value, gradient = jax.value_and_grad(ours)(weights["W1"])
  np.testing.assert_allclose(value, expected(W1), 1e-5)
  for index in ((0, 0), (3, 50), (7, 107)):
    step = np.zeros_like(W1)
    step[index] = 1e-5
    difference = (expected(W1 + step) - expected(W1 - step)) / 2e-5
    np.testing.assert_allclose(gradient[index], difference, 1e-3, 1e-6)


@pytest.mark.parametrize("norm", ["pixel", "sample"])
def test_penalty_of_a_flat_discriminator(norm):
  """Slope 0, penalty 1, and a gradient of 0 where the norm has none."""
  real, fake = jnp.ones((2, 3, 3, 2)), jnp.zeros((2, 3, 3, 2))
  alpha = jnp.full((2, 1, 1, 1), 0.5)

  def penalty(gain):
    return gradient_penalty(
      lambda z: gain * z.sum((1, 2, 3)), real, fake, alpha=alpha, norm=norm
    )

  value, gradient = jax.value_and_grad(penalty)(0.0)
  assert value == 1.0
  assert gradient == 0.0
  # And what is masked out has no part in it.
  mask = jnp.zeros((2, 3, 3, 1)).at[:, 1].set(1.0)
  gradient = jax.grad(
    lambda gain: gradient_penalty(
      lambda z: gain * z.sum((1, 2, 3)),
      real,
      fake,
      alpha=alpha,
      norm=norm,
      mask=mask,
    )
  )(2.0)
  # (gain * root - 1)**2 with root of 2 channels, or of 2 channels, 3 pixels.
  root = np.sqrt(2.0 if norm == "pixel" else 6.0)
  np.testing.assert_allclose(gradient, 2 * (2 * root - 1) * root, 1e-5)


def test_penalties_give_the_images_no_gradient():
  arrays, weights, images, _ = _load("losses_gp_r1")
  alpha = jnp.asarray(arrays["alpha"])

  def logits(z):
    return _softplus_discriminator(weights, z)

  def both(real, fake):
    penalty = gradient_penalty(logits, real, fake, alpha=alpha, norm="sample")
    return penalty + r1_penalty(logits, real)

  for gradient in jax.grad(both, (0, 1))(images["real"], images["fake"]):
    np.testing.assert_array_equal(gradient, 0.0)


def test_errors():
  x = jnp.zeros((2, 1))
  loss = (
    adversarial.__wrapped__
  )  # the shape hook of the tests would speak first
  with pytest.raises(ValueError, match="kind 'gan' is not one of"):
    loss(x, real=True, for_discriminator=True, kind="gan")
  with pytest.raises(ValueError, match="logits is empty"):
    loss([], real=True, for_discriminator=True)
  with pytest.raises(ValueError, match="'hinge' has no relativistic generator"):
    relativistic_generator(x, x, kind="hinge")
  for name in ("relativistic_generator", "relativistic_discriminator"):
    more = {"real": True} if name.endswith("discriminator") else {}
    with pytest.raises(ValueError, match="kind 'gan' is not one of"):
      globals()[name](x, x, kind="gan", **more)

  penalty = gradient_penalty.__wrapped__
  real, alpha = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 1, 1, 1))
  right = {"alpha": alpha, "norm": "sample"}
  for fake, change, message in (
    (real, {"norm": "l2"}, "norm 'l2' is not one of"),
    (real[:1], {}, r"real \(2, 4, 4, 3\) and fake \(1, 4, 4, 3\)"),
    (real, {"alpha": alpha[:1]}, r"alpha \(1, 1, 1, 1\) must be \(2, 1, 1, 1"),
    (real, {"mask": real[..., :2]}, r"mask \(2, 4, 4, 2\) must be"),
  ):
    with pytest.raises(ValueError, match=message):
      penalty(lambda z: z.sum((1, 2, 3)), real, fake, **{**right, **change})
