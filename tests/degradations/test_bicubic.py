"""A crop degraded on the device equals the crop of the offline image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.degradations import MARGIN, bicubic, drop_margin
from sr_jax.ops.resize import imresize


def _offline(hr, scale):
  """What MATLAB writes to the LR folder: float64, rounded to 8 bits.

  In levels, not in [0, 1]: there what is exactly halfway between two levels
  (82 of 2.8 million values of Set5 and Set14 at x2) falls to one side or the
  other by the noise of the division by 255.
  """
  lr = imresize(hr.astype(np.float64), 1 / scale)
  return np.floor(np.clip(lr, 0, 255) + 0.5).astype(np.uint8)


def _picture(rng, height, width):
  """Edges, texture and saturated areas: where the kernel overshoots."""
  y, x = np.mgrid[:height, :width]
  base = 127 + 120 * np.sin(x / 3.1) * np.cos(y / 4.7)
  noise = rng.normal(0, 40, (height, width, 3))
  return np.clip(base[..., None] + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_aligned_crop_equals_the_offline_image(scale):
  rng = np.random.default_rng(scale)
  hr = _picture(rng, 40 * scale, 31 * scale)
  offline = _offline(hr, scale)
  pad = MARGIN * scale
  padded = np.pad(hr, ((pad, pad), (pad, pad), (0, 0)), "symmetric")
  side = 8
  run = jax.jit(lambda x: bicubic(x / 255.0, scale=scale, margin=MARGIN))
  wrong = pixels = 0
  # All positions, the four borders of the image included.
  rows = range(0, 40 - side + 1)
  for y in rows:
    xs = range(0, 31 - side + 1)
    crops = np.stack(
      [
        padded[
          y * scale : (y + side) * scale + 2 * pad,
          x * scale : (x + side) * scale + 2 * pad,
        ]
        for x in xs
      ]
    )
    ours = np.asarray(run(jnp.asarray(crops, jnp.float32))) * 255
    expected = np.stack([offline[y : y + side, x : x + side] for x in xs])
    difference = np.abs(np.rint(ours) - expected)
    assert difference.max() <= 1
    wrong += int((difference > 0).sum())
    pixels += difference.size
  assert wrong <= pixels / 100_000


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_whole_real_images_equal_the_offline_ones(scale, data_dir):
  from sr_jax.data import load_images

  wrong = pixels = 0
  for _, hr in [*load_images("set5"), *load_images("set14")]:
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    ours = bicubic(jnp.asarray(hr[None] / 255.0, jnp.float32), scale=scale)
    difference = np.abs(
      np.rint(np.asarray(ours)[0] * 255) - _offline(hr, scale)
    )
    assert difference.max() <= 1
    wrong += int((difference > 0).sum())
    pixels += difference.size
  assert wrong <= pixels / 100_000


def test_unquantised_is_imresize():
  hr = np.random.default_rng(0).random((1, 12, 18, 1)).astype(np.float32)
  ours = bicubic(jnp.asarray(hr), scale=3, quantize=False)
  np.testing.assert_allclose(ours, imresize(hr, 1 / 3), atol=1e-6)


def test_drop_margin():
  x = jnp.arange(36.0).reshape(1, 6, 6, 1)
  np.testing.assert_array_equal(
    drop_margin(x, 2)[0, ..., 0], [[14, 15], [20, 21]]
  )
  assert drop_margin(x, 0) is x


def test_bad_sizes_are_refused():
  with pytest.raises(ValueError, match=r"multiple of scale 4.*\(8, 8\)"):
    bicubic(jnp.zeros((1, 10, 9, 3)), scale=4)
  with pytest.raises(ValueError, match="larger crop"):
    bicubic(jnp.zeros((1, 8, 8, 3)), scale=2, margin=2)
