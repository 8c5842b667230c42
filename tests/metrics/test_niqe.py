"""NIQE: BasicSR's figures, naive code, and what a user may bring."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gamma

from sr_jax.metrics import NiqePrior, load_prior, niqe
from sr_jax.metrics.niqe import _features, _fit
from sr_jax.ops.resize import imresize
from tests.golden import golden_io

GOLDENS = ("metrics_niqe_192x192", "metrics_niqe_200x240")


def _load(name):
  arrays, _, record = golden_io.load(name)
  prior = NiqePrior(
    mean=arrays["synthetic_mu"][0],
    covariance=arrays["synthetic_cov"],
    window=arrays["gaussian_window"],
    name="synthetic",
  )
  # BasicSR reads images with OpenCV: BGR.
  return arrays["img"][..., ::-1], prior, arrays, record["atol"]


@pytest.mark.parametrize("name", GOLDENS)
def test_matches_basicsr_with_a_synthetic_prior(name):
  image, prior, arrays, atol = _load(name)
  value = niqe(image[..., 1:2], prior=prior)
  assert value.dtype == np.float64
  assert value.shape == ()
  np.testing.assert_allclose(
    value, arrays["niqe_synthetic_prior_hw"], 0, atol["niqe_synthetic_prior"]
  )


@pytest.mark.parametrize("name", GOLDENS)
def test_features_match_basicsr(name):
  _, _, arrays, atol = _load(name)
  blocks = arrays["block"][None]
  np.testing.assert_allclose(
    np.stack(_fit(blocks))[:, 0], arrays["block_aggd"], 0, atol["features"]
  )
  np.testing.assert_allclose(
    _features(blocks)[0], arrays["block_features"], 0, atol["features"]
  )


@pytest.mark.data
@pytest.mark.parametrize("name", GOLDENS)
def test_matches_basicsr_with_its_prior(name, data_dir):
  image, _, arrays, atol = _load(name)
  prior = load_prior(data_dir / "weights" / "niqe_pris_params.npz")
  cases = {
    "niqe_y_crop0": niqe(image, prior=prior),
    "niqe_gray_crop0": niqe(image, prior=prior, colour="grey"),
    "niqe_hw_crop0": niqe(image[..., 1:2], prior=prior),
  }
  if np.isfinite(arrays["niqe_y_crop4"]):
    cases["niqe_y_crop4"] = niqe(image, prior=prior, crop_border=4)
  else:  # one block is left, of which the reference makes NaN
    with pytest.raises(ValueError, match="two blocks"):
      niqe(image, prior=prior, crop_border=4)
  for key, value in cases.items():
    np.testing.assert_allclose(value, arrays[key], 0, atol["niqe"], key)


@pytest.mark.data
def test_baboon_has_the_known_figure(data_dir):
  prior = load_prior(data_dir / "weights" / "niqe_pris_params.npz")
  assert prior.name == "niqe_pris_params.npz"
  image = cv2.imread(str(data_dir / "Set14" / "baboon.png"))[..., ::-1]
  assert niqe(image, prior=prior) == pytest.approx(5.7296, abs=5e-5)


def _aggd(x):
  """Shape, left and right width: every shape of the grid is tried."""
  x = x.ravel()
  shapes = np.arange(0.2, 10.001, 0.001)
  ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
  left, right = (
    np.sqrt((side**2).mean()) if side.size else np.nan
    for side in (x[x < 0], x[x > 0])
  )
  skew = left / right
  wanted = np.abs(x).mean() ** 2 / max((x**2).mean(), 1e-300)
  wanted *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
  shape = shapes[np.argmin((ratios - wanted) ** 2)]
  width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
  return shape, left * width, right * width


def _naive(levels, prior):
  """From the paper, block by block and tap by tap."""
  rows, columns = (n // 96 for n in levels.shape)
  levels = levels[: rows * 96, : columns * 96]

  def blur(x):
    h, w = x.shape
    padded = np.pad(x.astype(np.float64), 3, mode="edge")
    taps = np.ndenumerate(prior.window)
    total = sum(t * padded[i : i + h, j : j + w] for (i, j), t in taps)
    return total.astype(np.float32)

  features = []
  for size in (96, 48):
    image = levels if size == 96 else imresize(levels[..., None], 0.5)[..., 0]
    image = image.astype(np.float32)
    mean = blur(image)
    spread = np.sqrt(np.abs(blur(image**2) - mean**2))
    normal = ((image - mean) / (spread + 1)).astype(np.float64)
    of_blocks = []
    for i in range(rows):
      for j in range(columns):
        block = normal[i * size : (i + 1) * size, j * size : (j + 1) * size]
        shape, left, right = _aggd(block)
        row = [shape, (left + right) / 2]
        for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
          moved = np.roll(np.roll(block, down, 0), across, 1)
          shape, left, right = _aggd(block * moved)
          middle = (right - left) * gamma(2 / shape) / gamma(1 / shape)
          row += [shape, middle, left, right]
        of_blocks.append(row)
    features.append(of_blocks)
  features = np.concatenate(features, axis=1)
  whole = features[np.isfinite(features).all(axis=1)]
  centred = whole - whole.mean(axis=0)
  covariance = centred.T @ centred / (len(whole) - 1)
  away = np.nanmean(features, axis=0) - prior.mean
  both = (covariance + prior.covariance) / 2
  return np.sqrt(away @ np.linalg.solve(both, away))


@pytest.fixture(scope="module")
def prior():
  return _load(GOLDENS[0])[1]


def _texture(height, width, channels=3, seed=0):
  """Smooth noise: neighbours are alike, as in photographs."""
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=(height + 4, width + 4, channels))
  image = sum(
    noise[i : i + height, j : j + width] for i in range(5) for j in range(5)
  )
  return (128 + 9 * image).clip(0, 255).round().astype(np.uint8)


def test_matches_naive_code(prior):
  """Sizes that are no multiples of 96, a crop, luma, a flat corner."""
  image = _texture(210, 305)
  image[:110, :120] = 255
  luma = 16 + image / 255 @ np.array([65.481, 128.553, 24.966])
  np.testing.assert_allclose(
    niqe(image, prior=prior), _naive(np.round(luma), prior), 1e-6
  )
  np.testing.assert_allclose(
    niqe(image, prior=prior, crop_border=7),
    _naive(np.round(luma)[7:-7, 7:-7], prior),
    1e-6,
  )


def test_a_flat_block_is_left_out(prior):
  """It has no fit, but the shapes 0.2 of its failed fits are in the mean."""
  image = _texture(192, 288, channels=1)
  image[:104, :104] = 50
  expected = _naive(image[..., 0].astype(np.float64), prior)
  np.testing.assert_allclose(niqe(image, prior=prior), expected, 1e-6)


def test_kinds_of_array(prior):
  images = np.stack([_texture(192, 200), _texture(192, 200, seed=1)])
  expected = [niqe(image, prior=prior) for image in images]
  assert expected[0] != expected[1]
  floats = images / 255.0
  for batch in (images, floats, floats.astype(np.float32), jnp.asarray(floats)):
    np.testing.assert_allclose(niqe(batch, prior=prior), expected, 1e-12)
  assert niqe(images[:, None], prior=prior).shape == (2, 1)


def test_undefined_is_nan(prior):
  flat = np.full((192, 192, 1), 0.5)
  assert np.isnan(niqe(flat, prior=prior))
  image = _texture(192, 192, channels=1) / 255.0
  image[3, 4] = np.nan
  assert np.isnan(niqe(image, prior=prior))


def test_errors(prior):
  metric = niqe.__wrapped__  # the shape hook of the tests would speak first
  with pytest.raises(ValueError, match=r"leaves 191x191 pixels; NIQE needs"):
    metric(np.zeros((191, 191, 3)), prior=prior)
  for crop in (1, 200, -1):
    with pytest.raises(ValueError, match=f"crop_border {crop} leaves"):
      metric(np.zeros((192, 97, 3)), prior=prior, crop_border=crop)
  with pytest.raises(ValueError, match=r"shape \(192, 192, 4\)"):
    metric(np.zeros((192, 192, 4)), prior=prior)
  with pytest.raises(ValueError, match=r"shape \(192, 192\)"):
    metric(np.zeros((192, 192)), prior=prior)
  with pytest.raises(ValueError, match="colour 'RGB'"):
    metric(np.zeros((192, 192, 3)), prior=prior, colour="RGB")
  with pytest.raises(ValueError, match="int64"):
    metric(np.zeros((192, 192, 3), np.int64), prior=prior)


def _arrays():
  return {
    "mu_pris_param": np.arange(36.0)[None],
    "cov_pris_param": np.eye(36),
    "gaussian_window": np.full((7, 7), 1 / 49),
  }


def test_load_prior(tmp_path):
  path = tmp_path / "my.npz"
  np.savez(path, **_arrays())
  prior = load_prior(path)
  np.testing.assert_array_equal(prior.mean, np.arange(36.0))
  np.testing.assert_array_equal(prior.covariance, np.eye(36))
  assert prior.window.shape == (7, 7)
  assert prior.name == "my.npz"


def test_a_prior_that_is_not_there(tmp_path):
  for path in (tmp_path / "none.npz", tmp_path):
    with pytest.raises(FileNotFoundError, match=r"bring .*niqe_pris_params"):
      load_prior(path)


def _save_npz(path, **change):
  np.savez(path, **(_arrays() | change))


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (lambda path: path.write_bytes(b""), "is not a NIQE prior"),
    (lambda path: path.write_bytes(b"PK\x03\x04 no zip"), "is not a NIQE"),
    (lambda path: path.write_bytes(b"neither"), r"is not a NIQE prior \(.*zip"),
    (lambda path: np.savez(path, mu_pris_param=0), r"lacks \['cov_pris_param'"),
    (
      lambda path: _save_npz(path, gaussian_window=np.array([{}, 1])),
      "is not a NIQE prior",
    ),
    (
      lambda path: _save_npz(path, cov_pris_param=np.eye(18)),
      r"covariance of NIQE prior 'x.npz' has shape \(18, 18\), not \(36, 36\)",
    ),
    (
      lambda path: _save_npz(path, mu_pris_param=np.full((1, 36), np.nan)),
      "mean of NIQE prior 'x.npz' holds numbers that are not finite",
    ),
  ],
)
def test_a_file_that_is_no_prior(write, message, tmp_path):
  path = tmp_path / "x.npz"
  write(path)
  with pytest.raises(ValueError, match=message):
    load_prior(path)


def test_an_npy_is_no_prior(tmp_path):
  np.save(tmp_path / "x.npy", np.eye(36))
  with pytest.raises(ValueError, match=r"x\.npy is not a NIQE prior"):
    load_prior(tmp_path / "x.npy")
