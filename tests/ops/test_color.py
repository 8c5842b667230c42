"""BT.601 against BasicSR's recorded arrays and the standard's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops.color import rgb_to_y, rgb_to_ycbcr, to_float, ycbcr_to_rgb
from tests.golden import golden_io


@pytest.fixture(scope="module")
def golden():
  return golden_io.load("color_ycbcr_61x83")


@pytest.fixture(params=["numpy", "jax"])
def kind(request):
  return np.asarray if request.param == "numpy" else jnp.asarray


def test_float_matches_basicsr(golden, kind):
  arrays, _, record = golden
  image = kind(np.float32(arrays["img"][:20] / np.float32(255)))
  atol = record["atol"]["float"]
  ycbcr = rgb_to_ycbcr(image)
  assert ycbcr.dtype == np.float32
  assert isinstance(ycbcr, type(image))
  np.testing.assert_allclose(ycbcr, arrays["rgb2ycbcr_float"], 0, atol)
  np.testing.assert_allclose(
    ycbcr, golden_io.nhwc(arrays["rgb2ycbcr_pt"])[0], 0, atol
  )
  y = rgb_to_y(image)[..., 0]
  np.testing.assert_allclose(y, arrays["rgb2ycbcr_float_y"], 0, atol)
  # BGR is the same function of the reversed channels.
  np.testing.assert_allclose(
    rgb_to_ycbcr(image[..., ::-1]), arrays["bgr2ycbcr_float"], 0, atol
  )
  np.testing.assert_allclose(
    rgb_to_y(image[..., ::-1])[..., 0], arrays["bgr2ycbcr_float_y"], 0, atol
  )


def test_uint8_matches_basicsr(golden, kind):
  arrays = golden[0]
  image = kind(arrays["img"])
  ycbcr = rgb_to_ycbcr(image)
  assert ycbcr.dtype == np.uint8
  np.testing.assert_array_equal(ycbcr, arrays["rgb2ycbcr_uint8"])
  np.testing.assert_array_equal(
    rgb_to_y(image)[..., 0], arrays["rgb2ycbcr_uint8_y"]
  )
  bgr = image[..., ::-1]
  np.testing.assert_array_equal(rgb_to_ycbcr(bgr), arrays["bgr2ycbcr_uint8"])
  np.testing.assert_array_equal(
    rgb_to_y(bgr)[..., 0], arrays["bgr2ycbcr_uint8_y"]
  )


def test_the_standard_s_corners(kind):
  """Black, white and the primaries, from the table in BT.601."""
  rgb = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
  expected = [
    [16, 128, 128],
    [235, 128, 128],
    [81.481, 90.203, 240],
    [144.553, 53.797, 34.214],
    [40.966, 240, 109.786],
  ]
  image = kind(rgb[None].astype(np.float32))
  np.testing.assert_allclose(
    255 * np.asarray(rgb_to_ycbcr(image))[0], expected, atol=2e-5
  )


def test_inverse(kind):
  rgb = np.random.default_rng(0).random((2, 5, 7, 3)).astype(np.float32)
  back = ycbcr_to_rgb(rgb_to_ycbcr(kind(rgb)))
  np.testing.assert_allclose(back, rgb, atol=1e-6)
  exact = np.random.default_rng(0).random((5, 7, 3))
  np.testing.assert_allclose(
    ycbcr_to_rgb(rgb_to_ycbcr(exact)), exact, atol=1e-14
  )


def test_is_linear_so_it_differentiates():
  """dY/dRGB is the row of the matrix, at every pixel."""
  gradient = jax.grad(lambda x: rgb_to_y(x).sum())(jnp.ones((2, 3, 3)))
  row = np.array([65.481, 128.553, 24.966]) / 255
  np.testing.assert_allclose(gradient, np.broadcast_to(row, (2, 3, 3)), 1e-6)


def test_to_float(kind):
  levels = kind(np.arange(256, dtype=np.uint8).reshape(16, 16, 1))
  wide = np.float64 if isinstance(levels, np.ndarray) else np.float32
  assert to_float(levels).dtype == wide
  np.testing.assert_allclose(
    to_float(levels).ravel(), np.arange(256) / 255, 1e-7
  )
  half = to_float(jnp.full((2, 2, 1), 0.5, jnp.bfloat16))
  assert half.dtype == jnp.float32
  np.testing.assert_array_equal(half, 0.5)


@pytest.mark.parametrize("convert", [rgb_to_ycbcr, ycbcr_to_rgb, rgb_to_y])
def test_errors(convert):
  # The hook that checks shapes in tests would speak first.
  convert = convert.__wrapped__
  with pytest.raises(ValueError, match=r"\(4, 5, 1\).*channels last"):
    convert(np.zeros((4, 5, 1)))
  with pytest.raises(ValueError, match=r"int32.*float in"):
    convert(np.zeros((4, 5, 3), np.int32))


def test_inverse_matches_basicsr(golden, kind):
  """Up to two quirks of BasicSR, both against MATLAB's exact inverse.

  Its constants are rounded (-222.921 and so on: 8e-4 of a level off), so a few
  values fall to the other side of a half; and it does not clip before it casts
  to uint8, so 256 becomes 0.
  """
  arrays = golden[0]
  ycbcr = kind(arrays["rgb2ycbcr_float"])
  np.testing.assert_allclose(
    ycbcr_to_rgb(ycbcr), arrays["ycbcr2rgb_float"], 0, 4e-6
  )
  ours = np.asarray(ycbcr_to_rgb(kind(arrays["rgb2ycbcr_uint8"]))).astype(int)
  theirs = arrays["ycbcr2rgb_uint8"].astype(int)
  wrapped = (ours == 255) & (theirs == 0)
  assert wrapped.sum() == 1
  difference = np.abs(ours - theirs)[~wrapped]
  assert difference.max() == 1
  assert difference.sum() < 10  # of 15,189
