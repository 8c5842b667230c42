"""Where images are cut, and the eight flips and rotations. NumPy, uint8."""

import dataclasses
import math

import cv2
import numpy as np

#: Sub-images begin at multiples of this, so that their pixels lie on the LR
#: grid of the whole image at x2, x3, x4, x6 and x8.
ALIGN = 24


@dataclasses.dataclass(frozen=True)
class Tile:
  """A rectangle of an image, in pixels.

  Attributes:
    top: First row.
    left: First column.
    height: Rows.
    width: Columns.
    edges: Which of its sides (top, bottom, left, right) are the image's own.
  """

  top: int
  left: int
  height: int
  width: int
  edges: tuple[bool, bool, bool, bool]


def _spans(length: int, size: int, step: int) -> list[tuple[int, int]]:
  """`(start, stop)` of the tiles along one axis."""
  if length <= size:
    return [(0, length)]
  spans = [(i, i + size) for i in range(0, length - size + 1, step)]
  if spans[-1][1] < length:
    align = math.gcd(step, ALIGN)
    spans.append(((length - size) // align * align, length))
  return spans


def tiles(height: int, width: int, *, size: int, step: int) -> list[Tile]:
  """Overlapping sub-images that cover an image.

  They begin every `step` pixels while one fits, and a last one ends flush with
  the image where anything remains. That one begins on the grid (see ALIGN) and
  so may be up to 23 pixels longer than `size`.

  Args:
    height: Rows of the image.
    width: Columns of the image.
    size: Side of a sub-image; a shorter side of the image is left whole.
    step: Distance between them.

  Returns:
    The tiles, row by row.

  Source: the count is that of BasicSR's scripts/data_preparation/
  extract_subimages.py with thresh_size 0: 32,592 from DIV2K's 800 images.
  """
  return [
    Tile(
      top,
      left,
      bottom - top,
      right - left,
      (top == 0, bottom == height, left == 0, right == width),
    )
    for top, bottom in _spans(height, size, step)
    for left, right in _spans(width, size, step)
  ]


#: What lies outside an image: a mode of `np.pad`, and OpenCV's name for it.
BORDERS = {
  "symmetric": cv2.BORDER_REFLECT,
  "edge": cv2.BORDER_REPLICATE,
  "reflect": cv2.BORDER_REFLECT_101,
}


@dataclasses.dataclass(frozen=True)
class Window:
  """The crop positions of one sub-image.

  A crop of side `side` starts at row `scale * i - before_rows`, i < rows, and
  likewise for columns. Only where the sub-image ends with its image may a crop
  reach outside, by the margin: there the image continues as `border` says.
  Elsewhere the margin is real pixels.
  """

  side: int
  scale: int
  rows: int
  columns: int
  before_rows: int
  before_columns: int
  height: int
  width: int
  border: str = "symmetric"


def window(
  tile: Tile,
  *,
  patch_size: int,
  scale: int,
  margin: int,
  border: str = "symmetric",
) -> Window:
  """Which crops a sub-image allows.

  Args:
    tile: The sub-image.
    patch_size: Side of a crop in HR pixels, without margin.
    scale: Crops start at multiples of it. What exceeds a multiple at the
      bottom and right of the whole image is left out first.
    margin: LR pixels added on each side.
    border: How the image continues past its border: one of `BORDERS`. The
      default is its own mirror, as in MATLAB's imresize.

  Returns:
    The positions; `rows` or `columns` is below 1 where no crop fits.
  """
  pad, side = margin * scale, patch_size + 2 * margin * scale
  top, bottom, left, right = tile.edges
  height = tile.height - (tile.height % scale if bottom else 0)
  width = tile.width - (tile.width % scale if right else 0)
  return Window(
    side=side,
    scale=scale,
    rows=(height + pad * (top + bottom) - side) // scale + 1,
    columns=(width + pad * (left + right) - side) // scale + 1,
    before_rows=pad * top,
    before_columns=pad * left,
    height=height,
    width=width,
    border=border,
  )


def cut(image: np.ndarray, where: Window, row: int, column: int) -> np.ndarray:
  """Cuts one crop, continuing the image where the crop reaches outside.

  Args:
    image: uint8 `[h, w, c]`, a sub-image.
    where: Its positions.
    row: Which position, `0 <= row < where.rows`.
    column: Likewise.

  Returns:
    uint8 `[side, side, c]`, a view where nothing was added.
  """
  top = where.scale * row - where.before_rows
  left = where.scale * column - where.before_columns
  bottom, right = top + where.side, left + where.side
  outside = (
    max(-top, 0),
    max(bottom - where.height, 0),
    max(-left, 0),
    max(right - where.width, 0),
  )
  crop = image[
    max(top, 0) : min(bottom, where.height),
    max(left, 0) : min(right, where.width),
  ]
  if any(outside):
    # What is mirrored (the margin) lies inside the crop, so that mirroring
    # the crop is mirroring the image.
    crop = cv2.copyMakeBorder(crop, *outside, BORDERS[where.border])
  return crop


def dihedral(image: np.ndarray, which: int) -> np.ndarray:
  """One of the eight flips and rotations of a square.

  Args:
    image: `[h, w, c]`.
    which: 0 to 7; bit 0 mirrors left to right, bit 1 top to bottom, bit 2
      then transposes. 0 leaves the image as it is.

  Returns:
    A view.
  """
  if which & 1:
    image = image[:, ::-1]
  if which & 2:
    image = image[::-1]
  if which & 4:
    image = image.transpose(1, 0, 2)
  return image
