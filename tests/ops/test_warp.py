"""flow_warp against PyTorch's grid_sample (recorded) and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops.warp import flow_warp, resize_flow
from tests.golden import golden_io

_RECORDED = golden_io.load("flow_warp")
_MODES = [
  key.removeprefix("output/")
  for key in _RECORDED[0]
  if key.startswith("output")
]


def _arguments(mode):
  method, padding, corners = mode.split("_")
  return {
    "method": method,
    "padding": padding,
    "align_corners": corners == "ac",
  }


@functools.partial(
  jax.jit, static_argnames=("method", "padding", "align_corners")
)
def _both(x, flow, g, **arguments):
  """The result, and both gradients."""
  y, pull = jax.vjp(lambda x, flow: flow_warp(x, flow, **arguments), x, flow)
  return y, *pull(g)


@pytest.fixture
def small():
  """x, flow (some of it out of the image) and a gradient."""
  rng = np.random.default_rng(0)
  x, g = rng.standard_normal((2, 2, 5, 6, 3)).astype(np.float32)
  flow = 2 * rng.standard_normal((2, 5, 6, 2)).astype(np.float32)
  return x, flow, g


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.usefixtures("optimized")
def test_is_the_recorded_one(mode):
  arrays, _, record = _RECORDED
  x, g = (
    jnp.asarray(golden_io.nhwc(arrays[key])) for key in ("input", "grad_out")
  )
  flow = jnp.asarray(arrays["flow"])
  y, by_x, by_flow = _both(x, flow, g, **_arguments(mode))
  for key, value in (
    (f"output/{mode}", golden_io.nchw(y)),
    (f"grad_input/{mode}", golden_io.nchw(by_x)),
    (f"grad_flow/{mode}", np.asarray(by_flow)),
  ):
    # Where PyTorch's own float32 and float64 take different sides.
    sure = ~arrays.get(f"unstable/{key}", np.zeros(value.shape, bool))
    np.testing.assert_allclose(
      value[sure], arrays[key][sure], rtol=0, atol=record["atol"][key]
    )


@pytest.mark.parametrize("mode", [m for m in _MODES if m[:8] == "bilinear"])
def test_gradients_are_finite_differences(mode, small):
  with jax.enable_x64(True):
    x, flow, g = (jnp.asarray(a, jnp.float64) for a in small)
    _, by_x, by_flow = _both(x, flow, g, **_arguments(mode))

    @jax.jit
    def loss(x, flow):
      return jnp.sum(flow_warp(x, flow, **_arguments(mode)) * g)

    rng = np.random.default_rng(1)
    step = 1e-6
    for _ in range(20):
      # One pixel's flow and one value of x at a time: steps stay within a cell.
      at = tuple(rng.integers(n) for n in flow.shape)
      d = jnp.zeros_like(flow).at[at].set(step)
      slope = (loss(x, flow + d) - loss(x, flow - d)) / (2 * step)
      np.testing.assert_allclose(by_flow[at], slope, rtol=1e-6, atol=1e-8)
      at = tuple(rng.integers(n) for n in x.shape)
      d = jnp.zeros_like(x).at[at].set(step)
      slope = (loss(x + d, flow) - loss(x - d, flow)) / (2 * step)
      np.testing.assert_allclose(by_x[at], slope, rtol=1e-6, atol=1e-8)


def _by_definition(x, flow):
  """Bilinear, zeros, corners aligned: a loop over pixels in float64."""
  x, flow = x.astype(np.float64), flow.astype(np.float64)
  y = np.zeros_like(x)
  b, h, w, _ = x.shape
  for n, i, j in np.ndindex(b, h, w):
    row, column = i + flow[n, i, j, 1], j + flow[n, i, j, 0]
    for r, c in np.ndindex(h, w):
      part = max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c))
      y[n, i, j] += part * x[n, r, c]
  return y


@pytest.mark.parametrize("size", [(5, 6), (1, 4), (3, 1)])
def test_follows_its_definition(size, small):
  x, flow, _ = (a[:, : size[0], : size[1]] for a in small)
  # The reference maps a side of one pixel to that pixel, wherever flow points.
  flow = flow * (np.asarray(size[::-1]) > 1)
  y = jax.jit(flow_warp)(jnp.asarray(x), jnp.asarray(flow))
  np.testing.assert_allclose(y, _by_definition(x, flow), atol=2e-6)


def test_transforms_work(small):
  x, flow, g = map(jnp.asarray, small)
  want = _both(x, flow, g)
  mapped = jax.vmap(_both)(*(a[None] for a in (x, flow, g)))
  for a, b in zip(mapped, want, strict=True):
    np.testing.assert_allclose(a[0], b, atol=1e-5)

  @jax.jit
  def twice(x, flow, g):
    step = jax.checkpoint(lambda x, flow: (flow_warp(x, flow), None))
    loop = lambda x, flow: jax.lax.scan(step, x, flow)[0]
    y, pull = jax.vjp(loop, x, flow)
    return y, *pull(g)

  first = want[0]
  second, by_first, by_flow_2 = _both(first, -flow, g)
  _, by_x, by_flow = _both(x, flow, by_first)
  got = twice(x, jnp.stack([flow, -flow]), g)
  for a, b in zip(
    got, (second, by_x, np.stack([by_flow, by_flow_2])), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_sharded_batches_give_the_same(small):
  x, flow, g = map(jnp.asarray, small)
  want = _both(x, flow, g)
  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec("data")
  whole = jax.sharding.PartitionSpec()
  sharded = [
    jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))
    for a in (x, flow, g)
  ]
  for a, b in zip(jax.jit(_both)(*sharded), want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  # By hand, with one flow on all devices: its gradient is a sum over them.
  per_device = jax.shard_map(
    _both,
    mesh=mesh,
    in_specs=(spec, whole, spec),
    out_specs=(spec, spec, whole),
  )
  for a, b in zip(jax.jit(per_device)(x, flow, g), want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_places_are_float32_in_bfloat16(small):
  """Of 300 columns bfloat16 would tell every second one alone."""
  x = jnp.asarray(np.arange(300) % 2, jnp.bfloat16)[None, None, :, None]
  flow = jnp.ones((1, 1, 300, 2), jnp.bfloat16).at[..., 1].set(0)
  y = jax.jit(flow_warp)(x, flow)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float32(y[0, 0, :-1, 0]), np.arange(1, 300) % 2, atol=1e-4
  )
  x, flow, g = (jnp.asarray(a, jnp.bfloat16) for a in small)
  got = _both(x, flow, g)
  want = _both(*(a.astype(jnp.float32) for a in (x, flow, g)))
  for a, b in zip(got, want, strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(a), b, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_not_a_number_is_seen_where_it_is(padding, small):
  x, flow, g = map(jnp.asarray, small)
  flow = flow.at[0, 2, 3, 0].set(jnp.nan).at[1, 0, 0].set(1e30)
  y, by_x, by_flow = _both(x, flow, g, padding=padding)
  broken = np.isnan(y).any(-1)
  assert broken[0, 2, 3]
  assert broken.sum() == 1
  assert np.isnan(by_flow[0, 2, 3]).any()
  assert np.isfinite(by_x[1]).all()


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.usefixtures("optimized")
def test_resize_flow_is_the_recorded_one(kind):
  arrays, _, record = golden_io.load("resize_flow")
  flow = kind(golden_io.nhwc(arrays["input"]))
  for arguments in ({"scale": (2.0, 1.5)}, {"shape": (18, 21)}):
    ours = golden_io.nchw(resize_flow(flow, **arguments))
    np.testing.assert_allclose(
      ours, arrays["output"], rtol=0, atol=record["atol"]["output"]
    )


def test_bad_input_is_refused(small):
  x, flow, _ = map(jnp.asarray, small)
  for arguments, message in (
    ({"method": "bicubic"}, "'bicubic' is not one of"),
    ({"padding": "edge"}, "'edge' is not one of"),
  ):
    with pytest.raises(ValueError, match=message):
      flow_warp(x, flow, **arguments)
  with pytest.raises(ValueError, match=r"flow \(2, 5, 6, 3\) must be"):
    flow_warp.__wrapped__(x, x)
  with pytest.raises(ValueError, match="has no pixels"):
    flow_warp(x[:, :0], flow[:, :0])
  for arguments in ({}, {"shape": (2, 2), "scale": 2.0}):
    with pytest.raises(ValueError, match="one of them"):
      resize_flow(flow, **arguments)
  with pytest.raises(ValueError, match="has none left"):
    resize_flow(flow, scale=0.1)
