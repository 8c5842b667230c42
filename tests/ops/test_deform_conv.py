"""Deformable convolution against torchvision's, and its definition in NumPy."""

import functools
import importlib.util
import inspect
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops.deform_conv import deform_conv2d
from tests.golden import golden_io

# As users have it: without the tests' shape checker, which speaks first.
_deform_conv2d = inspect.unwrap(deform_conv2d)


def _nhwc(array):
  return jnp.asarray(np.moveaxis(array, 1, -1))


@pytest.mark.parametrize("name", ["deform_conv_s1", "deform_conv_nomask"])
@pytest.mark.usefixtures("optimized")
def test_values_and_gradients_are_torchvisions(name):
  arrays, _, record = golden_io.load(name)
  ctor, atol = record["ctor"], record["atol"]
  operands = {
    "input": _nhwc(arrays["input"]),
    "offset": _nhwc(arrays["offset"]),
    "weight": jnp.asarray(arrays["weight"].transpose(2, 3, 1, 0)),
  }
  if ctor["mask"]:
    operands["mask"] = _nhwc(arrays["mask"])

  def call(operands):
    return deform_conv2d(
      operands["input"],
      operands["offset"],
      operands["weight"],
      mask=operands.get("mask"),
      stride=ctor["stride"],
      padding=ctor["pad"],
      dilation=ctor["dil"],
      groups=ctor["groups"],
      deformable_groups=ctor["dg"],
    )

  y, pull = jax.jit(lambda operands: jax.vjp(call, operands))(operands)
  np.testing.assert_allclose(
    y + arrays["bias"], _nhwc(arrays["output"]), rtol=0, atol=atol["output"]
  )
  (gradients,) = jax.jit(pull)(_nhwc(arrays["grad_out"]))
  want = {
    key: arrays[f"grad_{key}"].transpose(2, 3, 1, 0)
    if key == "weight"
    else _nhwc(arrays[f"grad_{key}"])
    for key in operands
  }
  for key, gradient in gradients.items():
    np.testing.assert_allclose(
      gradient, want[key], rtol=0, atol=atol[f"grad_{key}"], err_msg=key
    )


def _definition(
  x, offset, kernel, mask, stride, padding, dilation, groups, deformable_groups
):
  """In float64: one tap and one of the four pixels of a sample at a time."""
  b, h, w, cin = x.shape
  kh, kw, _, cout = kernel.shape
  rows, cols = offset.shape[1:3]
  dg, per = deformable_groups, cin // deformable_groups
  offset = offset.reshape(b, rows, cols, dg, kh, kw, 2)
  mask = mask.reshape(b, rows, cols, dg, kh, kw)
  image = np.arange(b)[:, None, None, None]
  part = np.arange(dg)
  pixels = x.reshape(b, h, w, dg, per)
  grid_y = (np.arange(rows) * stride - padding)[:, None, None]
  grid_x = (np.arange(cols) * stride - padding)[:, None]
  y = np.zeros((b, rows, cols, cout))
  for ky, kx in np.ndindex(kh, kw):
    at_y = grid_y + ky * dilation + offset[..., ky, kx, 0]
    at_x = grid_x + kx * dilation + offset[..., ky, kx, 1]
    sample = np.zeros((b, rows, cols, dg, per))
    for step_y, step_x in np.ndindex(2, 2):
      i = (np.floor(at_y) + step_y).astype(int)
      j = (np.floor(at_x) + step_x).astype(int)
      weight = (1 - abs(at_y - i)) * (1 - abs(at_x - j))
      weight = weight * ((i >= 0) & (i < h) & (j >= 0) & (j < w))
      values = pixels[image, i.clip(0, h - 1), j.clip(0, w - 1), part]
      sample += weight[..., None] * values
    sample *= mask[..., ky, kx, None]
    sample = sample.reshape(b, rows, cols, groups, cin // groups)
    taps = kernel[ky, kx].reshape(cin // groups, groups, cout // groups)
    y += np.einsum("bhwgi,igo->bhwgo", sample, taps).reshape(y.shape)
  return y


def _operands(rng, shape, taps, cout, masked=True, **kwargs):
  """Offsets up to far outside, and no sample within 0.1 of a row or column."""
  b, h, w, cin = shape
  dg = kwargs["deformable_groups"]
  rows, cols = (
    (size + 2 * kwargs["padding"] - kwargs["dilation"] * (n - 1) - 1)
    // kwargs["stride"]
    + 1
    for size, n in zip((h, w), taps, strict=True)
  )
  channels = dg * taps[0] * taps[1]
  size = (b, rows, cols, 2 * channels)
  kernel = (*taps, cin // kwargs["groups"], cout)
  offset = rng.integers(-3, 3, size) + rng.uniform(0.1, 0.9, size)
  return {
    "x": rng.standard_normal(shape),
    "offset": offset,
    "kernel": rng.standard_normal(kernel) / np.sqrt(np.prod(kernel[:3])),
    "mask": rng.uniform(0, 2, (b, rows, cols, channels)) if masked else None,
  }


def _config(stride=1, padding=0, dilation=1, groups=1, deformable_groups=1):
  return {
    "stride": stride,
    "padding": padding,
    "dilation": dilation,
    "groups": groups,
    "deformable_groups": deformable_groups,
  }


@pytest.mark.parametrize(
  ("shape", "taps", "cout", "config"),
  [
    ((2, 5, 4, 4), (3, 3), 2, _config(2, 1, 1, 1, 2)),
    ((1, 6, 7, 3), (3, 3), 2, _config(1, 1, 2)),
    ((1, 4, 5, 2), (5, 5), 3, _config(1, 2, 1, 1, 2)),
    ((2, 3, 4, 6), (1, 1), 4, _config(1, 0, 1, 2, 2)),
    # Two deformable groups in a group, three groups in a deformable group, and
    # two groups over three of them.
    ((1, 3, 4, 8), (2, 3), 4, _config(1, 1, 1, 2, 4)),
    ((1, 4, 3, 6), (3, 2), 3, _config(2, 2, 2, 3, 1)),
    ((1, 3, 3, 6), (3, 3), 2, _config(1, 1, 1, 2, 3)),
  ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_gradients_are_finite_differences(shape, taps, cout, config, masked):
  rng = np.random.default_rng(0)
  operands = _operands(rng, shape, taps, cout, masked, **config)
  filled = dict(operands)
  if not masked:
    b, rows, cols, channels = operands["offset"].shape
    filled["mask"] = np.ones((b, rows, cols, channels // 2))
  want = _definition(**filled, **config)
  g = rng.standard_normal(want.shape)

  with jax.enable_x64(True):
    y, pull = jax.vjp(
      lambda operands: deform_conv2d(**operands, **config),
      jax.tree.map(jnp.asarray, operands),
    )
    (gradients,) = pull(jnp.asarray(g))
  np.testing.assert_allclose(y, want, rtol=0, atol=1e-12)
  assert (gradients["mask"] is None) == (not masked)

  step = 1e-4  # below the distance to the next row or column
  for name, operand in operands.items():
    if operand is None:
      continue
    for index in rng.permutation(operand.size)[:40]:
      sides = []
      for sign in (1, -1):
        moved = operand.copy()
        moved.flat[index] += sign * step
        y = _definition(**{**filled, name: moved}, **config)
        sides.append(float((y * g).sum()))
      np.testing.assert_allclose(
        gradients[name].ravel()[index],
        (sides[0] - sides[1]) / (2 * step),
        rtol=1e-7,
        atol=1e-7,
        err_msg=f"{name} {index}",
      )


def _case(rng, shape=(4, 6, 5, 8), cout=3):
  config = _config(1, 1, 1, 1, 2)
  operands = _operands(rng, shape, (3, 3), cout, **config)
  return jax.tree.map(jnp.float32, operands), config


def _assert_close(got, want):
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def _total(operands, config):
  return jnp.sum(jnp.sin(deform_conv2d(**operands, **config)))


@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_chunks_are_not_seen(platform, monkeypatch):
  operands, config = _case(np.random.default_rng(1))
  gradient = lambda: jax.jit(jax.value_and_grad(lambda o: _total(o, config)))
  want = gradient()(operands)
  module = sys.modules["sr_jax.ops.deform_conv"]
  # Seven outputs of the thirty, so that the last chunk is not full.
  monkeypatch.setattr(module, "_CACHED_VALUES", 7 * 9 * 8)
  monkeypatch.setattr(module, "_OUTPUTS", (1, 7))
  if platform == "default":
    monkeypatch.setattr(
      jax.lax,
      "platform_dependent",
      lambda *args, cpu, default: default(*args),
    )
  for compiled in (module._forward, module._backward):
    compiled.clear_cache()
  got = gradient()(operands)
  for compiled in (module._forward, module._backward):
    compiled.clear_cache()
  _assert_close(got, want)


def test_vmap_scan_and_remat_give_the_same():
  operands, config = _case(np.random.default_rng(2))
  want = jax.value_and_grad(lambda o: _total(o, config))(operands)

  def single(kernel, image):
    images = {name: a[None] for name, a in image.items()}
    return _total({**images, "kernel": kernel}, config)

  def mapped(operands):
    images = dict(operands)
    kernel = images.pop("kernel")
    return jax.vmap(single, (None, 0))(kernel, images).sum()

  def scanned(operands):
    images = dict(operands)
    one = jax.checkpoint(functools.partial(single, images.pop("kernel")))
    add = lambda total, image: (total + one(image), None)
    return jax.lax.scan(add, 0.0, images)[0]

  for loss in (mapped, scanned):
    _assert_close(jax.jit(jax.value_and_grad(loss))(operands), want)


def test_sharded_batches_give_the_same():
  operands, config = _case(np.random.default_rng(3))
  loss = lambda operands: _total(operands, config)
  want = jax.value_and_grad(loss)(operands)
  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  P = jax.sharding.PartitionSpec
  specs = {name: P("data") for name in operands} | {"kernel": P()}
  sharded = jax.device_put(
    operands,
    {name: jax.sharding.NamedSharding(mesh, s) for name, s in specs.items()},
  )
  # By hand: the kernel's gradient has to be summed over the devices.
  per_device = jax.shard_map(
    jax.value_and_grad(lambda operands: jax.lax.psum(loss(operands), "data")),
    mesh=mesh,
    in_specs=(specs,),
    out_specs=(P(), specs),
  )
  for call in (jax.value_and_grad(loss), per_device):
    got = jax.jit(call)(sharded)
    _assert_close(got, want)


def test_bfloat16_has_coordinates_in_float32():
  """Between pixels 400 and 401, where bfloat16 has no numbers between."""
  x = jnp.tile(jnp.asarray([0.0, 1.0], jnp.bfloat16), 256)[None, None, :, None]
  kernel = jnp.full((1, 1, 1, 1), 2, jnp.bfloat16)
  offset = jnp.full((1, 1, 512, 2), jnp.asarray([0, 0.25]), jnp.bfloat16)
  mask = jnp.full((1, 1, 512, 1), 0.5, jnp.bfloat16)
  call = lambda *args: deform_conv2d(*args[:3], mask=args[3])
  y, pull = jax.vjp(call, x, offset, kernel, mask)
  gradients = pull(jnp.ones_like(y))
  assert {a.dtype for a in (y, *gradients)} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_array_equal(y[0, 0, 400:402, 0], [0.25, 0.75])
  by_x, by_offset, _, by_mask = gradients
  np.testing.assert_array_equal(by_x[0, 0, 400:402, 0], [1, 1])
  np.testing.assert_array_equal(by_offset[0, 0, 400:402, 1], [1, -1])
  np.testing.assert_array_equal(by_mask[0, 0, 400:402, 0], [0.5, 1.5])


def test_offsets_that_are_far_or_no_numbers():
  operands, config = _case(np.random.default_rng(4))
  offset = operands["offset"].at[0, 0, 0].set(1e30).at[0, 0, 1].set(-1e9)
  offset = offset.at[0, 0, 2].set(jnp.nan)
  operands["offset"] = offset
  y, pull = jax.vjp(lambda o: deform_conv2d(**o, **config), operands)
  np.testing.assert_array_equal(y[0, 0, :2], 0)
  assert np.isnan(y[0, 0, 2]).all()
  assert np.isfinite(y[0, 0, 3:]).all()
  assert np.isfinite(y[1:]).all()
  pull(jnp.ones_like(y))  # into no memory but its own
  operands["offset"] = offset.at[0, 0, 2].set(0.5)
  y, pull = jax.vjp(lambda o: deform_conv2d(**o, **config), operands)
  (gradients,) = pull(jnp.ones_like(y))
  np.testing.assert_array_equal(gradients["offset"][0, 0, :2], 0)
  np.testing.assert_array_equal(gradients["mask"][0, 0, :2], 0)
  assert all(np.isfinite(a).all() for a in gradients.values())


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"x": (6, 5, 8)}, r"x \(6, 5, 8\) must have 4 dimensions"),
    ({"mask": (4, 6, 18)}, r"mask \(4, 6, 18\) must have 4 dimensions"),
    ({"stride": 0}, "stride=0 must be at least 1"),
    ({"padding": -1}, "padding=-1 must be at least 0"),
    ({"dilation": 0}, "dilation=0 must be at least 1"),
    ({"groups": 0}, "groups=0 must be at least 1"),
    ({"deformable_groups": -2}, "deformable_groups=-2 must be at least 1"),
    ({"deformable_groups": 3}, "deformable_groups=3 must divide the 8 .* of x"),
    ({"groups": 3}, "groups=3 must divide the 8 channels of x"),
    ({"groups": 2}, "groups=2 must divide the 3 channels of kernel"),
    (
      {"kernel": (3, 3, 4, 3)},
      r"kernel \(3, 3, 4, 3\) takes 4 channels and x .* groups=1 has 8",
    ),
    (
      {"dilation": 4},
      "x has 6 rows and padding=1 .* fewer than the 9 of kernel",
    ),
    (
      {"offset": (4, 6, 5, 18)},
      r"offset \(4, 6, 5, 18\) must be \(4, 6, 5, 36",
    ),
    ({"stride": 2}, r"offset \(4, 6, 5, 36\) must be \(4, 3, 3, 36\)"),
    ({"mask": (4, 6, 5, 36)}, r"mask \(4, 6, 5, 36\) must be \(4, 6, 5, 18\)"),
    ({"mask": (1, 6, 5, 18)}, r"mask \(1, 6, 5, 18\) must be \(4, 6, 5, 18\)"),
  ],
)
def test_bad_arguments_are_named(change, message):
  shapes = {
    "x": (4, 6, 5, 8),
    "offset": (4, 6, 5, 36),
    "kernel": (3, 3, 8, 3),
    "mask": (4, 6, 5, 18),
  }
  arguments = {name: jnp.zeros(shape) for name, shape in shapes.items()}
  arguments |= _config(1, 1, 1, 1, 2)
  for name, value in change.items():
    arguments[name] = jnp.zeros(value) if isinstance(value, tuple) else value
  with pytest.raises(ValueError, match=message):
    _deform_conv2d(**arguments)


_COMPILE = """
import json
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from sr_jax.ops.deform_conv import deform_conv2d

topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")

def both(g, *operands):
  call = lambda x, offset, kernel, mask: deform_conv2d(
    x, offset, kernel, mask=mask, padding=1, deformable_groups=8)
  y, pull = jax.vjp(call, *operands)
  return y, pull(g)

told = []
for chips, side in ((1, 64), (4, 16)):
  mesh = Mesh(np.array(topology.devices[:chips]), ("data",))
  def array(*shape, spec=P("data")):
    sharding = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
  x = array(8, side, side, 64)
  compiled = jax.jit(both).lower(
    x, x, array(8, side, side, 144), array(3, 3, 64, 64, spec=P()),
    array(8, side, side, 72)).compile()
  told.append({"temporaries": compiled.memory_analysis().temp_size_in_bytes,
               "hlo": compiled.as_text()})
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu, the TPU compiler, is not installed: pip install sr_jax[aot]",
)
def test_compiles_for_tpus():
  """EDVR-M's alignment, 8 images: memory, and what crosses between chips."""
  names = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true"}
  result = subprocess.run(
    [sys.executable, "-c", _COMPILE],
    env={**os.environ, **names, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr[-2000:]
  one, four = json.loads(result.stdout.splitlines()[-1])
  assert one["temporaries"] < 500e6
  assert "all-reduce" not in one["hlo"]
  # The sum of the kernel's gradient, once.
  assert four["hlo"].count(" all-reduce(") == 1
  for kind in ("all-gather", "all-to-all", "collective-permute"):
    assert kind not in four["hlo"]
