"""The protocols against a second, plain float64 computation of them."""

import math
import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from sr_jax import evaluation
from sr_jax.evaluation import benchmark
from sr_jax.metrics import NiqePrior, niqe
from sr_jax.models import Interpolate

_SCALE = 2


class _Nearest(nn.Module):
  """Repeats pixels and adds a little, so that clipping matters."""

  in_channels: int
  scale: int = _SCALE

  def __call__(self, lr):
    lr = jnp.repeat(jnp.repeat(lr, self.scale, axis=1), self.scale, axis=2)
    return 1.17 * lr - 0.093


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  coarse = rng.random((2, 5, 6, 3))
  smooth = coarse.repeat(7, axis=1).repeat(6, axis=2)  # 35 x 36
  noise = rng.normal(scale=0.05, size=smooth.shape)
  pictures = (np.clip(smooth + noise, 0, 1) * 255).astype(np.uint8)
  return [("first", pictures[0]), ("second", pictures[1, :29, :31])]


def _cubic_matrix(size: int, out: int) -> np.ndarray:
  """MATLAB's antialiased bicubic, one output pixel after another."""
  ratio = size / out
  width = max(ratio, 1.0)
  matrix = np.zeros((out, size))
  for i in range(out):
    center = (i + 0.5) * ratio - 0.5
    weights = {}
    for j in range(
      math.floor(center - 2 * width), math.ceil(center + 2 * width) + 1
    ):
      x = abs(center - j) / width
      if x <= 1:
        weights[j] = 1.5 * x**3 - 2.5 * x**2 + 1
      elif x <= 2:
        weights[j] = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    total = sum(weights.values())
    for j, weight in weights.items():
      inside = -1 - j if j < 0 else 2 * size - 1 - j if j >= size else j
      matrix[i, inside] += weight / total
  return matrix


def _resize(image, height, width):
  rows = _cubic_matrix(image.shape[0], height)
  columns = _cubic_matrix(image.shape[1], width)
  return np.stack(
    [rows @ image[..., c] @ columns.T for c in range(image.shape[-1])], -1
  )


def _levels(image):
  return np.clip(np.rint(image * 255), 0, 255)


def _luma(levels):
  weights = np.array([65.481, 128.553, 24.966])
  return (levels / 255 @ weights + 16)[..., None]


def _psnr(a, b, crop=_SCALE):
  error = (a - b)[crop:-crop, crop:-crop]
  return 10 * math.log10(255**2 / np.mean(error**2))


def _ssim(a, b, crop=_SCALE):
  """Scikit-image's, of the pixels whose window lies inside."""
  values = []
  for c in range(a.shape[-1]):
    _, full = structural_similarity(
      a[crop:-crop, crop:-crop, c],
      b[crop:-crop, crop:-crop, c],
      data_range=255,
      gaussian_weights=True,
      sigma=1.5,
      use_sample_covariance=False,
      full=True,
    )
    values.append(full[5:-5, 5:-5].mean())
  return np.mean(values)


def _expected(image, channels, colour):
  """PSNR and SSIM of `_Nearest` and of bicubic, from the definitions."""
  height, width = (n - n % _SCALE for n in image.shape[:2])
  hr = image[:height, :width].astype(np.float64)
  if channels == 1:
    hr = np.rint(_luma(hr))
  lr = _resize(hr / 255, height // _SCALE, width // _SCALE)
  if channels == 3:
    lr = _levels(lr) / 255
  nearest = 1.17 * lr.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1) - 0.093
  figures = []
  for output in (nearest, _resize(lr, height, width)):
    sr, target = _levels(output), hr
    if channels == 3 and colour == "Y":
      sr, target = _luma(sr), _luma(target)
    figures += [_psnr(sr, target), _ssim(sr, target)]
  return figures


@pytest.mark.parametrize(
  ("channels", "colour"), [(1, "Y"), (3, "RGB"), (3, "Y")]
)
def test_figures_follow_from_the_definitions(images, channels, colour):
  prepared = evaluation.prepare(
    "synthetic", scale=_SCALE, channels=channels, images=images
  )
  result = evaluation.evaluate(_Nearest(in_channels=channels), {}, prepared)
  if result.protocol.colour != colour:
    result = result.on_luma
  assert result.protocol.colour == result.ssim_protocol.colour == colour
  assert [score.name for score in result.images] == ["first", "second"]
  expected = []
  for score, (_, image) in zip(result.images, images, strict=True):
    expected.append(_expected(image, channels, colour))
    np.testing.assert_allclose(
      [score.psnr, score.ssim, score.bicubic_psnr, score.bicubic_ssim],
      expected[-1],
      rtol=0,
      atol=1e-9,
    )
  np.testing.assert_allclose(
    [result.psnr, result.ssim, result.bicubic_psnr, result.bicubic_ssim],
    np.mean(expected, axis=0),
    atol=1e-9,
  )


def test_grey_is_taken_for_luma_as_it_is(images):
  grey = images[0][1][..., :1]
  as_file = evaluation.prepare(
    "grey", scale=2, channels=1, images=[("grey", grey)]
  )
  as_rgb = evaluation.prepare(
    "grey", scale=2, channels=1, images=[("grey", grey.repeat(3, axis=-1))]
  )
  np.testing.assert_array_equal(as_file.hr[0], grey[:34, :36])
  assert as_rgb.hr[0].max() <= 235
  # The studio swing is 219 of 255 levels, and the error shrinks with it.
  psnrs = [x.beside["Y"][0]["bicubic_psnr"] for x in (as_rgb, as_file)]
  gain = psnrs[0] - psnrs[1]
  assert gain == pytest.approx(20 * math.log10(255 / 219), abs=0.05)
  rgb = evaluation.prepare("grey", scale=2, channels=3, images=[("grey", grey)])
  assert rgb.lr[0].shape == (17, 18, 3)


def test_bicubic_as_a_network_scores_as_bicubic(images):
  prepared = evaluation.prepare("x", scale=3, channels=1, images=images)
  result = evaluation.evaluate(
    Interpolate(scale=3), {}, prepared, keep_outputs=True
  )
  # float32 against float64: at most a pixel in a thousand rounds otherwise.
  assert result.psnr == pytest.approx(result.bicubic_psnr, abs=0.01)
  assert result.outputs[1].shape == (27, 30, 1)
  assert result.on_luma is None
  assert str(result).startswith(f"x x3 Y: {result.psnr:.2f} dB / ")


def test_another_ssim(images):
  figures = {
    flavour: evaluation.prepare(
      "x", scale=2, channels=3, images=images, ssim_flavour=flavour
    ).beside["RGB"][0]
    for flavour in ("per_channel", "window_3d")
  }
  one, other = figures["per_channel"], figures["window_3d"]
  assert one["bicubic_psnr"] == other["bicubic_psnr"]
  assert one["bicubic_ssim"] != other["bicubic_ssim"]


def test_a_folder_with_a_grey_file(tmp_path, images):
  from PIL import Image

  rgb = images[1][1]
  Image.fromarray(rgb).save(tmp_path / "a.png")
  Image.fromarray(rgb[..., 0]).save(tmp_path / "b.png")
  Image.fromarray(rgb[..., :1].repeat(3, axis=-1)).save(tmp_path / "c.png")
  prepared = evaluation.prepare(str(tmp_path), scale=2, channels=1)
  assert prepared.dataset == tmp_path.name
  assert prepared.names == ("a", "b", "c")
  channels = [
    benchmark.ground_truth(prepared.images, i)[1].shape[-1] for i in range(3)
  ]
  assert channels == [3, 1, 3]


def test_what_cannot_be_evaluated_is_named(images):
  prepared = evaluation.prepare("x", scale=2, channels=1, images=images)
  with pytest.raises(ValueError, match="scale 4 and 1 channels cannot"):
    evaluation.evaluate(_Nearest(in_channels=1, scale=4), {}, prepared)
  with pytest.raises(ValueError, match="scale 2 and 3 channels cannot"):
    evaluation.evaluate(_Nearest(in_channels=3), {}, prepared)
  with pytest.raises(ValueError, match="channels 2"):
    evaluation.prepare("x", scale=2, channels=2, images=images)
  with pytest.raises(ValueError, match="scale 0 "):
    evaluation.prepare("x", scale=0, channels=1, images=images)
  with pytest.raises(ValueError, match="'x' has no images"):
    evaluation.prepare("x", scale=2, channels=1, images=[])
  small = [("tiny", np.zeros((3, 9, 3), np.uint8))]
  with pytest.raises(ValueError, match=r"image 'tiny' of 'x'.*scale 4"):
    evaluation.prepare("x", scale=4, channels=1, images=small)


@pytest.fixture(scope="module")
def niqe_prior():
  return NiqePrior(
    mean=np.linspace(0, 1, 36),
    covariance=np.eye(36),
    window=np.full((7, 7), 1 / 49),
    name="flat.npz",
  )


@pytest.fixture(scope="module")
def large():
  """Two pictures of two blocks and four, when two pixels are cropped."""
  small = np.random.default_rng(4).integers(0, 256, (2, 50, 60, 3))
  pictures = [
    _levels(_resize(image / 255, 201, 240)).astype(np.uint8) for image in small
  ]
  return [("first", pictures[0]), ("second", pictures[1][:199, :196])]


@pytest.mark.parametrize("channels", [1, 3])
def test_niqe_of_network_bicubic_and_truth(large, niqe_prior, channels):
  prepared = evaluation.prepare(
    "x",
    scale=_SCALE,
    channels=channels,
    images=large,
    metrics=("niqe", "psnr"),
    niqe_prior=niqe_prior,
  )
  model = _Nearest(in_channels=channels)
  result = evaluation.evaluate(model, {}, prepared, keep_outputs=True)
  luma = result if channels == 1 else result.on_luma
  assert list(luma.protocols) == ["psnr", "niqe"]
  assert str(luma.protocols["niqe"]) == str(result.niqe_protocol)
  assert "prior flat.npz" in str(result.niqe_protocol)
  if channels == 3:
    assert list(result.protocols) == ["psnr"]

  expected = []
  for score, hr, output in zip(
    luma.images, prepared.hr, result.outputs, strict=True
  ):
    height, width = hr.shape[:2]
    lr = _resize(hr / 255, height // _SCALE, width // _SCALE)
    lr = _levels(lr) / 255 if channels == 3 else lr
    bicubic = _levels(_resize(lr, height, width))
    expected.append(
      [
        float(niqe(x.astype(np.uint8), prior=niqe_prior, crop_border=_SCALE))
        for x in (output, bicubic, hr)
      ]
    )
    np.testing.assert_allclose(
      [score.niqe, score.bicubic_niqe, score.hr_niqe], expected[-1], 1e-9
    )
    assert math.isnan(score.ssim)  # it was not asked for
  np.testing.assert_allclose(
    [result.niqe, result.bicubic_niqe, result.hr_niqe],
    np.mean(expected, axis=0),
    1e-9,
  )
  with pytest.raises(ValueError, match="ssim was not measured"):
    _ = result.ssim
  assert re.match(r"x x2 Y: \S+ dB / NIQE \S+ \(bicubic", str(luma))


def test_niqe_alone_is_on_luma(large, niqe_prior):
  prepared = evaluation.prepare(
    "x",
    scale=_SCALE,
    channels=3,
    images=large[:1],
    metrics=["niqe"],
    niqe_prior=niqe_prior,
  )
  result = evaluation.evaluate(_Nearest(in_channels=3), {}, prepared)
  assert result.protocol.metric == "niqe"
  assert result.protocol.colour == "Y"
  assert result.on_luma is None
  assert result.niqe > 0


def test_metrics_that_cannot_be_measured_are_named(large, images, niqe_prior):
  options = {"scale": 2, "channels": 1}
  with pytest.raises(ValueError, match=r"metric 'niqee' .* mean 'niqe'\?"):
    evaluation.prepare("x", images=large, metrics=["niqee"], **options)
  with pytest.raises(ValueError, match="no metric is given"):
    evaluation.prepare("x", images=large, metrics=(), **options)
  with pytest.raises(ValueError, match="niqe needs niqe_prior"):
    evaluation.prepare("x", images=large, metrics=["niqe"], **options)
  with pytest.raises(ValueError, match=r"'first' of 'x': .* two blocks"):
    evaluation.prepare(
      "x",
      images=[*large, *images],
      metrics=["niqe"],
      niqe_prior=niqe_prior,
      **options,
    )


def test_where_the_prior_is_looked_for(niqe_prior, tmp_path, monkeypatch):
  monkeypatch.setenv("SR_JAX_DATA", str(tmp_path / "env"))
  arrays = {
    "mu_pris_param": niqe_prior.mean[None],
    "cov_pris_param": niqe_prior.covariance,
    "gaussian_window": niqe_prior.window,
  }
  usual = tmp_path / "env" / "weights" / "niqe_pris_params.npz"
  with pytest.raises(FileNotFoundError, match=f"{usual}.*--niqe_prior=FILE"):
    evaluation.find_niqe_prior()
  usual.parent.mkdir(parents=True)
  np.savez(usual, **arrays)
  assert evaluation.find_niqe_prior().name == "niqe_pris_params.npz"
  np.savez(tmp_path / "other.npz", **arrays)
  found = evaluation.find_niqe_prior(tmp_path / "other.npz")
  assert found.name == "other.npz"
  with pytest.raises(FileNotFoundError, match="there is no NIQE prior"):
    evaluation.find_niqe_prior(data_dir=str(tmp_path))
