"""PyTorch's channel order, by its own arrays and by the definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from tests.golden import golden_io


def test_matches_torch():
  arrays, _, _ = golden_io.load("pixel_shuffle_x2")
  x, wide = golden_io.nhwc(arrays["input"]), golden_io.nhwc(arrays["shuffle_c"])
  small = pixel_unshuffle(jnp.asarray(x), 2)
  np.testing.assert_array_equal(golden_io.nchw(small), arrays["unshuffle"])
  np.testing.assert_array_equal(
    golden_io.nchw(pixel_shuffle(small, 2)), arrays["shuffle_of_unshuffle"]
  )
  np.testing.assert_array_equal(
    golden_io.nchw(pixel_shuffle(jnp.asarray(wide), 2)), arrays["shuffle_out"]
  )


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_by_definition(batch):
  """Any leading axes, scale 3, NumPy; one pixel at a time."""
  scale, h, w, c = 3, 2, 4, 2
  x = np.random.default_rng(1).random((*batch, h, w, c * scale**2))
  expected = np.empty((*batch, h * scale, w * scale, c))
  for y, col, ch in np.ndindex(h * scale, w * scale, c):
    dy, dx = y % scale, col % scale
    channel = ch * scale**2 + dy * scale + dx
    expected[..., y, col, ch] = x[..., y // scale, col // scale, channel]
  np.testing.assert_array_equal(pixel_shuffle(x, scale), expected)
  np.testing.assert_array_equal(pixel_unshuffle(expected, scale), x)


def test_errors():
  x = np.zeros((1, 4, 6, 6))
  with pytest.raises(ValueError, match=r"6 channels.*4"):
    pixel_shuffle(x, 2)
  with pytest.raises(ValueError, match=r"\(4, 6\) is not a multiple.*4"):
    pixel_unshuffle(x, 4)
  with pytest.raises(ValueError, match="scale 0"):
    pixel_shuffle(x, 0)
  with pytest.raises(ValueError, match=r"\(4, 6\).*channels"):
    pixel_unshuffle.__wrapped__(np.zeros((4, 6)), 2)
