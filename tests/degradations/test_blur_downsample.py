"""BD and DUF against their definitions, written out pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import degradations
from sr_jax.degradations import BD_MARGIN, DUF_MARGIN, bd, blur_downsample, duf
from tests.golden import golden_io


def _matlab_bd(hr):
  """The lines of BD_degradation.m, for x4, as an 8-bit file holds it.

  fspecial makes the window of two dimensions; imfilter of an even window puts
  its sixth row and column, of twelve, on the pixel it computes.
  """
  y, x = np.mgrid[-5.5:6, -5.5:6]
  window = np.exp(-(x**2 + y**2) / (2 * 1.6**2))
  window /= window.sum()
  padded = np.pad(hr.astype(np.float64), ((5, 6), (5, 6), (0, 0)), "edge")
  views = np.lib.stride_tricks.sliding_window_view(padded, (12, 12), (0, 1))
  blurred = np.floor(np.einsum("hwcij,ij->hwc", views, window) + 0.5)
  return blurred[1::4, 1::4].astype(np.uint8)


def _picture(rng, height, width):
  """Edges, texture and saturated areas."""
  y, x = np.mgrid[:height, :width]
  base = 127 + 120 * np.sin(x / 3.1) * np.cos(y / 4.7)
  noise = rng.normal(0, 40, (height, width, 3))
  return np.clip(base[..., None] + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.usefixtures("optimized")
def test_duf_is_that_of_basicsr(scale):
  arrays, _, record = golden_io.load("duf_downsample")
  hr = golden_io.nhwc(arrays["input"])  # one clip of two frames
  height, width = (n // scale * scale for n in hr.shape[-3:-1])
  expected = golden_io.nhwc(arrays[f"duf_x{scale}"])
  # At x3 BasicSR goes on to where fewer than three pixels are left, and sees
  # those beyond the multiple of 3; ours is cut to it first.
  keep = slice(0, None if hr.shape[-3] == height else -3)
  hr = hr[..., :height, :width, :]
  for image in (hr.astype(np.float64), jnp.asarray(hr)):
    ours = duf(image, scale=scale, quantize=False)
    rows, columns = ours.shape[-3:-1]
    np.testing.assert_allclose(
      ours[..., keep, keep, :],
      expected[..., :rows, :columns, :][..., keep, keep, :],
      rtol=0,
      atol=record["atol"]["all"],
    )


def test_bd_is_that_of_matlab():
  hr = _picture(np.random.default_rng(0), 36, 52)
  ours = bd(hr[None] / 255.0)
  assert ours.dtype == np.float64
  np.testing.assert_array_equal(np.rint(ours[0] * 255), _matlab_bd(hr))


def test_every_aligned_crop_equals_the_offline_image():
  rows, columns, side, scale = 20, 16, 6, 4
  hr = _picture(np.random.default_rng(1), rows * scale, columns * scale)
  offline = _matlab_bd(hr)
  pad = BD_MARGIN * scale
  padded = np.pad(hr, ((pad, pad), (pad, pad), (0, 0)), "edge")
  run = jax.jit(lambda x: bd(x / 255.0, margin=BD_MARGIN))
  wrong = pixels = 0
  # All positions, the four borders of the image included. A row of them is a
  # batch of clips of one frame.
  for y in range(rows - side + 1):
    xs = range(columns - side + 1)
    crops = np.stack(
      [
        padded[
          y * scale : (y + side) * scale + 2 * pad,
          x * scale : (x + side) * scale + 2 * pad,
        ]
        for x in xs
      ]
    )[:, None]
    ours = np.asarray(run(jnp.asarray(crops, jnp.float32)))[:, 0] * 255
    expected = np.stack([offline[y : y + side, x : x + side] for x in xs])
    difference = np.abs(np.rint(ours) - expected)
    assert difference.max() <= 1
    wrong += int((difference > 0).sum())
    pixels += difference.size
  assert wrong <= 2  # of 17,820


@pytest.mark.parametrize("name", ["BI", "BD", "DUF"])
def test_a_clip_is_its_frames_and_a_crop_is_of_the_whole(name):
  made = degradations.find(name)
  clip = _picture(np.random.default_rng(2), 48, 40)[None].repeat(2, 0)
  clip[1] = clip[1, ::-1]
  whole = made.downsample(clip[None] / 255.0, scale=4)
  for frame, expected in zip(clip, whole[0], strict=True):
    ours = made.downsample(frame / 255.0, scale=4)
    np.testing.assert_array_equal(ours, expected)
  # Offline in float64: not a value may differ.
  pad = made.margin * 4
  padded = np.pad(
    clip, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=made.border
  )
  for top, left in ((0, 0), (16, 8), (32, 24)):
    crop = padded[:, top : top + 16 + 2 * pad, left : left + 16 + 2 * pad]
    ours = made.downsample(crop / 255.0, scale=4, margin=made.margin)
    y, x = top // 4, left // 4
    np.testing.assert_array_equal(
      np.rint(ours * 255), np.rint(whole[0, :, y : y + 4, x : x + 4] * 255)
    )


@pytest.mark.data
def test_real_frames_equal_the_offline_ones(data_dir):
  from sr_jax.data.sources import read_image

  run = jax.jit(bd)
  wrong = pixels = 0
  for clip in ("calendar", "city", "foliage", "walk"):
    file = next((data_dir / "Vid4" / "GT" / clip).glob("*00.*"))
    hr = read_image(file)
    ours = run(jnp.asarray(hr[None] / 255.0, jnp.float32))
    offline = np.rint(bd(hr / 255.0) * 255)
    difference = np.abs(np.rint(np.asarray(ours)[0] * 255) - offline)
    assert difference.max() <= 1
    wrong += int((difference > 0).sum())
    pixels += difference.size
  assert wrong <= pixels / 30_000


def test_mistakes_are_refused():
  hr = np.zeros((8, 8, 3))
  with pytest.raises(ValueError, match="scale 3: BD is defined for x4"):
    bd(hr, scale=3)
  with pytest.raises(ValueError, match=r"\(8, 8\) is not a multiple.*3"):
    duf(hr, scale=3)
  with pytest.raises(ValueError, match="larger crop"):
    duf(hr, scale=2, margin=DUF_MARGIN)
  with pytest.raises(ValueError, match="half a pixel off where taps is even"):
    blur_downsample(hr, scale=4, sigma=1.6, taps=12, center=1.0, border="edge")
  with pytest.raises(ValueError, match=r"'DB' is not one of \['BI', 'BD'"):
    degradations.find("DB")
  assert degradations.find("bd") is degradations.DEGRADATIONS["BD"]
