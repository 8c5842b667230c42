"""A figure's protocol: printed whole, checked, and applied."""

import dataclasses

import numpy as np
import pytest

from sr_jax.metrics import NiqePrior, Protocol, niqe, psnr, ssim

SET5 = {"crop_border": 4, "dataset": "Set5", "scale": 4}


def test_prints_everything_that_decides_the_figure():
  protocol = Protocol(
    metric="ssim", colour="Y", ssim_flavour="window_3d", **SET5
  )
  assert str(protocol) == (
    "SSIM window_3d on Y, Set5 x4, MATLAB bicubic, float LR, crop 4 px, "
    "SR clipped and rounded to 8 bits"
  )
  again = Protocol(**dataclasses.asdict(protocol))
  assert again == protocol
  assert hash(again) == hash(protocol)
  assert "PSNR (dB) on RGB" in str(
    Protocol(metric="psnr", colour="RGB", **SET5)
  )
  protocol = Protocol(metric="niqe", colour="Y", prior="p.npz", **SET5)
  assert str(protocol) == (
    "NIQE (lower is better) on Y rounded to 8 bits, Set5 x4, MATLAB bicubic, "
    "float LR, crop 4 px, SR clipped and rounded to 8 bits, no reference, "
    "prior p.npz"
  )


def test_measures_as_it_says():
  rng = np.random.default_rng(2)
  sr, hr = rng.random((2, 24, 26, 3))
  options = {"crop_border": 4, "y_channel": True}
  protocol = Protocol(metric="psnr", colour="Y", **SET5)
  assert protocol.measure(sr, hr) == psnr(sr, hr, **options)
  for flavour in ("per_channel", "window_3d"):
    protocol = Protocol(metric="ssim", colour="Y", ssim_flavour=flavour, **SET5)
    expected = ssim(sr, hr, **options, flavour=flavour)
    assert protocol.measure(sr, hr) == expected


def _prior(name):
  return NiqePrior(
    mean=np.zeros(36),
    covariance=np.eye(36),
    window=np.full((7, 7), 1 / 49),
    name=name,
  )


def test_niqe_needs_no_reference_but_its_own_prior():
  image = np.random.default_rng(3).random((200, 202, 3))
  protocol = Protocol(metric="niqe", colour="Y", prior="p.npz", **SET5)
  prior = _prior("p.npz")
  expected = niqe(image, prior=prior, crop_border=4)
  assert protocol.measure(image, prior=prior) == expected
  assert protocol.measure(image, 1 - image, prior=prior) == expected
  with pytest.raises(ValueError, match=r"'other'; the protocol names 'p\.npz'"):
    protocol.measure(image, prior=_prior("other"))
  with pytest.raises(ValueError, match=r"prior is None; .* 'p\.npz'"):
    protocol.measure(image)
  with pytest.raises(ValueError, match="'psnr' compares with hr"):
    Protocol(metric="psnr", colour="Y", **SET5).measure(image)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"metric": "mse"}, "metric 'mse'"),
    ({"colour": "BGR"}, "colour 'BGR'"),
    ({"crop_border": -1}, "crop_border -1"),
    ({"ssim_flavour": "per_channel"}, "ssim_flavour 'per_channel' of metric"),
    ({"metric": "ssim"}, "ssim_flavour None of metric 'ssim'"),
    ({"metric": "niqe"}, "prior None of metric 'niqe'"),
    ({"prior": "x"}, "prior 'x' of metric 'psnr'"),
    ({"metric": "niqe", "prior": "x", "colour": "RGB"}, "colour 'RGB' of"),
  ],
)
def test_errors(change, message):
  with pytest.raises(ValueError, match=message):
    Protocol(**({"metric": "psnr", "colour": "Y"} | SET5 | change))
