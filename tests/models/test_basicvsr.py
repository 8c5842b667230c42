"""BasicVSR and its successors: the recorded ones, and the loop over frames."""

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
  "iconvsr": models.IconVSR(
    num_features=16,
    num_blocks=1,
    keyframe_stride=3,
    spynet_widths=(8, 16, 8, 4),
  ),
  "basicvsrpp": models.BasicVSRPlusPlus(num_features=16, num_blocks=1),
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


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", GOLDEN)
def test_optimized_it_is_the_recorded_one(name):
  test_is_the_recorded_one(name)


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
  # Two programs, whose sums have another order on some processors: to 1e-5 of
  # the largest value, which is about 10.
  apart = np.abs(half(variables, mirrored) - plain).max()
  assert apart < 1e-5 * np.abs(plain).max()
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


def test_key_frames_see_the_frames_around_them():
  """Past the ends those that the incumbent takes, which needs five or seven."""
  icon = models.IconVSR(keyframe_stride=3)
  windows = [icon.sources(i, 8) for i in range(8)]
  assert [len(window) for window in windows] == [5, 1, 1, 5, 1, 1, 5, 5]
  assert windows[0] == (4, 3, 0, 1, 2)
  assert windows[1] == (1,)
  assert windows[3] == (1, 2, 3, 4, 5)
  assert windows[6] == (4, 5, 6, 7, 4)
  assert windows[7] == (5, 6, 7, 4, 3)
  wide = models.IconVSR(keyframe_stride=4, temporal_padding=3)
  assert wide.sources(0, 9) == (6, 5, 4, 0, 1, 2, 3)
  assert wide.sources(8, 9) == (5, 6, 7, 8, 4, 3, 2)
  # Where the incumbent raises IndexError.
  assert icon.sources(0, 3) == (2, 2, 0, 1, 2)
  assert icon.sources(2, 3) == (0, 1, 2, 0, 0)
  assert icon.sources(0, 1) == (0, 0, 0, 0, 0)


def _filled(model, lr):
  """Variables of no particular kind, none of them zero."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32),
    jax.eval_shape(model.init, layers.KEY, lr),
  )


@pytest.mark.slow
def test_a_network_for_mirrored_clips_may_be_called_otherwise():
  lr = _clip(1, 2, 9, 10, 3)
  model = models.BasicVSRPlusPlus(
    num_features=8, num_blocks=1, spynet_widths=(2,)
  )
  variables = _filled(model, lr)
  mirrored = model.clone(mirror_extended=True)
  clip = jnp.concatenate([lr, lr[:, ::-1]], axis=1)
  plain = jax.jit(model.apply)(variables, clip)
  np.testing.assert_allclose(
    jax.jit(mirrored.apply)(variables, clip), plain, atol=1e-5
  )
  # Of another clip half of the flow is not enough, and the call says so.
  other = clip[:, ::-1].at[:, 0].set(lr[:, 1])
  plain = jax.jit(model.apply)(variables, other)
  otherwise = jax.jit(lambda *a: mirrored.apply(*a, mirror_extended=False))
  np.testing.assert_allclose(otherwise(variables, other), plain, atol=1e-5)
  wrong = jax.jit(mirrored.apply)(variables, other)
  assert np.abs(wrong - plain).max() > 1e-4


@pytest.mark.slow
def test_a_clip_of_full_size_keeps_it():
  """What is added to it is all that is learned; odd sides are padded inside."""
  lr = _clip(1, 3, 18, 21, 3)
  model = models.BasicVSRPlusPlus(
    num_features=8, num_blocks=1, spynet_widths=(2,), is_low_res_input=False
  )
  variables = _filled(model, lr)
  look = lambda v, x: model.apply(v, jnp.moveaxis(x, 1, 0), method="look_all")
  features = jax.eval_shape(look, variables, lr)
  assert features.shape == (3, 1, 5, 6, 8)
  params = dict(variables["params"])
  params["enlargement"] = {
    **params["enlargement"],
    "conv_last": jax.tree.map(
      jnp.zeros_like, params["enlargement"]["conv_last"]
    ),
  }
  sr = jax.jit(model.apply)({"params": params}, lr)
  np.testing.assert_array_equal(sr, lr)
  sr = jax.jit(model.apply)(variables, lr)
  assert sr.shape == lr.shape
  assert np.abs(sr - lr).max() > 1e-3


@pytest.mark.parametrize("name", ["iconvsr", "basicvsr_plusplus"])
def test_steps_are_computed_anew_once(name):
  """Of IconVSR EDVR is within a chunk, which is computed anew as it is."""

  def inner(jaxpr, depth):
    found = [depth]
    for equation in jaxpr.eqns:
      deeper = depth + (equation.primitive.name in ("remat2", "checkpoint"))
      for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
      ):
        part = getattr(value, "jaxpr", value)
        if hasattr(part, "eqns"):
          found.append(inner(part, deeper))
    return max(found)

  model = models.build(
    name, num_features=8, num_blocks=1, spynet_widths=(2,), remat=True
  )
  lr = _clip(1, 5, 8, 8, 3)
  variables = jax.eval_shape(model.init, layers.KEY, lr)
  assert inner(jax.make_jaxpr(model.apply)(variables, lr).jaxpr, 0) == 1


@pytest.mark.parametrize("field", ["temporal_padding", "keyframe_stride"])
def test_key_frames_see_others(field):
  model = models.IconVSR(**{field: 0})
  with pytest.raises(ValueError, match="must be at least 1: key frames see"):
    jax.eval_shape(model.init, layers.KEY, _clip(1, 5, 8, 8, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iconvsr", "basicvsr_plusplus"])
def test_successors_gradients_are_finite_differences(name):
  model = models.build(
    name, num_features=8, num_blocks=1, spynet_widths=(2,), remat=True
  )
  lr = _clip(1, 3, 9, 10, 3)
  _check_gradient(model, _filled(model, lr), lr)


def _loss(model):
  return lambda variables, lr: jnp.mean(jnp.square(model.apply(variables, lr)))


@pytest.mark.slow
def test_gradients_are_finite_differences():
  """With blocks and steps computed anew."""
  lr = _clip(1, 3, 9, 10, 3)
  _check_gradient(TINY.clone(remat=True), _filled(TINY, lr), lr)


def _check_gradient(model, variables, lr):
  value, gradient = jax.jit(jax.value_and_grad(_loss(model)))(variables, lr)
  slope = jax.tree.map(lambda x: float(jnp.vdot(x, x)), gradient)
  norm = sum(jax.tree.leaves(slope))
  loss = jax.jit(_loss(model.clone(remat=False)))
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


@pytest.mark.slow
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
