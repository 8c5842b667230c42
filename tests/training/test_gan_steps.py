"""The adversarial step against NumPy, network by network and step by step."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from sr_jax.models.discriminators import SpectralConv
from sr_jax.training import (
  Adversarial,
)
from tests.training.games import (
  IMAGES,
  Gain,
  Judge,
  assert_equal,
  image_batch,
  make_batch,
  make_game,
  norm_game,
)

# -- The whole step, in float64 and by hand --------------------------------


def _softplus(x):
  return np.logaddexp(x, 0.0)


def _sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


# Kind -> (loss, slope) of each logit, given its label and whose loss it is.
_KINDS = {
  "vanilla": (
    lambda x, label, _: label * _softplus(-x) + (1 - label) * _softplus(x),
    lambda x, label, _: _sigmoid(x) - label,
  ),
  "lsgan": (
    lambda x, label, _: (x - label) ** 2,
    lambda x, label, _: 2 * (x - label),
  ),
  "wgan": (
    lambda x, label, _: np.where(label > 0.5, -x, x),
    lambda x, label, _: np.where(label > 0.5, -1.0, 1.0) + 0 * x,
  ),
  "wgan_softplus": (
    lambda x, label, _: _softplus(np.where(label > 0.5, -x, x)),
    lambda x, label, _: np.where(label > 0.5, -_sigmoid(-x), _sigmoid(x)),
  ),
  "hinge": (
    lambda x, label, d: (
      np.maximum(0, 1 + np.where(label > 0.5, -x, x)) if d else -x
    ),
    lambda x, label, d: (
      np.where(label > 0.5, -1.0 * (x < 1), 1.0 * (x > -1)) if d else 0 * x - 1
    ),
  ),
}


class _ByHand:
  """BasicSR's order with `Gain` and `Judge`, sgd 0.1 and EMA 0.9."""

  def __init__(self, *, kind, relativistic, weight, labels):
    self.loss, self.slope_of = _KINDS[kind]
    self.relativistic, self.weight = relativistic, weight
    self.real_label, self.fake_label = labels
    self.gain = self.ema = 1.5
    self.slope, self.offset = 0.7, -0.1

  def _term(self, logits, label, for_discriminator):
    """Mean loss, and its derivative by each logit."""
    given = (logits, label, for_discriminator)
    return self.loss(*given).mean(), self.slope_of(*given) / logits.size

  def step(self, batch, *, generator_moves=True):
    x, y = (np.float64(batch[k]) for k in ("x", "y"))
    real_means, x_means = y.mean((1, 2, 3)), x.mean((1, 2, 3))
    fake_means = self.gain * x_means
    real = self.slope * real_means + self.offset
    fake = self.slope * fake_means + self.offset
    labels = self.real_label, self.fake_label
    # The generator: only what the fake logits do to its loss moves it.
    if self.relativistic:
      first, d_first = self._term(real - fake.mean(), labels[1], False)
      second, d_second = self._term(fake - real.mean(), labels[0], False)
      value = (first + second) / 2
      d_fake = (d_second - d_first.sum() / fake.size) / 2
    else:
      value, d_fake = self._term(fake, labels[0], False)
    error = self.gain * x - y
    terms = {"pixel": np.mean(error**2), "adversarial": self.weight * value}
    d_gain = 2 * np.mean(error * x)
    d_gain += self.weight * (d_fake * self.slope * x_means).sum()
    # The discriminator, on the image of the generator that has not moved.
    # No gradient goes into the mean of the other side.
    half = 0.5 if self.relativistic else 1.0
    shift = (fake.mean(), real.mean()) if self.relativistic else (0.0, 0.0)
    on_real, d_real = self._term(real - shift[0], labels[0], True)
    on_fake, d_fake = self._term(fake - shift[1], labels[1], True)
    d_slope = half * ((d_real * real_means).sum() + (d_fake * fake_means).sum())
    d_offset = half * (d_real.sum() + d_fake.sum())
    if generator_moves:
      self.gain -= 0.1 * d_gain
    self.slope -= 0.1 * d_slope
    self.offset -= 0.1 * d_offset
    self.ema = 0.9 * self.ema + 0.1 * self.gain
    return {
      "loss": terms["pixel"] + terms["adversarial"],
      "loss/pixel": terms["pixel"],
      "loss/adversarial": terms["adversarial"],
      "grad_norm": abs(d_gain),
      "d_loss": half * (on_real + on_fake),
      "d_loss/real": half * on_real,
      "d_loss/fake": half * on_fake,
      "d_grad_norm": np.hypot(d_slope, d_offset),
      "d_real": real.mean(),
      "d_fake": fake.mean(),
      "d_gap": real.mean() - fake.mean(),
      "moved": 1.0,
      "skipped": 0.0,
    }

  def check(self, state):
    found = {
      **state.generator.params,
      **state.discriminator.params,
      "ema": state.generator.ema_params["gain"],
    }
    for name, value in found.items():
      np.testing.assert_allclose(
        value, getattr(self, name), rtol=2e-6, atol=1e-7, err_msg=name
      )


@pytest.mark.parametrize(
  ("kind", "relativistic", "labels"),
  [
    ("vanilla", False, (1.0, 0.0)),
    ("vanilla", True, (1.0, 0.0)),
    ("vanilla", True, (0.9, 0.1)),
    ("lsgan", False, (0.8, -0.2)),
    ("lsgan", True, (1.0, 0.0)),
    ("wgan", False, (1.0, 0.0)),
    ("wgan", True, (1.0, 0.0)),
    ("wgan_softplus", False, (1.0, 0.0)),
    ("hinge", False, (1.0, 0.0)),
  ],
)
def test_every_kind_is_the_game_by_hand(kind, relativistic, labels):
  step, state = make_game(
    Gain(),
    Judge(),
    adversarial=Adversarial(
      weight=0.5,
      kind=kind,
      relativistic=relativistic,
      real_label=labels[0],
      fake_label=labels[1],
    ),
  )
  step = jax.jit(step)
  hand = _ByHand(
    kind=kind, relativistic=relativistic, weight=0.5, labels=labels
  )
  for i in range(4):
    state, metrics = step(state, make_batch(i), jax.random.key(0))
    wanted = hand.step(make_batch(i))
    assert set(metrics) == set(wanted)
    for name, value in wanted.items():
      np.testing.assert_allclose(
        metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{i} {name}"
      )
    hand.check(state)
  assert int(state.step) == 4


# -- Which network moves, and when -----------------------------------------


@pytest.mark.parametrize(
  ("d_steps", "d_init_steps", "moves"),
  [
    (1, 0, [1, 1, 1, 1, 1, 1]),
    (2, 0, [0, 1, 0, 1, 0, 1]),
    (1, 3, [0, 0, 0, 1, 1, 1]),
    (2, 3, [0, 0, 0, 1, 0, 1]),
    (3, 1, [0, 0, 1, 0, 0, 1]),
  ],
)
def test_the_generator_waits(d_steps, d_init_steps, moves):
  """BasicSR's `current_iter % net_d_iters == 0` past `net_d_init_iters`."""
  step, state = make_game(
    Gain(), Judge(), d_steps=d_steps, d_init_steps=d_init_steps
  )
  step = jax.jit(step)
  hand = _ByHand(
    kind="vanilla", relativistic=False, weight=0.5, labels=(1.0, 0.0)
  )
  for i, move in enumerate(moves):
    state, metrics = step(state, make_batch(i), jax.random.key(0))
    wanted = hand.step(make_batch(i), generator_moves=bool(move))
    hand.check(state)  # the average moves as well
    assert metrics["moved"] == move
    np.testing.assert_allclose(metrics["d_loss"], wanted["d_loss"], rtol=1e-5)
    loss = wanted["loss"] if move else 0.0
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)


def _counts(net):
  """Adam's."""
  leaves = jax.tree_util.tree_leaves_with_path(net.opt_state)
  return {
    int(x) for path, x in leaves if jax.tree_util.keystr(path).endswith("count")
  }


class SpectralJudge(nn.Module):
  """A logit for each pixel."""

  @nn.compact
  def __call__(self, x, *, train=False):
    return SpectralConv(3, 3, name="conv")(x, train=train)


def test_a_game_without_turns_is_refused():
  for fields in ({"d_steps": 0}, {"d_init_steps": -1}):
    with pytest.raises(ValueError, match="must be at least 1"):
      make_game(Gain(), Judge(), **fields)


def test_a_branch_computes_what_the_plain_step_does():
  """lax.cond: where the generator always moves, and where it waits once."""
  plain, first = norm_game()
  waits, _ = norm_game(d_init_steps=1)
  plain, waits = map(jax.jit, (plain, waits))
  key = jax.random.key(0)
  one = two = first.replace(step=first.step + 1)
  for i in range(2):
    one, metrics = plain(one, image_batch(i), key)
    two, others = waits(two, image_batch(i), key)
    for name, value in metrics.items():
      np.testing.assert_allclose(others[name], value, rtol=1e-5, atol=1e-6)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, one, two)
  assert _counts(one.generator) == _counts(one.discriminator) == {2}

  moved, metrics = plain(first, image_batch(0), key)
  held, others = waits(first, image_batch(0), key)
  g, d = held.generator, held.discriminator
  assert_equal(g.params, first.generator.params)
  assert_equal(g.opt_state, first.generator.opt_state)
  jax.tree.map(close, g.ema_params, first.generator.ema_params)
  assert _counts(g) == {0}
  assert _counts(d) == {1}
  # Its one forward moves its statistics all the same, and the
  # discriminator is judged on the same image.
  jax.tree.map(close, g.batch_stats, moved.generator.batch_stats)
  assert int(g.batch_stats["bn"]["count"]) == 1
  jax.tree.map(close, d.params, moved.discriminator.params)
  close(others["d_loss"], metrics["d_loss"])
  # Three forwards of the discriminator, instead of five.
  counts = [
    int(state.discriminator.batch_stats["norm"]["bn"]["count"])
    for state in (held, moved)
  ]
  assert counts == [3, 5]


@pytest.mark.parametrize(("relativistic", "forwards"), [(False, 3), (True, 5)])
def test_spectral_vectors_move_at_every_forward(relativistic, forwards):
  step, state = make_game(
    Gain(),
    SpectralJudge(),
    adversarial=Adversarial(weight=0.1, relativistic=relativistic),
    **IMAGES,
  )
  before = state.discriminator
  after = jax.jit(step)(state, image_batch(0), jax.random.key(0))[
    0
  ].discriminator
  kernel = np.float64(before.params["conv"]["kernel"])
  matrix = kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1)
  u = np.float64(before.batch_stats["conv"]["u"])
  for _ in range(forwards):
    v = matrix.T @ u
    v /= np.linalg.norm(v)
    u = matrix @ v
    u /= np.linalg.norm(u)
  found = after.batch_stats["conv"]
  np.testing.assert_allclose(found["u"], u, atol=2e-6)
  np.testing.assert_allclose(found["v"], v, atol=2e-6)
