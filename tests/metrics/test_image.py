"""PSNR and SSIM: BasicSR's and MMagic's figures, naive code, the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.metrics import psnr, ssim
from tests.golden import golden_io

CASES = [
  pytest.param(crop, y, id=f"crop{crop}_{'y' if y else 'rgb'}")
  for crop in (0, 4)
  for y in (False, True)
]


@pytest.fixture(scope="module")
def golden():
  arrays, _, record = golden_io.load("metrics_psnr_ssim_61x83")
  # BasicSR reads images with OpenCV: BGR.
  images = [arrays[key][..., ::-1] for key in ("img", "img2")]
  return images, arrays, record["atol"]


def _case(crop, y):
  return f"crop{crop}_{'y' if y else 'rgb'}"


@pytest.mark.parametrize(("crop", "y"), CASES)
def test_matches_basicsr_and_mmagic(golden, crop, y):
  images, arrays, atol = golden
  options = {"crop_border": crop, "y_channel": y}
  case = _case(crop, y)
  decibels = psnr(*images, **options)
  assert decibels.dtype == np.float64
  # BasicSR's Y is float32; MMagic's squared error as well.
  np.testing.assert_allclose(decibels, arrays[f"psnr/{case}"], 0, 1e-5)
  np.testing.assert_allclose(
    decibels, arrays[f"mmagic_psnr/{case}_bgr"], 0, atol["mmagic_psnr"]
  )
  similarity = ssim(*images, **options)
  np.testing.assert_allclose(
    similarity, arrays[f"ssim/{case}"], 0, atol["ssim"]
  )
  np.testing.assert_allclose(
    similarity, arrays[f"mmagic_ssim/{case}_bgr"], 0, atol["mmagic_ssim"]
  )


@pytest.mark.parametrize(("crop", "y"), CASES)
def test_on_the_device_as_in_float64(golden, crop, y):
  """The training metric is the table's, in float32 and in one batch."""
  images, arrays, _ = golden
  sr, hr = (jnp.asarray(np.stack([x, x[::-1]]) / 255.0) for x in images)
  options = {"crop_border": crop, "y_channel": y}
  case = _case(crop, y)
  decibels = jax.jit(lambda a, b: psnr(a, b, **options))(sr, hr)
  similarity = jax.jit(lambda a, b: ssim(a, b, **options))(sr, hr)
  assert decibels.dtype == similarity.dtype == jnp.float32
  np.testing.assert_allclose(
    decibels, [arrays[f"psnr/{case}"].item()] * 2, 0, 1e-4
  )
  # BasicSR's torch version adds 1e-8 to the mean squared error.
  softened = -10 * np.log10(10 ** (-np.float64(decibels) / 10) + 1e-8)
  np.testing.assert_allclose(
    softened, [arrays[f"psnr_pt/{case}"].item()] * 2, 0, 1e-4
  )
  for name in ("ssim", "ssim_pt"):
    np.testing.assert_allclose(
      similarity, [arrays[f"{name}/{case}"].item()] * 2, 0, 5e-6
    )


def test_grey(golden):
  """One channel is Y already, whatever y_channel says."""
  images, arrays, _ = golden
  grey = [image[..., 2:] for image in images]  # blue, BGR's channel 0
  for y in (False, True):
    options = {"crop_border": 2, "y_channel": y}  # as it was recorded
    np.testing.assert_allclose(
      psnr(*grey, **options), arrays["psnr/gray2d"], 0, 1e-9
    )
    np.testing.assert_allclose(
      ssim(*grey, **options), arrays["ssim/gray2d"], 0, 1e-9
    )


def _ssim_3d(sr, hr):
  """One 11x11x11 window, tap by tap, as NAFNet's BasicSR has it."""
  grid = np.mgrid[-5:6, -5:6, -5:6]
  window = np.exp(-(grid**2).sum(0) / (2 * 1.5**2))
  window /= window.sum()

  def blur(x):
    padded = np.pad(x, 5, mode="edge")
    h, w, c = x.shape
    return sum(
      tap * padded[i : i + h, j : j + w, k : k + c]
      for (i, j, k), tap in np.ndenumerate(window)
    )

  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  a, b = sr * 255.0, hr * 255.0
  mean_a, mean_b = blur(a), blur(b)
  var_a = blur(a**2) - mean_a**2
  var_b = blur(b**2) - mean_b**2
  both = blur(a * b) - mean_a * mean_b
  top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
  return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()


@pytest.mark.parametrize("channels", [3, 1])
def test_ssim_window_3d(channels):
  rng = np.random.default_rng(5)
  hr = rng.random((23, 19, channels))
  sr = np.clip(hr + 0.1 * rng.standard_normal(hr.shape), 0, 1)
  options = {"crop_border": 2, "y_channel": False, "flavour": "window_3d"}
  expected = _ssim_3d(sr[2:-2, 2:-2], hr[2:-2, 2:-2])
  np.testing.assert_allclose(ssim(sr, hr, **options), expected, 0, 1e-10)
  np.testing.assert_allclose(
    ssim(jnp.asarray(sr), jnp.asarray(hr), **options), expected, 0, 1e-5
  )
  flat = ssim(sr, hr, crop_border=2, y_channel=False)
  assert abs(flat - expected) > 1e-3  # the two are not one


@pytest.mark.parametrize("xp", [np, jnp])
def test_equal_and_nan(xp):
  options = {"crop_border": 0, "y_channel": False}
  x = xp.asarray(np.random.default_rng(0).random((2, 12, 13, 3)))
  np.testing.assert_array_equal(psnr(x, x, **options), [np.inf, np.inf])
  np.testing.assert_allclose(ssim(x, x, **options), [1, 1], 0, 1e-6)
  half = xp.stack([x[0], xp.full_like(x[0], xp.nan)])
  assert np.isinf(psnr(half, x, **options)[0])
  assert np.isnan(psnr(half, x, **options)[1])
  # A known one: an error of 0.1 everywhere is 20 dB.
  np.testing.assert_allclose(psnr(x, x + 0.1, **options), [20, 20], 0, 1e-4)


def test_uint8_is_over_255(golden):
  images, _, _ = golden
  options = {"crop_border": 3, "y_channel": True}
  floats = [image / 255.0 for image in images]
  for metric in (psnr, ssim):
    np.testing.assert_allclose(
      metric(*images, **options), metric(*floats, **options), 1e-12
    )


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_errors(metric):
  metric = metric.__wrapped__  # the shape hook of the tests would speak first
  x = np.zeros((12, 20, 3))
  with pytest.raises(ValueError, match=r"sr \(12, 20, 3\) and hr \(12, 19, 3"):
    metric(x, x[:, :19], crop_border=0, y_channel=True)
  for crop in (6, -1):
    with pytest.raises(ValueError, match=f"crop_border {crop} leaves no"):
      metric(x, x, crop_border=crop, y_channel=True)
  with pytest.raises(ValueError, match="int64"):
    metric(x.astype(np.int64), x, crop_border=0, y_channel=True)


def test_ssim_errors():
  x = np.zeros((12, 20, 3))
  with pytest.raises(ValueError, match=r"\(10, 18\) pixels.*11x11"):
    ssim(x, x, crop_border=1, y_channel=True)
  with pytest.raises(ValueError, match="flavour '3d'"):
    ssim(x, x, crop_border=0, y_channel=True, flavour="3d")
