"""Generators against the recorded reference networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.models import srcnn
from sr_jax.models.layers import repeat, torch_init
from sr_jax.models.srresnet import ResidualBlock
from sr_jax.ops.resize import imresize
from tests.golden import golden_io
from tests.models import numpy_layers as layers

RGB = {"in_channels": 3, "out_channels": 3}
#: Golden, our network, and how BasicSR's arguments are called here.
GOLDEN = {
  "srcnn_x4_915": models.build("srcnn", scale=4, features=[16, 8], **RGB),
  "fsrcnn_x2": models.FSRCNN(scale=2),
  "fsrcnn_x4": models.FSRCNN(
    scale=4, num_features=32, shrink_features=5, num_blocks=1
  ),
  "msrresnet_x2": models.MSRResNet(scale=2, num_features=12, num_blocks=2),
  "msrresnet_x4": models.MSRResNet(scale=4, num_features=16, num_blocks=3),
  "edsr_x2": models.EDSR(scale=2, num_features=16, num_blocks=3),
  "edsr_x4_rs01": models.EDSR(
    scale=4, num_features=12, num_blocks=4, residual_scale=0.1
  ),
  "rrdbnet_x2": models.RRDBNet(
    scale=2, num_features=16, num_blocks=1, growth_features=8
  ),
  "rrdbnet_x4": models.RRDBNet(
    scale=4, num_features=16, num_blocks=2, growth_features=8
  ),
  "srresnet_bn_x4": models.SRResNet(scale=4, num_features=16, num_blocks=3),
  "srvgg_x4_prelu": models.SRVGGNetCompact(num_features=16, num_blocks=6),
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.usefixtures("optimized")
def test_is_the_recorded_one(name):
  arrays, params, record = golden_io.load(name)
  model = GOLDEN[name]
  lr = jnp.asarray(golden_io.nhwc(arrays["input"]))
  variables = weights.from_torch(model, params)
  sr = golden_io.nchw(jax.jit(model.apply)(variables, lr))
  expected = arrays.get("output_unclamped", arrays["output"])
  atol = record["atol"]
  np.testing.assert_allclose(
    sr, expected, rtol=0, atol=atol.get("output_unclamped", atol["output"])
  )
  if name == "srresnet_bn_x4":
    np.testing.assert_allclose(
      sr.clip(0, 1), arrays["output"], rtol=0, atol=atol["output"]
    )


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.usefixtures("optimized")
def test_srresnet_trains_as_the_recorded_one(remat):
  arrays, params, record = golden_io.load("srresnet_bn_x4")
  model = GOLDEN["srresnet_bn_x4"].clone(remat=remat)
  variables = weights.from_torch(model, params)
  lr = jnp.asarray(golden_io.nhwc(arrays["input"]))
  sr, moved = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
  )(variables, lr)
  after = weights.to_torch(model, {**variables, **moved})
  for key, value in (
    ("output_train_unclamped", golden_io.nchw(sr)),
    ("after_trunk0_bn1_mean", after["trunk.0.rcb.1.running_mean"]),
    ("after_trunk0_bn1_var", after["trunk.0.rcb.1.running_var"]),
  ):
    np.testing.assert_allclose(
      value, arrays[key], rtol=0, atol=record["atol"][key], err_msg=key
    )
  counts = {k: v for k, v in after.items() if k.endswith("tracked")}
  assert len(counts) == 7
  for key, count in counts.items():
    assert count == params[key] + 1, key


GENERATORS = ["srresnet", "msrresnet", "edsr", "rrdbnet", "srvggnet"]
LARGE = {"num_features": 256, "num_blocks": 32, "residual_scale": 0.1}
EDVR_LARGE = {"num_features": 128, "num_reconstruct_blocks": 40}


@pytest.mark.parametrize(
  ("name", "arguments", "count"),
  [
    # weights + biases of the papers; FSRCNN with one slope a channel.
    ("srcnn", {}, 8032 + 97),
    ("srcnn", {"kernel_sizes": (9, 3, 5)}, 24416 + 97),
    ("srcnn", {"kernel_sizes": (9, 5, 5)}, 57184 + 97),
    ("srcnn", {**RGB, "scale": 4}, 20099),
    ("fsrcnn", {}, 12464 + 173 + 172),
    (
      "fsrcnn",
      {"num_features": 32, "shrink_features": 5, "num_blocks": 1},
      3937 + 75 + 74,
    ),
    # Counted in BasicSR's constructors.
    ("msrresnet", {"scale": 2}, 1_369_859),
    ("msrresnet", {"scale": 3}, 1_554_499),
    ("msrresnet", {}, 1_517_571),
    ("edsr", {"scale": 2}, 1_369_859),
    ("edsr", {"scale": 3}, 1_554_499),
    ("edsr", {}, 1_517_571),
    ("edsr", {"scale": 2, **LARGE}, 40_729_603),
    ("edsr", {"scale": 3, **LARGE}, 43_680_003),
    ("edsr", {**LARGE}, 43_089_923),
    ("rrdbnet", {}, 16_697_987),
    ("rrdbnet", {"scale": 2}, 16_703_171),
    ("rrdbnet", {"num_blocks": 6}, 4_467_779),
    ("srvggnet", {}, 621_424),
    ("srvggnet", {"num_blocks": 32}, 1_213_296),
    ("edvr", {"tsa": False}, 2_996_259),
    ("edvr", {}, 3_300_131),
    ("edvr", {"tsa": False, **EDVR_LARGE}, 19_419_875),
    ("edvr", EDVR_LARGE, 20_633_827),
    ("spynet", {}, 1_440_300),
    ("basicvsr", {}, 6_291_311),
    ("iconvsr", {}, 8_694_991),
    ("basicvsr_plusplus", {}, 7_322_927),
  ],
)
def test_parameter_counts_are_published_ones(name, arguments, count):
  model = models.build(name, **arguments)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), *models.example_inputs(model)
  )
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count


class _Scanned(nn.Module):
  """Three residual blocks, as the networks have them."""

  remat: bool

  @nn.compact
  def __call__(self, x):
    return repeat(_block("body"), x, 3, remat=self.remat)


def _block(name=None):
  return ResidualBlock(4, 0.7, torch_init(), jnp.float32, name=name)


@pytest.mark.parametrize("remat", [False, True])
def test_a_scan_has_the_gradients_of_its_blocks_written_out(remat):
  x = jax.random.normal(jax.random.key(0), (2, 5, 6, 4))
  model = _Scanned(remat)
  params = jax.jit(model.init)(layers.KEY, x)["params"]
  assert params["body"]["conv1"]["kernel"].shape == (3, 3, 3, 4, 4)

  def unrolled(params, x):
    for i in range(3):
      one = jax.tree.map(lambda p, i=i: p[i], params["body"])
      x = _block().apply({"params": one}, x)
    return jnp.sum(x**3)

  def scanned(params, x):
    return jnp.sum(model.apply({"params": params}, x) ** 3)

  # The blocks of a stack do not begin equal.
  kernels = params["body"]["conv1"]["kernel"]
  assert np.abs(kernels[0] - kernels[1]).max() > 0.05
  for ours, theirs in zip(
    *(
      jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(params, x))
      for loss in (scanned, unrolled)
    ),
    strict=True,
  ):
    atol = 1e-5 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.mark.slow
def test_remat_changes_no_gradient():
  model = models.RRDBNet(
    scale=2, num_features=4, num_blocks=2, growth_features=3
  )
  lr = jax.random.uniform(jax.random.key(0), (1, 6, 4, 3))
  variables = jax.jit(model.init)(layers.KEY, lr)

  def gradient(remat):
    net = model.clone(remat=remat)
    loss = lambda v: jnp.sum(net.apply(v, lr) ** 2)
    return jax.jit(jax.grad(loss))(variables)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=1e-5 * np.abs(a).max()
    ),
    gradient(False),
    gradient(True),
  )


@pytest.mark.parametrize("name", GENERATORS)
def test_remat_computes_the_blocks_anew(name):
  for remat in (False, True):
    model = models.build(name, num_features=4, num_blocks=2, remat=remat)
    lr = jnp.zeros((1, 4, 4, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), lr)
    loss = lambda v, m=model, x=lr: jnp.sum(m.apply(v, x))
    program = str(jax.make_jaxpr(jax.grad(loss, allow_int=True))(variables))
    assert ("remat" in program or "checkpoint" in program) == remat


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
    variables = jax.jit(model.init)(jax.random.key(1), flat)
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
  whole = jax.jit(model.init)(jax.random.key(0), lr)
  whole = jax.tree.map(lambda x: x * 30 + 0.01, whole)
  expected = model.apply(whole, lr)
  # 201 rows; three bands of 67.
  monkeypatch.setattr(srcnn, "_BAND_BYTES", 2 * 201 * 27 * 8 * 4 // 3 + 1)
  sr = jax.jit(model.apply)(whole, lr)
  np.testing.assert_allclose(sr, expected, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a.shape, b.shape),
    jax.jit(model.init)(jax.random.key(0), lr),
    whole,
  )


@pytest.mark.parametrize(
  ("name", "arguments"),
  [
    ("fsrcnn", {"scale": 2, "in_channels": 1, "out_channels": 1}),
    ("rrdbnet", {"num_features": 8, "growth_features": 4, "num_blocks": 2}),
  ],
)
def test_bfloat16_computes_low_and_answers_in_float32(name, arguments):
  channels = arguments.get("in_channels", 3)
  lr = np.random.default_rng(0).random((1, 8, 8, channels))
  lr = jnp.asarray(lr, jnp.float32)
  exact = models.build(name, **arguments)
  variables = jax.jit(exact.init)(jax.random.key(0), lr)
  rough = models.build(name, **arguments, dtype="bfloat16")
  low = jax.jit(rough.apply)(variables, lr)
  reference = jax.jit(exact.apply)(variables, lr)
  assert low.dtype == jnp.float32
  scale = np.abs(reference).max()
  error = np.abs(low - reference).max()
  assert 0 < error < 0.05 * scale


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
    ("rrdbnet", {"scale": 3}, (1, 8, 8, 3), "3 is not 1, 2 or 4"),
    ("rrdbnet", {"scale": 2}, (1, 8, 7, 3), r"\(8, 7\).*multiple of 2"),
    ("rrdbnet", {"scale": 1}, (1, 6, 8, 3), r"\(6, 8\).*multiple of 4"),
    ("msrresnet", {"scale": 6}, (1, 8, 8, 3), "6 is not 1, 2, 3, 4, 8"),
    ("edsr", {"scale": 5}, (1, 8, 8, 3), "5 is not 1, 2, 3, 4, 8"),
    ("srresnet", {"scale": 9}, (1, 8, 8, 3), "9 is not 1, 2, 3, 4, 8"),
    ("msrresnet", {"out_channels": 1}, (1, 8, 8, 3), "must be equal"),
    ("srvggnet", {"out_channels": 1}, (1, 8, 8, 3), "must be equal"),
    ("edsr", {"in_channels": 2}, (1, 8, 8, 2), "one mean"),
  ],
)
def test_bad_input_is_refused(name, arguments, shape, message):
  model = models.build(name, **arguments)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
