"""Tiles, crops with margins and flips, against whole-image NumPy."""

import itertools
import math

import numpy as np
import pytest

from sr_jax.data import transforms


def _basicsr_count(length: int) -> int:
  """By formula: one tile, one more each step begun beyond it."""
  return 1 + max(math.ceil((length - 480) / 240), 0)


@pytest.mark.parametrize(
  ("height", "width", "known"),
  [
    (1356, 2040, 40),  # 5 rows of 8
    (2040, 1356, 40),
    (1200, 2040, 32),
    (480, 480, 1),
    (481, 480, 2),
    (719, 720, 4),
    (721, 960, 9),
    (300, 2040, 8),
    (300, 200, 1),
    (648, 2040, 16),
    (1368, 2040, 40),
  ],
)
def test_tile_count(height, width, known):
  tiles = transforms.tiles(height, width, size=480, step=240)
  assert len(tiles) == known == _basicsr_count(height) * _basicsr_count(width)


@pytest.mark.parametrize(
  ("height", "width", "size", "step"),
  [(131, 97, 48, 24), (100, 100, 50, 20), (49, 200, 48, 7), (30, 64, 48, 48)],
)
def test_tiles_cover_the_image_on_the_grid(height, width, size, step):
  tiles = transforms.tiles(height, width, size=size, step=step)
  seen = np.zeros((height, width), int)
  for tile in tiles:
    rows = slice(tile.top, tile.top + tile.height)
    columns = slice(tile.left, tile.left + tile.width)
    seen[rows, columns] += 1
    assert tile.top % math.gcd(step, 24) == tile.left % math.gcd(step, 24) == 0
    assert tile.edges == (
      tile.top == 0,
      tile.top + tile.height == height,
      tile.left == 0,
      tile.left + tile.width == width,
    )
    assert min(size, height) <= tile.height < size + 24
  assert seen.min() >= 1


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize("size", [24, 48, 1000])
def test_crops_are_windows_of_the_whole_padded_image(scale, margin, size):
  """Every crop of every tile is a window, on the grid, of the whole image
  cut to a multiple of the scale and padded symmetrically; and tiles that
  overlap give every such window."""
  rng = np.random.Generator(np.random.Philox(key=size))
  image = rng.integers(0, 256, (61, 53, 3), dtype=np.uint8)
  patch = 6 * scale if size > 24 else scale
  height, width = 61 - 61 % scale, 53 - 53 % scale
  pad = margin * scale
  whole = np.pad(
    image[:height, :width], ((pad, pad), (pad, pad), (0, 0)), mode="symmetric"
  )
  side = patch + 2 * pad
  seen = set()
  for tile in transforms.tiles(61, 53, size=size, step=24):
    part = image[
      tile.top : tile.top + tile.height, tile.left : tile.left + tile.width
    ]
    where = transforms.window(
      tile, patch_size=patch, scale=scale, margin=margin
    )
    for row, column in itertools.product(
      range(where.rows), range(where.columns)
    ):
      crop = transforms.cut(part, where, row, column)
      # Position in the padded whole image.
      top = tile.top + row * scale + (pad - where.before_rows)
      left = tile.left + column * scale + (pad - where.before_columns)
      assert top % scale == left % scale == 0
      expected = whole[top : top + side, left : left + side]
      np.testing.assert_array_equal(crop, expected)
      seen.add((top, left))
  every = itertools.product(
    range(0, height - patch + 1, scale), range(0, width - patch + 1, scale)
  )
  if size == 24:  # tiles that do not overlap: the places inside them
    assert seen <= set(every)
  else:
    assert seen == set(every)


def test_no_room_for_a_crop():
  tile = transforms.Tile(0, 0, 20, 40, (True, True, True, True))
  where = transforms.window(tile, patch_size=24, scale=2, margin=2)
  assert where.rows < 1
  assert where.columns == 9


def test_eight_distinct_symmetries():
  square = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
  ours = {transforms.dihedral(square, i).tobytes() for i in range(8)}
  turned = [np.rot90(square, k) for k in range(4)]
  expected = {x.tobytes() for t in turned for x in (t, np.fliplr(t))}
  assert ours == expected
  assert len(ours) == 8
  np.testing.assert_array_equal(transforms.dihedral(square, 0), square)
