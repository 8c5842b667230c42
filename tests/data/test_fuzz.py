"""Damaged images: refused by name, or pixels.

What memory a decoder takes is OpenCV's affair: it refuses over 2**30 pixels.
"""

import cv2
import numpy as np
import pytest
from hypothesis import given

from sr_jax.data import sources
from tests import damage


@pytest.mark.parametrize(
  "examples", [100, pytest.param(2_100, marks=pytest.mark.slow)]
)
def test_damaged_images(examples, tmp_path):
  small = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
  image = cv2.resize(small, (24, 18), interpolation=cv2.INTER_CUBIC)
  deep, grey = np.uint16(image) * 257, image[..., 0]
  files = [
    cv2.imencode(suffix, pixels)[1].tobytes()
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif", ".ppm")
    for pixels in (image, grey)
    if (suffix, pixels.ndim) != (".ppm", 2)
  ] + [cv2.imencode(".png", deep)[1].tobytes()]
  path = tmp_path / "image"
  refused = []

  def run(data):
    path.write_bytes(data)
    image = sources.read_image(path)
    assert image.ndim == 3
    assert image.shape[2] == 3

  @damage.seeded(examples)
  @given(damage.damaged(files))
  def each(data):
    told = damage.read(lambda: run(data), len(data), slack=1 << 28).error
    if told:
      assert str(path) in str(told)
      refused.append(told)

  for data in files:
    run(data)
  each()
  assert examples // 4 <= len(refused) < examples


def test_images_of_a_size_that_none_has(tmp_path):
  data = bytearray(cv2.imencode(".bmp", np.zeros((4, 4, 3), np.uint8))[1])
  path = tmp_path / "image.bmp"
  for side in (70_000, (1 << 31) - 1):
    data[18:26] = np.array([side] * 2, "<i4").tobytes()
    path.write_bytes(data)
    with pytest.raises(sources.UnreadableError, match=r"image\.bmp .*decoded"):
      sources.read_image(path)


@pytest.mark.parametrize("pixels", [np.uint8, np.uint16])
def test_images_whose_conversion_does_not_fit(pixels, tmp_path, monkeypatch):
  path = tmp_path / "image.png"
  path.write_bytes(cv2.imencode(".png", np.zeros((4, 4), pixels))[1])
  call = {
    np.uint8: (cv2, "cvtColor", cv2.error),
    np.uint16: (np, "rint", MemoryError),
  }[pixels]

  def full(*args):
    raise call[2]("no memory")

  monkeypatch.setattr(*call[:2], full)
  with pytest.raises(sources.UnreadableError, match=r"image\.png .*decoded"):
    sources.read_image(path)
