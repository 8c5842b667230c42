"""Learning rates against BasicSR's, step by step, and past their end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.training.schedules import (
  constant,
  cosine_restarts,
  multi_step,
  warm_up,
)
from tests.golden import golden_io

_ARRAYS, _, _RECORD = golden_io.load("lr_schedules")
_ATOL = _RECORD["atol"]["all"]


def _made(kind, index):
  arguments = _RECORD["ctor"][{"cosine": "cos", "multistep": "ms"}[kind]][index]
  make = {"cosine": cosine_restarts, "multistep": multi_step}[kind]
  return make(2e-4, **arguments)


@pytest.mark.parametrize("kind", ["cosine", "multistep"])
@pytest.mark.parametrize("index", [0, 1])
def test_every_step_is_the_references(kind, index):
  schedule = _made(kind, index)
  expected = _ARRAYS[f"{kind}{index}"]
  ours = [schedule(step) for step in range(len(expected))]
  np.testing.assert_allclose(ours, expected, rtol=0, atol=_ATOL)
  traced = jax.jit(jax.vmap(schedule))(jnp.arange(len(expected)))
  np.testing.assert_allclose(traced, expected, rtol=1e-5)


def test_cosine_holds_past_the_last_period():
  # The reference raises there (FIELD C10).
  schedule = _made("cosine", 0)
  np.testing.assert_allclose(schedule(10**6), 1e-7, rtol=1e-12)


def test_warm_up_reaches_the_full_rate():
  # Quirk: the reference stays at 0.8 of the rate after a warm-up of 5.
  schedule = warm_up(multi_step(1e-3, milestones=[8], gamma=0.5), 5)
  ours = np.asarray([schedule(step) for step in range(15)])
  recorded = _ARRAYS["train_loop_warmup"]
  np.testing.assert_allclose(ours[:4], recorded[:4], rtol=0, atol=_ATOL)
  np.testing.assert_allclose(ours[4:8], 1e-3)
  np.testing.assert_allclose(ours[8:], 0.5e-3)


def test_constant_and_no_warm_up():
  assert warm_up(constant(0.5), 0)(7) == 0.5
  assert jax.jit(constant(0.5))(jnp.int32(3)) == 0.5


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="one weight"):
    cosine_restarts(1.0, periods=[2, 2], restart_weights=[1.0])
  with pytest.raises(ValueError, match="positive"):
    cosine_restarts(1.0, periods=[0])
  with pytest.raises(ValueError, match="one weight for each"):
    multi_step(1.0, milestones=[1], restarts=[2], restart_weights=[1.0, 2.0])
