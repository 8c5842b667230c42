"""Updates against Adam, momentum SGD and Muon written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sr_jax.training.optimizers import make_optimizer
from sr_jax.training.schedules import constant, multi_step


def _params():
  return {
    "body": {"kernel": jnp.asarray([1.0, -2.0])},
    "deconv": {"kernel": jnp.asarray([0.5, 3.0]), "bias": jnp.asarray([0.1])},
  }


def _grads(step):
  rng = np.random.default_rng(step)
  return jax.tree.map(lambda x: rng.normal(size=x.shape), _params())


def _run(optimizer, steps, params=None, state=None, first=0):
  params = _params() if params is None else params
  state = optimizer.init(params) if state is None else state
  update = jax.jit(optimizer.update)
  for step in range(first, first + steps):
    grads = jax.tree.map(jnp.asarray, _grads(step))
    updates, state = update(grads, state, params, step=jnp.asarray(step))
    params = optax.apply_updates(params, updates)
  return params, state


def _numpy(path, rule, steps, *, factor=1.0, frozen=range(0)):
  """The same by hand for one parameter; frozen steps do not count at all."""
  value = np.asarray(_params()[path[0]][path[1]], np.float64)
  m = v = np.zeros_like(value)
  count = 0
  for step in range(steps):
    if step in frozen:
      continue
    grad = _grads(step)[path[0]][path[1]]
    count += 1
    if rule == "adam":
      m = 0.9 * m + 0.1 * grad
      v = 0.99 * v + 0.01 * grad**2
      move = m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.99**count)) + 1e-8)
    else:
      m = 0.9 * m + grad
      move = m
    # The rate is a function of the run's step, frozen or not.
    value = value - factor * (0.1 if step < 3 else 0.05) * move
  return value


_SCHEDULE = multi_step(0.1, milestones=[3], gamma=0.5)
_RULES = {
  "adam": {"name": "adam", "b1": 0.9, "b2": 0.99},
  "sgd": {"name": "sgd", "momentum": 0.9},
}


@pytest.mark.parametrize("rule", list(_RULES))
def test_multipliers_by_path(rule):
  optimizer = make_optimizer(
    _SCHEDULE, multipliers=[("deconv", 0.1)], **_RULES[rule]
  )
  params, _ = _run(optimizer, 6)
  for path in [("body", "kernel"), ("deconv", "kernel"), ("deconv", "bias")]:
    expected = _numpy(path, rule, 6, factor=0.1 if path[0] == "deconv" else 1.0)
    np.testing.assert_allclose(params[path[0]][path[1]], expected, rtol=1e-5)


@pytest.mark.parametrize("rule", list(_RULES))
@pytest.mark.parametrize(("start", "stop"), [(0, 4), (2, 5), (0, None)])
def test_freezing_is_a_function_of_the_step(rule, start, stop):
  optimizer = make_optimizer(
    _SCHEDULE,
    multipliers=[("bias", 0.5)],
    freeze=[("^body", start, stop)],
    **_RULES[rule],
  )
  # Stopped and resumed inside the window: what the incumbents get wrong.
  params, state = _run(optimizer, 3)
  params, _ = _run(optimizer, 4, params, state, first=3)
  window = range(start, 7 if stop is None else stop)
  expected = _numpy(("body", "kernel"), rule, 7, frozen=window)
  np.testing.assert_allclose(params["body"]["kernel"], expected, rtol=1e-5)
  expected = _numpy(("deconv", "bias"), rule, 7, factor=0.5)
  np.testing.assert_allclose(params["deconv"]["bias"], expected, rtol=1e-5)


def test_muon_makes_the_kernel_s_momentum_orthogonal():
  """And gives the rest to Adam; a stack of kernels is one matrix a block."""
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(3, 3, 2, 6)).astype(np.float32)
  stacked = rng.normal(size=(2, 3, 3, 2, 6)).astype(np.float32)
  bias = np.asarray([1.0, -2.0, 3.0], np.float32)
  params = {"conv": {"kernel": kernel, "bias": bias}, "s": {"kernel": stacked}}
  optimizer = make_optimizer(
    constant(0.1), name="muon", multipliers=[("bias", 0.5)]
  )
  updates, _ = optimizer.update(
    params, optimizer.init(params), params, step=jnp.asarray(0)
  )

  def check(update, gradient):
    u, _, vt = np.linalg.svd(gradient.reshape(18, 6), full_matrices=False)
    # Newton and Schulz's five steps bring each singular value near 1: the
    # quintic of Jordan et al. leaves them between 0.7 and 1.2.
    singular = np.diag(u.T @ np.asarray(update).reshape(18, 6) @ vt.T) / -0.1
    assert np.all((singular > 0.65) & (singular < 1.25)), singular
    off = u.T @ np.asarray(update).reshape(18, 6) @ vt.T
    assert np.abs(off - np.diag(np.diag(off))).max() < 1e-4

  check(updates["conv"]["kernel"], kernel)
  for update, gradient in zip(updates["s"]["kernel"], stacked, strict=True):
    check(update, gradient)
  # Adam's first step is the sign; Nesterov's looks a step ahead.
  expected = -0.05 * (1 + 0.9 * 0.1 / (1 - 0.9**2)) * np.sign(bias)
  np.testing.assert_allclose(updates["conv"]["bias"], expected, rtol=1e-4)


def test_muon_s_momentum_and_the_shape_of_a_kernel():
  """Two steps with a beta of its own; 12 features to 56 move further."""
  rng = np.random.default_rng(1)
  first, second = rng.normal(size=(2, 1, 1, 12, 56)).astype(np.float32)
  params = {"kernel": jnp.zeros((1, 1, 12, 56))}
  optimizer = make_optimizer(constant(0.1), name="muon", beta=0.5)
  state = optimizer.init(params)
  for step, gradient in enumerate((first, second)):
    updates, state = optimizer.update(
      {"kernel": jnp.asarray(gradient)}, state, params, step=jnp.asarray(step)
    )
  # Nesterov's look ahead over bias-corrected averages.
  momentum = 0.5 * (0.25 * first + 0.5 * second) / (1 - 0.5**3)
  momentum = momentum + 0.5 * second / (1 - 0.5**2)
  u, _, vt = np.linalg.svd(momentum.reshape(12, 56), full_matrices=False)
  moved = u.T @ np.asarray(updates["kernel"]).reshape(12, 56) @ vt.T / -0.1
  singular = np.diag(moved) / np.sqrt(56 / 12)
  assert np.all((singular > 0.65) & (singular < 1.25)), singular
  assert np.abs(moved - np.diag(np.diag(moved))).max() < 1e-3


def test_clipping_and_decay():
  params = _params()
  grads = jax.tree.map(lambda x: 100.0 * jnp.ones_like(x), params)
  optimizer = make_optimizer(
    constant(1.0), name="sgd", clip_norm=1.0, weight_decay=0.1
  )
  updates, _ = optimizer.update(
    grads, optimizer.init(params), params, step=jnp.asarray(0)
  )
  # Five equal gradients of norm 1 altogether; the penalty is added after.
  expected = -(1 / np.sqrt(5) + 0.1 * np.asarray(params["body"]["kernel"]))
  np.testing.assert_allclose(updates["body"]["kernel"], expected, rtol=1e-5)


def test_what_is_frozen_does_not_count_in_the_norm():
  params = _params()
  grads = jax.tree.map(jnp.zeros_like, params)
  grads["body"]["kernel"] = jnp.asarray([100.0, 0.0])
  grads["deconv"]["bias"] = jnp.asarray([0.5])
  optimizer = make_optimizer(
    constant(1.0), name="sgd", clip_norm=1.0, freeze=[("body", 0, 5)]
  )
  state = optimizer.init(params)
  updates, _ = optimizer.update(grads, state, params, step=jnp.asarray(4))
  np.testing.assert_allclose(updates["deconv"]["bias"], -0.5)
  updates, _ = optimizer.update(grads, state, params, step=jnp.asarray(5))
  np.testing.assert_allclose(updates["deconv"]["bias"], -0.005, rtol=1e-4)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="clip_norm -1"):
    make_optimizer(constant(1.0), clip_norm=-1.0)
  with pytest.raises(ValueError, match="adamw"):
    make_optimizer(constant(1.0), name="adamw")
  with pytest.raises(ValueError, match="beta1"):
    make_optimizer(constant(1.0), name="adam", beta1=0.9)
  with pytest.raises(ValueError, match="no regular expression"):
    make_optimizer(constant(1.0), freeze=[("(", 0, 1)])
  with pytest.raises(ValueError, match=r"'spynet' matches no parameter.*body"):
    make_optimizer(constant(1.0), freeze=[("spynet", 0, 1)]).init(_params())
