"""SPyNet against the recorded one, and at sizes where that one raises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.ops.resize import interpolate
from tests.golden import golden_io
from tests.models import numpy_layers as layers

NARROW = models.SPyNet(widths=(8, 16, 8, 4))
GOLDEN = {"spynet_narrow_64x96": NARROW, "spynet_full_48x80": models.SPyNet()}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.usefixtures("optimized")
def test_is_the_recorded_one(name):
  arrays, params, record = golden_io.load(name)
  model = GOLDEN[name]
  ref, supp = (jnp.asarray(golden_io.nhwc(arrays[k])) for k in ("ref", "supp"))
  flow = jax.jit(model.apply)(weights.from_torch(model, params), ref, supp)
  np.testing.assert_allclose(
    golden_io.nchw(flow),
    arrays["output"],
    rtol=0,
    atol=record["atol"]["output"],
  )


def _warp(x, flow):
  """Bilinear, the border repeated, pixel by pixel; NCHW."""
  n, _, h, w = x.shape
  y = np.zeros_like(x)
  for b, i, j in np.ndindex(n, h, w):
    row = np.clip(i + flow[b, 1, i, j], 0, h - 1)
    column = np.clip(j + flow[b, 0, i, j], 0, w - 1)
    rows = np.maximum(0, 1 - abs(row - np.arange(h)))
    columns = np.maximum(0, 1 - abs(column - np.arange(w)))
    y[b, :, i, j] = np.einsum("crs,r,s->c", x[b], rows, columns)
  return y


def _resized(x, shape, **arguments):
  x = interpolate(np.moveaxis(x, 1, -1), shape=shape, **arguments)
  return np.moveaxis(x, -1, 1)


def _by_definition(params, ref, supp):
  """MMagic's, in float64 NumPy."""
  h, w = ref.shape[2:]
  size = (h + 31) // 32 * 32, (w + 31) // 32 * 32
  pyramids = []
  for x in (ref, supp):
    x = (_resized(x, size) - params["mean"]) / params["std"]
    levels = [x]
    for _ in range(5):
      x = levels[-1]
      x = x[:, :, ::2] + x[:, :, 1::2]
      levels.append((x[..., ::2] + x[..., 1::2]) / 4)
    pyramids.append(levels[::-1])
  flow = None
  for i, (here, there) in enumerate(zip(*pyramids, strict=True)):
    if flow is None:
      flow = np.zeros((len(ref), 2, *here.shape[2:]))
    else:
      flow = 2 * _resized(flow, here.shape[2:], align_corners=True)
    x = np.concatenate([here, _warp(there, flow), flow], axis=1)
    for j in range(5):
      x = x if j == 0 else np.maximum(x, 0)
      key = f"basic_module.{i}.basic_module.{2 * j}"
      x = layers.conv(x, params, key, padding=3)
    flow = flow + x
  back = np.asarray([w / size[1], h / size[0]])[:, None, None]
  return _resized(flow, (h, w)) * back


@pytest.mark.parametrize("size", [(16, 20), (32, 32), (9, 33)])
def test_small_images_have_flow_too(size):
  """The incumbent raises where a side is at most 32; MMagic's does not."""
  rng = np.random.default_rng(0)
  ref, supp = rng.random((2, 1, 3, *size))
  _, params, _ = golden_io.load("spynet_narrow_64x96")
  exact = {key: value.astype(np.float64) for key, value in params.items()}
  expected = _by_definition(exact, ref, supp)
  flow = jax.jit(NARROW.apply)(
    weights.from_torch(NARROW, params),
    *(jnp.asarray(golden_io.nhwc(x), jnp.float32) for x in (ref, supp)),
  )
  assert np.abs(expected).max() > 1
  np.testing.assert_allclose(golden_io.nchw(flow), expected, atol=1e-4)


def test_bfloat16_keeps_images_and_flow_in_float32():
  _, params, _ = golden_io.load("spynet_narrow_64x96")
  variables = weights.from_torch(NARROW, params)
  ref, supp = jax.random.uniform(jax.random.key(0), (2, 1, 32, 32, 3))
  exact = jax.jit(NARROW.apply)(variables, ref, supp)
  low = jax.jit(NARROW.clone(dtype=jnp.bfloat16).apply)(variables, ref, supp)
  assert low.dtype == jnp.float32
  error = np.abs(low - exact).max()
  assert 0 < error < 0.02 * np.abs(exact).max()


def test_bad_input_is_refused():
  image = jnp.zeros((1, 32, 32, 3))
  for ref, supp, message in (
    (image, image[:, :16], "of one size"),
    (image[..., :1], image[..., :1], "RGB"),
  ):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(NARROW.init, layers.KEY, ref, supp)
