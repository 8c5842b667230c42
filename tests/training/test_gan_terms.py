"""The adversarial step: what is not finite, its terms, noise; refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import losses, models, sharding
from sr_jax.training import (
  Adversarial,
  make_latent_prepare,
  make_optimizer,
)
from sr_jax.training.schedules import constant
from sr_jax.training.steps import compile_step
from tests.training.games import (
  Gain,
  Judge,
  NormJudge,
  assert_equal,
  image_batch,
  make_batch,
  make_game,
  mse,
  norm_game,
)


class Curved(nn.Module):
  """logit = slope * sum of squares / 2: its gradient is slope * image."""

  @nn.compact
  def __call__(self, x):
    slope = self.param("slope", nn.initializers.constant(0.7), ())
    return slope * jnp.square(x).sum((1, 2, 3)) / 2


# -- What is not finite ----------------------------------------------------


class Kink(nn.Module):
  """`Judge`, but its gradient is not finite where its loss is."""

  @nn.compact
  def __call__(self, x):
    kink = self.param("kink", nn.initializers.zeros, ())
    return Judge(name="judge")(x) + jnp.sqrt(jnp.square(kink))


def _nothing(sr, hr, frozen):
  del sr, hr, frozen
  return {}


def _flat(sr, hr, frozen):
  """A loss of 0 whose gradient is not a number."""
  del frozen
  return {"pixel": jnp.sqrt(jnp.square(sr - sr).sum()) + 0.0 * hr.sum()}


def _poisoned_loss(sr, hr, frozen):
  del frozen
  return {"pixel": losses.mse(sr, hr) * jnp.nan}


@pytest.mark.parametrize(
  ("discriminator", "loss_fn", "poison", "not_finite"),
  [
    # In hr, with a content term: everything.
    (Judge(), mse, True, {"loss", "grad_norm", "d_loss", "d_grad_norm"}),
    # Without one, the generator does not see hr.
    (Judge(), _nothing, True, {"d_loss", "d_grad_norm"}),
    (Judge(), _poisoned_loss, False, {"loss", "grad_norm"}),
    (Judge(), _flat, False, {"grad_norm"}),
    (Kink(), mse, False, {"d_grad_norm"}),
  ],
  ids=["all", "d_loss", "g_loss", "g_gradient", "d_gradient"],
)
@pytest.mark.parametrize("d_init_steps", [0, 1], ids=["plain", "cond"])
def test_what_is_not_finite_moves_neither(
  discriminator, loss_fn, poison, not_finite, d_init_steps
):
  step, state = make_game(
    Gain(),
    discriminator,
    loss_fn=loss_fn,
    optimizer=make_optimizer(constant(0.1)),
    d_init_steps=d_init_steps,
  )
  state = state.replace(step=state.step + d_init_steps)
  batch = make_batch(0)
  if poison:
    batch["y"][1, 0, 0, 0] = np.nan
  after, metrics = jax.jit(step)(state, batch, jax.random.key(0))
  norms = ("loss", "grad_norm", "d_loss", "d_grad_norm")
  assert {k for k in norms if not np.isfinite(metrics[k])} == not_finite
  assert metrics["skipped"] == 1
  assert int(after.step) == 1 + d_init_steps
  assert_equal(after.generator, state.generator)
  assert_equal(after.discriminator, state.discriminator)


def test_statistics_stay_where_a_step_is_skipped():
  step, state = norm_game()
  step = jax.jit(step)
  state, metrics = step(state, image_batch(0), jax.random.key(0))
  assert metrics["skipped"] == 0
  batch = image_batch(1)
  batch["y"][0, 0, 0, 0] = np.inf
  after, metrics = step(state, batch, jax.random.key(0))
  assert metrics["skipped"] == 1
  assert_equal(after.generator, state.generator)
  assert_equal(after.discriminator, state.discriminator)


# -- Terms -----------------------------------------------------------------


def test_penalties_are_terms_of_the_discriminator():
  """Gulrajani's and Mescheder's in closed form, and as the losses have them."""
  step, state = make_game(
    Gain(),
    Curved(),
    adversarial=Adversarial(
      weight=0.5, kind="wgan", gradient_penalty=10.0, r1=0.3
    ),
  )
  batch, key = make_batch(3), jax.random.key(5)
  after, metrics = jax.jit(step)(state, batch, key)
  hr, sr = np.float64(batch["y"]), 1.5 * np.float64(batch["x"])
  alpha = jax.random.uniform(jax.random.split(key)[1], (4, 1, 1, 1))
  norm = lambda x: np.sqrt((x**2).sum((1, 2, 3)))
  mixed = np.asarray(alpha) * hr + (1 - np.asarray(alpha)) * sr
  slope = 0.7 * norm(mixed)
  wanted = {
    "gradient_penalty": 10 * np.mean((slope - 1) ** 2),
    "r1": 0.3 * np.mean(0.7**2 * norm(hr) ** 2),
    "real": -0.7 * np.mean(norm(hr) ** 2) / 2,
    "fake": 0.7 * np.mean(norm(sr) ** 2) / 2,
  }
  for name, value in wanted.items():
    np.testing.assert_allclose(metrics[f"d_loss/{name}"], value, rtol=1e-5)
  np.testing.assert_allclose(metrics["d_loss"], sum(wanted.values()), rtol=1e-5)
  gradient = (
    10 * np.mean(2 * (slope - 1) * norm(mixed))
    + 0.3 * np.mean(2 * 0.7 * norm(hr) ** 2)
    + (wanted["real"] + wanted["fake"]) / 0.7
  )
  np.testing.assert_allclose(metrics["d_grad_norm"], abs(gradient), rtol=1e-5)
  np.testing.assert_allclose(
    after.discriminator.params["slope"], 0.7 - 0.1 * gradient, rtol=1e-5
  )

  judge = lambda image: Curved().apply({"params": {"slope": 0.7}}, image)
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  directly = losses.gradient_penalty(
    judge, f32(hr), f32(sr), alpha=alpha, norm="sample"
  )
  np.testing.assert_allclose(
    metrics["d_loss/gradient_penalty"], 10 * directly, rtol=1e-5
  )
  np.testing.assert_allclose(
    metrics["d_loss/r1"], 0.3 * losses.r1_penalty(judge, f32(hr)), rtol=1e-5
  )
  # Drawn anew by another key.
  _, other = jax.jit(step)(state, batch, jax.random.key(6))
  name = "d_loss/gradient_penalty"
  assert abs(float(other[name]) - float(metrics[name])) > 1e-4
  np.testing.assert_array_equal(other["d_loss/r1"], metrics["d_loss/r1"])


@pytest.mark.parametrize("name", ["r1", "gradient_penalty"])
@pytest.mark.parametrize("relativistic", [False, True])
def test_penalties_take_running_statistics_as_they_are(name, relativistic):
  """Those of this step's own forwards, and yet no path for a gradient."""
  judge, key = NormJudge(), jax.random.key(1)
  rng = np.random.default_rng(3)
  sr, hr = (jnp.float32(rng.random((4, 6, 6, 3))) for _ in range(2))
  variables = jax.jit(judge.init)(jax.random.key(0), hr)
  params = jax.tree.map(lambda x: 3.0 * x + 0.1, variables["params"])
  game = Adversarial(relativistic=relativistic, **{name: 2.0})

  def terms(params):
    found, _, stats = game.for_discriminator(
      judge, params, variables["batch_stats"], sr, hr, key
    )
    return found[name], stats

  found, stats = jax.grad(terms, has_aux=True)(params)

  def by_hand(params):
    still = lambda x: judge.apply({"params": params, "batch_stats": stats}, x)
    if name == "r1":
      return 2.0 * losses.r1_penalty(still, hr)
    alpha = jax.random.uniform(key, (4, 1, 1, 1))
    return 2.0 * losses.gradient_penalty(
      still, hr, sr, alpha=alpha, norm="sample"
    )

  wanted = jax.grad(by_hand)(params)
  assert max(np.abs(x).max() for x in jax.tree.leaves(wanted)) > 1e-2
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
  jax.tree.map(close, found, wanted)


def test_what_is_frozen_reaches_the_losses_and_stays():
  def towards(sr, hr, frozen):
    del hr
    return {"perceptual": losses.mse(sr, frozen["target"] + jnp.zeros_like(sr))}

  step, state = make_game(Gain(), Judge(), loss_fn=towards)
  step, batch = jax.jit(step), make_batch(0)
  for target in (0.0, 2.0):
    frozen = {"target": jnp.float32(target)}
    _, metrics = step(state, batch, jax.random.key(0), frozen)
    np.testing.assert_allclose(
      metrics["loss/perceptual"],
      np.mean((1.5 * batch["x"] - target) ** 2),
      rtol=1e-5,
    )


def test_a_weight_of_nothing_leaves_the_content_alone():
  """The discriminator learns; the generator does not hear of it."""
  step, state = make_game(Gain(), Judge(), adversarial=Adversarial(weight=0.0))
  batch = make_batch(0)
  after, metrics = jax.jit(step)(state, batch, jax.random.key(0))
  error = 1.5 * batch["x"] - batch["y"]
  np.testing.assert_allclose(
    after.generator.params["gain"],
    1.5 - 0.1 * 2 * np.mean(error * batch["x"]),
    rtol=1e-6,
  )
  assert metrics["loss/adversarial"] == 0
  assert float(after.discriminator.params["slope"]) != pytest.approx(0.7)


# -- Images out of noise ---------------------------------------------------


class Show(nn.Module):
  """Noise as an image of one row."""

  @nn.compact
  def __call__(self, z):
    return (z * self.param("gain", nn.initializers.ones, ()))[:, None, :, None]


def test_noise_is_the_steps_own():
  """A resumed run draws what the unbroken one drew, and no two steps alike."""

  def show(sr, hr, frozen):
    del hr, frozen
    return {"mean": sr.mean(), "square": jnp.square(sr).mean()}

  step, state = make_game(
    Show(),
    Judge(),
    loss_fn=show,
    optimizer=make_optimizer(constant(1e-30), name="sgd"),
    prepare=make_latent_prepare(5),
    shape=(1, 5),
    d_shape=(1, 1, 5, 3),
  )
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  step = compile_step(step, mesh, sharding.state_sharding(mesh, state))
  batch = {"hr": np.full((4, 1, 5, 3), 51, np.uint8)}
  fresh = lambda: jax.tree.map(jnp.copy, state)
  key = jax.random.key(9)
  at, drawn = fresh(), []
  for i in range(3):
    prepare_key, _ = jax.random.split(jax.random.fold_in(key, i))
    z = np.asarray(jax.random.normal(prepare_key, (4, 5)))
    at, metrics = step(at, batch, key, None)
    np.testing.assert_allclose(metrics["loss/mean"], z.mean(), atol=1e-6)
    np.testing.assert_allclose(metrics["loss/square"], np.mean(z**2), rtol=1e-5)
    # slope 0.7, offset -0.1: hr is uint8 / 255.
    np.testing.assert_allclose(metrics["d_real"], 0.7 * 0.2 - 0.1, rtol=1e-5)
    drawn.append(float(metrics["loss/mean"]))
  assert len(set(drawn)) == 3
  resumed = fresh().replace(step=jnp.int32(2))
  _, metrics = step(resumed, batch, key, None)
  assert float(metrics["loss/mean"]) == drawn[2]
  _, metrics = step(fresh(), batch, jax.random.key(10), None)
  assert float(metrics["loss/mean"]) != drawn[0]


def test_a_dcgan_plays_without_a_pixel_term():
  generator = models.build(
    "dcgan_generator", latent_features=3, num_features=2, image_size=8
  )
  step, state = make_game(
    generator,
    models.build("dcgan_discriminator", num_features=2, image_size=8),
    loss_fn=_nothing,
    adversarial=Adversarial(weight=1.0),
    optimizer=make_optimizer(constant(1e-2), b1=0.5),
    prepare=make_latent_prepare(3),
    shape=(1, 3),
    d_shape=(1, 8, 8, 3),
    ema=False,
  )
  hr = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), "uint8")
  after, metrics = jax.jit(step)(state, {"hr": hr}, jax.random.key(0))
  assert "loss/adversarial" not in metrics  # one term alone is the loss
  # Fresh, the judge can tell nothing: log 2 for each.
  np.testing.assert_allclose(metrics["loss"], np.log(2), atol=0.1)
  np.testing.assert_allclose(metrics["d_loss"], 2 * np.log(2), atol=0.2)
  assert metrics["skipped"] == 0
  assert after.generator.ema_params is None
  # Adam's first update is the rate, whatever the gradient.
  move = np.abs(
    after.generator.params["deconv1"]["kernel"]
    - state.generator.params["deconv1"]["kernel"]
  )
  np.testing.assert_allclose(np.median(move), 1e-2, rtol=1e-3)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"weight": -1.0}, r"^weight -1\.0 must be finite and not negative"),
    ({"weight": np.inf}, r"^weight inf must be finite"),
    ({"r1": -1.0}, r"^r1 -1\.0"),
    ({"gradient_penalty": np.nan}, r"^gradient_penalty nan"),
    ({"real_label": 1.1}, r"^real_label 1\.1 must be in \[0, 1\]"),
    ({"fake_label": -0.1}, r"^fake_label -0\.1 must be in \[0, 1\]"),
    ({"kind": "lsgan", "fake_label": np.nan}, "^fake_label nan must be finite"),
    ({"kind": "vanila"}, "kind 'vanila' is not one of"),
    ({"kind": "hinge", "relativistic": True}, "cancel"),
  ],
)
def test_a_game_that_cannot_be_played_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Adversarial(**fields)
