"""EDVR and its parts against the recorded ones; sizes, frames, offsets."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.models import alignment
from sr_jax.models.edvr import EDVRFeatures
from sr_jax.models.layers import check_clip
from sr_jax.ops.conv import conv2d
from sr_jax.ops.resize import interpolate
from tests.golden import golden_io
from tests.models import numpy_layers as layers

GOLDEN = {
  "edvr_notsa": models.EDVR(
    num_features=16,
    num_frames=3,
    deformable_groups=2,
    num_extract_blocks=1,
    num_reconstruct_blocks=1,
    tsa=False,
  ),
  "edvr_tsa": models.EDVR(
    num_features=16,
    deformable_groups=4,
    num_extract_blocks=2,
    num_reconstruct_blocks=2,
  ),
  "edvr_predeblur_tsa": models.EDVR(
    num_features=12,
    num_frames=3,
    deformable_groups=3,
    num_extract_blocks=1,
    num_reconstruct_blocks=1,
    predeblur=True,
  ),
}
TINY = models.EDVR(
  num_features=4,
  num_frames=3,
  deformable_groups=2,
  num_extract_blocks=1,
  num_reconstruct_blocks=1,
)


def _clip(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def _filled(model, clip, scale=0.2):
  """Variables of no particular kind, offsets of a few pixels among them."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), clip)
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(scale * rng.standard_normal(x.shape), jnp.float32),
    shapes,
  )


def _variables(state_dict):
  """Of a part of the network, by its names in PyTorch."""
  tree = {}
  for key, value in state_dict.items():
    *path, kind = re.sub(r"\.(l\d)", r"_\1", key).split(".")
    if not path or "dcn" in path[-1]:
      path = [*path, "dcn"]
    inner = tree
    for name in path:
      inner = inner.setdefault(name, {})
    if kind == "weight":
      inner["kernel"] = jnp.asarray(value.transpose(2, 3, 1, 0))
    else:
      inner["bias"] = jnp.asarray(value)
  return {"params": tree}


def _check(record, arrays, output):
  np.testing.assert_allclose(
    golden_io.nchw(output),
    arrays["output"],
    rtol=0,
    atol=record["atol"]["output"],
  )


@pytest.mark.usefixtures("optimized")
def test_dcn_is_the_recorded_one():
  arrays, params, record = golden_io.load("dcnv2pack")
  model = alignment.DCNv2Pack(8, deformable_groups=4)
  x, features = (
    jnp.asarray(golden_io.nhwc(arrays[name])) for name in ("input", "feat")
  )
  y, sown = jax.jit(lambda v, x, f: model.apply(v, x, f, mutable=["metrics"]))(
    _variables(params), x, features
  )
  _check(record, arrays, y)
  # Two thirds of what the inner convolution makes are offsets.
  exact = {key: value.astype(np.float64) for key, value in params.items()}
  made = layers.conv(arrays["feat"], exact, "conv_offset")
  np.testing.assert_allclose(
    sown["metrics"]["dcn"]["offset"], np.abs(made[:, :72]).mean(), rtol=1e-5
  )


@pytest.mark.usefixtures("optimized")
def test_pcd_is_the_recorded_one():
  arrays, params, record = golden_io.load("pcd_align")
  model = alignment.PCDAlignment(num_features=16, deformable_groups=4)
  neighbors, reference = (
    [jnp.asarray(golden_io.nhwc(arrays[f"{who}_l{i}"])) for i in (1, 2, 3)]
    for who in ("nbr", "ref")
  )
  y = jax.jit(model.apply)(_variables(params), neighbors, reference)
  _check(record, arrays, y)


@pytest.mark.usefixtures("optimized")
def test_tsa_is_the_recorded_one():
  arrays, params, record = golden_io.load("tsa_fusion")
  model = alignment.TSAFusion(num_features=16)
  x = jnp.asarray(golden_io.nhwc(arrays["input"]))
  _check(record, arrays, jax.jit(model.apply)(_variables(params), x))


@pytest.mark.parametrize("name", GOLDEN)
def test_edvr_is_the_recorded_one(name):
  arrays, params, record = golden_io.load(name)
  model = GOLDEN[name]
  variables = weights.from_torch(model, params)
  clip = jnp.asarray(golden_io.nhwc(arrays["input"]))
  sr, sown = jax.jit(lambda v, x: model.apply(v, x, mutable=["metrics"]))(
    variables, clip
  )
  _check(record, arrays, sr)
  layers_sown = sown["metrics"]["features"]["pcd_align"]
  assert set(layers_sown) == {f"dcn_pack_l{i}" for i in (1, 2, 3)} | {
    "cas_dcnpack"
  }
  back = weights.to_torch(model, variables)
  assert list(back) == list(params)  # PyTorch's own order
  for key, value in back.items():
    np.testing.assert_array_equal(value, params[key], err_msg=key)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", GOLDEN)
def test_optimized_it_is_the_recorded_one(name):
  test_edvr_is_the_recorded_one(name)


def test_high_resolution_in_is_made_small_first():
  """`hr_in` is the other network behind two more strides.

  Here they pick every fourth pixel of what the first layer passes through, so
  the two networks look at the same features, and differ in what is added.
  """
  _, params, _ = golden_io.load("edvr_predeblur_tsa")
  params = dict(params)
  passing = np.zeros((12, 3, 3, 3), np.float32)
  passing[range(3), range(3), 1, 1] = 1
  params["predeblur.conv_first.weight"] = passing
  params["predeblur.conv_first.bias"] *= 0
  picking = np.zeros((12, 12, 3, 3), np.float32)
  picking[range(12), range(12), 1, 1] = 1
  strides = {
    f"predeblur.stride_conv_hr{i}.{kind}": value
    for i in (1, 2)
    for kind, value in (("weight", picking), ("bias", np.zeros(12)))
  }
  clip = _clip(1, 3, 64, 48, 3)
  small = clip[:, :, ::4, ::4]
  plain = GOLDEN["edvr_predeblur_tsa"]
  full = plain.clone(hr_in=True)
  assert (plain.scale, full.scale) == (4, 1)
  sr = jax.jit(plain.apply)(weights.from_torch(plain, params), small)
  residual = sr - interpolate(small[:, 1], 4)
  sr = jax.jit(full.apply)(weights.from_torch(full, params | strides), clip)
  np.testing.assert_allclose(sr - clip[:, 1], residual, rtol=0, atol=3e-4)


@pytest.mark.parametrize(
  ("size", "arguments"),
  [
    ((5, 11), {}),
    ((1, 2), {"tsa": False}),
    ((18, 33), {"predeblur": True, "hr_in": True}),
  ],
)
def test_any_size_is_mirrored_inside(size, arguments):
  model = TINY.clone(**arguments)
  clip = _clip(2, 3, *size, 3)
  variables = _filled(model, clip)
  sr = jax.jit(model.apply)(variables, clip)
  step = 4 * (4 // model.scale)
  edges = [(0, -side % step) for side in size]
  padded = np.pad(clip, ((0, 0), (0, 0), *edges, (0, 0)), "reflect")
  whole = jax.jit(model.apply)(variables, jnp.asarray(padded))
  assert sr.shape == (2, *(side * model.scale for side in size), 3)
  inside = whole[:, : sr.shape[1], : sr.shape[2]]
  np.testing.assert_allclose(sr, inside, rtol=0, atol=1e-5)


def test_the_center_frame_may_be_another():
  """Frames in another order, and the fusion's weights with them."""
  model = TINY.clone(tsa=False)
  clip = _clip(1, 3, 8, 12, 3)
  variables = _filled(model, clip)
  expected = jax.jit(model.apply)(variables, clip)
  order = [1, 2, 0]
  fusion = variables["params"]["features"]["fusion"]
  kernel = fusion["kernel"].reshape(1, 1, 3, 4, 4)[:, :, jnp.asarray(order)]
  fusion["kernel"] = kernel.reshape(1, 1, 12, 4)
  moved = clip[:, jnp.asarray(order)]
  sr = jax.jit(model.clone(center_frame=0).apply)(variables, moved)
  np.testing.assert_allclose(sr, expected, rtol=0, atol=1e-5)


def test_offsets_have_more_digits_than_bfloat16():
  """20.06 pixels, where bfloat16 has 20 and 20.125."""
  model = alignment.DCNv2Pack(features=4, dtype=jnp.bfloat16)
  x = jnp.ones((1, 8, 8, 4), jnp.bfloat16)
  params = jax.jit(model.init)(layers.KEY, x, x)["params"]
  bias = params["conv_offset"]["bias"].at[:18].set(20.06)
  params = {**params, "conv_offset": {**params["conv_offset"], "bias": bias}}
  y, sown = model.apply({"params": params}, x, x, mutable=["metrics"])
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(sown["metrics"]["dcn"]["offset"], 20.06, rtol=1e-5)


def test_tsa_looks_from_its_center_frame():
  model = alignment.TSAFusion(num_features=4, center_frame=0)
  x = _clip(1, 2, 8, 8, 4)
  variables = _filled(model, x, 0.5)
  y = jax.jit(model.apply)(variables, x)
  fusion = variables["params"]
  for name in ("feat_fusion", "spatial_attn1"):
    kernel = fusion[name]["kernel"].reshape(1, 1, 2, 4, 4)[:, :, ::-1]
    fusion[name]["kernel"] = kernel.reshape(1, 1, 8, 4)
  turned = jax.jit(model.clone(center_frame=1).apply)(variables, x[:, ::-1])
  np.testing.assert_allclose(turned, y, rtol=0, atol=1e-6)


def test_a_clip_is_a_clip_whatever_is_beside_it():
  """Frames of all clips are one batch inside."""
  clips = _clip(2, 3, 8, 8, 3)
  variables = _filled(TINY, clips)
  apply = jax.jit(TINY.apply)
  both = apply(variables, clips)
  for i in (0, 1):
    alone = apply(variables, clips[i : i + 1])
    np.testing.assert_allclose(both[i], alone[0], rtol=0, atol=1e-5)


def test_dcn_begins_as_half_a_convolution():
  model = alignment.DCNv2Pack(3, deformable_groups=2)
  x, features = _clip(1, 6, 7, 4), _clip(1, 6, 7, 5, seed=1)
  variables = jax.jit(model.init)(layers.KEY, x, features)
  assert set(variables) == {"params"}
  kernel = variables["params"]["dcn"]["kernel"]
  np.testing.assert_allclose(
    model.apply(variables, x, features),
    0.5 * conv2d(x, kernel, padding=1),
    rtol=0,
    atol=1e-6,
  )


def test_offsets_are_held_and_told():
  """The clamp is by pixels; the statistic is of what was asked for."""
  x = _clip(1, 9, 9, 4)
  free = alignment.DCNv2Pack(3, deformable_groups=1)
  variables = jax.jit(free.init)(layers.KEY, x, x)
  bias = jnp.zeros(27).at[:18:2].set(60.0).at[1:18:2].set(-30.0)
  far = {"kernel": jnp.zeros((3, 3, 4, 27)), "bias": bias}
  near = {**far, "bias": bias.at[:18:2].set(2.5).at[1:18:2].set(-2.5)}

  def run(model, conv_offset):
    params = {**variables["params"], "conv_offset": conv_offset}
    y, sown = model.apply({"params": params}, x, x, mutable=["metrics"])
    return y, sown["metrics"]["dcn"]["offset"]

  expected, _ = run(free, near)
  held, offset = run(free.clone(max_offset=2.5), far)
  np.testing.assert_allclose(held, expected, rtol=0, atol=1e-6)
  assert offset == 45
  assert not np.any(run(free, far)[0])  # off the image
  # The clamp reaches every layer of the network.
  clip = _clip(1, 3, 8, 8, 3)
  filled = _filled(TINY, clip, 2.0)
  apply = lambda m: jax.jit(m.apply)(filled, clip)
  assert not np.allclose(apply(TINY), apply(TINY.clone(max_offset=0.1)))


@pytest.mark.slow
def test_remat_changes_no_gradient_and_no_statistic():
  clip = _clip(1, 3, 8, 8, 3)
  variables = _filled(TINY, clip)
  model = TINY.clone(predeblur=False)

  def gradient(remat):
    def loss(variables):
      net = model.clone(remat=remat)
      sr, sown = net.apply(variables, clip, mutable=["metrics"])
      return jnp.sum(sr**2), sown

    return jax.jit(jax.grad(loss, has_aux=True))(variables)

  for a, b in zip(
    *(jax.tree.leaves(gradient(remat)) for remat in (False, True)), strict=True
  ):
    assert np.all(np.isfinite(a))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max())


def test_remat_computes_the_alignment_anew():
  clip = _clip(1, 3, 8, 8, 3)
  for remat in (False, True):
    model = TINY.clone(remat=remat)
    variables = jax.eval_shape(model.init, jax.random.key(0), clip)
    loss = lambda v, m=model: jnp.sum(m.apply(v, clip))
    program = str(jax.make_jaxpr(jax.grad(loss, allow_int=True))(variables))
    assert ("remat" in program or "checkpoint" in program) == remat


def test_bfloat16_computes_low_and_answers_in_float32():
  clip = _clip(1, 3, 8, 8, 3)
  variables = _filled(TINY, clip)
  exact = jax.jit(TINY.apply)(variables, clip)
  low = jax.jit(TINY.clone(dtype=jnp.bfloat16).apply)(variables, clip)
  assert low.dtype == jnp.float32
  error = np.abs(low - exact).max()
  assert 0 < error < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
  ("arguments", "shape", "message"),
  [
    ({}, (1, 4, 8, 8, 3), "4 frames, but EDVR was built with num_frames=5"),
    ({}, (1, 5, 8, 8, 1), "in_channels=3"),
    ({"center_frame": 5}, (1, 5, 8, 8, 3), "5 is not one of its 5 frames"),
    ({"center_frame": -1}, (1, 5, 8, 8, 3), "-1 is not one of"),
    ({"num_frames": 4}, (1, 4, 8, 8, 3), "4 is even and has no middle"),
    ({"out_channels": 1}, (1, 5, 8, 8, 3), "must be equal"),
    ({"hr_in": True}, (1, 5, 8, 8, 3), "hr_in needs predeblur=True"),
    ({"max_offset": 0.0}, (1, 5, 8, 8, 3), "max_offset 0.0 is not positive"),
  ],
)
def test_bad_input_is_refused(arguments, shape, message):
  model = models.build("edvr", **arguments)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def test_a_clip_has_five_axes():
  """Told by the shape where no annotation is checked."""
  with pytest.raises(
    ValueError,
    match=r"EDVR takes .*frames.* \(5, 8, 8, 3\).*clip is lr\[None\]",
  ):
    check_clip(models.EDVR(), jnp.zeros((5, 8, 8, 3)), channels=3)


def test_features_alone_pad_nothing():
  with pytest.raises(ValueError, match=r"\(8, 10\) is not a multiple of 4"):
    jax.eval_shape(
      EDVRFeatures().init, jax.random.key(0), jnp.zeros((1, 5, 8, 10, 3))
    )
