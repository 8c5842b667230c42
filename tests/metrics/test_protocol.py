"""A figure's protocol: printed whole, checked, and applied."""

import dataclasses

import numpy as np
import pytest

from sr_jax.metrics import Protocol, psnr, ssim

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


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"metric": "mse"}, "metric 'mse'"),
    ({"colour": "BGR"}, "colour 'BGR'"),
    ({"crop_border": -1}, "crop_border -1"),
    ({"ssim_flavour": "per_channel"}, "ssim_flavour 'per_channel' of metric"),
    ({"metric": "ssim"}, "ssim_flavour None of metric 'ssim'"),
  ],
)
def test_errors(change, message):
  with pytest.raises(ValueError, match=message):
    Protocol(**({"metric": "psnr", "colour": "Y"} | SET5 | change))
