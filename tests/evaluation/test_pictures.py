"""What the reports show."""

import numpy as np

from sr_jax.evaluation import pictures


def _image(rng):
  return rng.integers(0, 256, (13, 16, 3), np.uint8)


def test_panels():
  image = _image(np.random.default_rng(0))
  hr = image[:12]
  # The true luma under the true colours of a grey picture is that picture.
  grey = hr[..., :1]
  shown = pictures.panels(image, {"rgb": hr}, scale=4)
  assert list(shown) == ["low resolution", "bicubic", "rgb", "ground truth"]
  np.testing.assert_array_equal(shown["rgb"], hr)
  np.testing.assert_array_equal(shown["ground truth"], hr)
  low = shown["low resolution"]
  np.testing.assert_array_equal(low, low[::4, ::4].repeat(4, 0).repeat(4, 1))
  shown = pictures.panels(image[..., :1], {"net": grey}, scale=4)
  np.testing.assert_array_equal(shown["net"], grey.repeat(3, axis=-1))


def test_luma_is_shown_in_the_colours_of_bicubic():
  # A flat picture: bicubic is exact, so only the luma differs, by 10 levels
  # of 219, which is 11.64 of 255 in each of R, G and B.
  flat = np.full((8, 8, 3), (90, 120, 150), np.uint8)
  luma = 16 + (65.481 * 90 + 128.553 * 120 + 24.966 * 150) / 255
  output = np.full((8, 8, 1), round(luma) + 10, np.uint8)
  shown = pictures.panels(flat, {"net": output}, scale=2)["net"]
  rise = (round(luma) + 10 - luma) * 255 / 219
  np.testing.assert_allclose(shown, flat + rise, atol=0.51)


def test_busiest_window_is_where_bicubic_errs_most():
  truth = np.zeros((20, 30, 3), np.uint8)
  truth[11:15, 21:25] = 255
  shown = {"bicubic": np.zeros_like(truth), "ground truth": truth}
  assert pictures.busiest_window(shown, 4) == (slice(11, 15), slice(21, 25))
  assert pictures.busiest_window(shown, 99) == (slice(0, 20), slice(0, 30))


def test_side_by_side():
  one = np.zeros((3, 2, 3), np.uint8)
  row = pictures.side_by_side({"a": one, "b": one}, gap=1)
  assert row.shape == (18 + 3, 5, 3)  # a caption, then the pictures
  assert (row[18:, 2] == 255).all()
  assert (np.delete(row[18:], 2, axis=1) == 0).all()
  assert (row[:18] == 255).any()
  assert (row[:18] < 255).any()
