"""Values and gradients of the pixel losses against BasicSR's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.losses import charbonnier, l1, mse, total_variation
from tests.golden import golden_io

# name in the golden file -> (loss of (sr, hr), the recorded loss_weight)
LOSSES = {
  "l1": (l1, 0.7),
  "mse": (mse, 0.7),
  "charbonnier": (charbonnier, 0.7),
  "charbonnier_eps1e-3": (functools.partial(charbonnier, eps=1e-3), 0.7),
  "tv": (lambda sr, hr, **options: total_variation(sr, **options), 1.3),
}


@pytest.fixture(scope="module")
def golden():
  return golden_io.load("losses_pixel")


@pytest.mark.parametrize("weight", ["", "_w", "_w1"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_matches_basicsr(golden, name, reduction, weight):
  arrays, _, record = golden
  loss, factor = LOSSES[name]
  case = f"{name}_{reduction}{weight}"
  if f"value/{case}" not in arrays:
    assert case.startswith("tv_none")  # BasicSR refuses it, and so do we
    return
  sr, hr = (
    jnp.asarray(golden_io.nhwc(arrays[key])) for key in ("pred", "target")
  )
  options = {"reduction": reduction}
  if weight:
    source = {"_w": "weight", "_w1": "weight1"}[weight]
    options["weight"] = jnp.asarray(golden_io.nhwc(arrays[source]))

  value = factor * loss(sr, hr, **options)
  gradient = jax.grad(lambda x: factor * loss(x, hr, **options).sum())(sr)
  if value.ndim:
    value = golden_io.nchw(value)
  for kind, ours in (("value", value), ("grad", golden_io.nchw(gradient))):
    atol = record["atol"][f"{kind}/{case}"]
    np.testing.assert_allclose(
      ours, arrays[f"{kind}/{case}"], 0, atol, err_msg=kind
    )


def test_a_mask_does_not_dilute():
  """Half the pixels weigh nothing: the mean is that of the other half."""
  rng = np.random.default_rng(3)
  sr, hr = rng.random((2, 1, 4, 6, 3)).astype(np.float32)
  mask = np.zeros((1, 4, 6, 1), np.float32)
  mask[:, :, :3] = 1
  expected = np.abs(sr - hr)[:, :, :3].astype(np.float64).mean()
  masked = l1(jnp.asarray(sr), jnp.asarray(hr), weight=jnp.asarray(mask))
  np.testing.assert_allclose(masked, expected, 1e-6)


def test_equal_images_have_no_gradient():
  x = jnp.full((1, 3, 3, 1), 0.4)
  for loss in (l1, mse, charbonnier):
    np.testing.assert_array_equal(jax.grad(loss)(x, x), 0.0)


def test_errors():
  x, y = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 5, 3))
  for loss in (l1, mse, charbonnier):
    loss = loss.__wrapped__  # the shape hook of the tests would speak first
    with pytest.raises(ValueError, match=r"sr \(1, 4, 4, 3\) and hr \(1, 4, 5"):
      loss(x, y)
    with pytest.raises(ValueError, match="reduction 'median'"):
      loss(x, x, reduction="median")
    with pytest.raises(ValueError, match=r"weight \(2,\) does not broadcast"):
      loss(x, x, weight=jnp.ones((2,)))
  with pytest.raises(ValueError, match="eps 0 is not positive"):
    charbonnier.__wrapped__(x, x, eps=0)
  with pytest.raises(ValueError, match="'none' of total_variation"):
    total_variation(x, reduction="none")
  with pytest.raises(ValueError, match="no neighbours"):
    total_variation(x[:, :1])
