"""BasicVSR against the recorded one; its loop over frames, sizes, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.models import recurrent
from tests.golden import golden_io
from tests.models import numpy_layers as layers

NARROW = models.BasicVSR(
  num_features=12, num_blocks=2, spynet_widths=(8, 16, 8, 4)
)
GOLDEN = {
  "basicvsr_narrow": NARROW,
  "basicvsr_full_spynet": models.BasicVSR(num_features=16, num_blocks=3),
}
TINY = models.BasicVSR(num_features=4, num_blocks=2, spynet_widths=(2,))


def _clip(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


@pytest.fixture(scope="module")
def narrow():
  """The recorded weights, a clip and what becomes of it."""
  arrays, params, _ = golden_io.load("basicvsr_narrow")
  variables = weights.from_torch(NARROW, params)
  lr = jnp.asarray(golden_io.nhwc(arrays["input"]))
  return variables, lr, jax.jit(NARROW.apply)(variables, lr)


@pytest.mark.parametrize("name", GOLDEN)
def test_is_the_recorded_one(name):
  arrays, params, record = golden_io.load(name)
  model = GOLDEN[name]
  lr = jnp.asarray(golden_io.nhwc(arrays["input"]))
  sr = golden_io.nchw(
    jax.jit(model.apply)(weights.from_torch(model, params), lr)
  )
  atol = record["atol"]["output"]
  for value, key in (
    (sr[..., ::3, ::3], "output_sub3"),
    (sr[..., -24:, -24:], "output_crop"),
    ((sr.mean(), sr.std()), "output_stats"),
  ):
    np.testing.assert_allclose(value, arrays[key], rtol=0, atol=atol)


def test_a_single_frame_is_seen_by_both_passes(narrow):
  """With no features before it: the first step of either pass."""
  variables, lr, _ = narrow
  frame = lr[:, 1]
  nothing = jnp.zeros((*frame.shape[:3], 12))
  still = jnp.zeros((*frame.shape[:3], 2))

  @jax.jit
  def by_hand(variables):
    left = ()
    for number in (0, 1):
      inputs = recurrent.FrameInputs(frame, still, jnp.int32(0), left)
      _, features = NARROW.apply(
        variables, number, nothing, inputs, method="step"
      )
      left = (*left, features)
    return NARROW.apply(variables, frame, frame, left, method="reconstruct")

  sr = jax.jit(NARROW.apply)(variables, frame[:, None])
  np.testing.assert_allclose(sr[:, 0], by_hand(variables), atol=1e-5)


def test_of_a_mirrored_clip_half_the_flow_is_enough(narrow):
  variables, lr, _ = narrow
  mirrored = jnp.concatenate([lr, lr[:, ::-1]], axis=1)
  plain = jax.jit(NARROW.apply)(variables, mirrored)
  half = jax.jit(lambda *a: NARROW.apply(*a, mirror_extended=True))
  np.testing.assert_allclose(half(variables, mirrored), plain, atol=1e-5)
  with pytest.raises(ValueError, match="even number with mirror_extended"):
    NARROW.apply(variables, lr, mirror_extended=True)


def test_chunks_of_frames_change_nothing(narrow, monkeypatch):
  """Flow and the last part go some frames at a time; here two, then one."""
  variables, lr, sr = narrow
  pixels = lr.shape[2] * lr.shape[3]
  monkeypatch.setattr(recurrent, "_FLOW_PIXELS", 3 * pixels)
  monkeypatch.setattr(recurrent, "_SR_PIXELS", pixels)
  again = jax.jit(lambda *a: NARROW.apply(*a))(variables, lr)
  np.testing.assert_allclose(again, sr, atol=1e-5)


def _loss(model):
  return lambda variables, lr: jnp.mean(jnp.square(model.apply(variables, lr)))


def test_gradients_are_finite_differences_and_remat_s():
  lr = _clip(1, 3, 9, 10, 3)
  variables = jax.jit(TINY.init)(layers.KEY, lr)
  again = TINY.clone(remat=True)
  by_remat = jax.jit(jax.value_and_grad(_loss(again)))
  value, gradient = by_remat(variables, lr)
  slope = jax.tree.map(lambda x: float(jnp.vdot(x, x)), gradient)
  norm = sum(jax.tree.leaves(slope))
  loss = jax.jit(_loss(TINY))
  np.testing.assert_allclose(loss(variables, lr), value, rtol=1e-5)
  # Every part learns.
  for part, tree in gradient["params"].items():
    assert max(np.abs(x).max() for x in jax.tree.leaves(tree)) > 0, part
  step = 1e-2 / norm**0.5
  ahead, behind = (
    jax.tree.map(lambda x, g, s=s: x + s * step * g, variables, gradient)
    for s in (0.5, -0.5)
  )
  measured = (loss(ahead, lr) - loss(behind, lr)) / step
  np.testing.assert_allclose(measured, norm, rtol=0.02)


def test_the_program_does_not_grow_with_the_frames():
  """Nor does what is traced, from which a program is compiled."""
  model = TINY.clone(remat=True)
  variables = jax.eval_shape(TINY.init, layers.KEY, _clip(1, 2, 16, 16, 3))

  def lines(frames, size=64):
    lr = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.float32)
    step = jax.jit(jax.grad(_loss(model))).lower(variables, lr)
    return step.as_text().count("\n")

  # As many frames as one chunk has, and more.
  few, many = lines(15), lines(90)
  assert few < many < 1.1 * few


def test_bfloat16_answers_in_float32(narrow):
  variables, lr, sr = narrow
  low = jax.jit(NARROW.clone(dtype=jnp.bfloat16).apply)(variables, lr)
  assert low.dtype == jnp.float32
  error = np.abs(low - sr)
  assert 0 < error.mean() < 0.02 * np.abs(sr).max()


def test_odd_sizes_and_small_ones_work():
  lr = _clip(2, 2, 7, 18, 3)
  variables = jax.eval_shape(TINY.init, layers.KEY, lr)
  sr = jax.eval_shape(TINY.apply, variables, lr)
  assert sr.shape == (2, 2, 28, 72, 3)


@pytest.mark.parametrize(
  ("shape", "message"),
  [
    ((1, 2, 8, 8, 1), "1 channels"),
    ((1, 0, 8, 8, 3), "0 frames"),
  ],
)
def test_bad_input_is_refused(shape, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(TINY.init, layers.KEY, jnp.zeros(shape))
