r"""Draws what a network has learned: filters, or what they make of a picture.

python -m sr_jax.evaluation.layers fsrcnn/x3.mat --output=filters.png
python -m sr_jax.evaluation.layers runs/srcnn --layer=conv2 --output=conv2.png
python -m sr_jax.evaluation.layers fsrcnn/x3.mat --image=bird.png \
  --output=maps.png

Filters are drawn each by itself, zero in grey; of colours as colours, else a
row for each output and a column for each input. Of sparse coding the atoms of
the dictionary are drawn that it restores with. With --image it is what the
layer makes of the picture's low-resolution version.
"""

import argparse
import math
import sys

import cv2
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from sr_jax.data.sources import read_image
from sr_jax.evaluation.benchmark import crop_to_multiple
from sr_jax.evaluation.networks import INTERPOLATIONS, Network, load_network
from sr_jax.files import check_target, write_whole
from sr_jax.models import SparseCoding, example_inputs, feature_maps
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize
from sr_jax.weights import tree

#: Tiles of a row, unless there are more than its square; inputs and outputs
#: that are drawn at most.
_IN_ROW, _MOST_PAIRS = 16, 16
#: Pixels that a tile is enlarged to at least; between tiles; of a picture.
_TILE, _GAP, _SIDE = 36, 2, 128
_WHITE = 255


def main(argv: list[str] | None = None) -> int:
  """Draws one picture; 2 and a message where it cannot."""
  parser = argparse.ArgumentParser(
    prog="python -m sr_jax.evaluation.layers",
    description="Draws filters, or feature maps of a picture.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("weights", help="as eval.py: a file, a workdir, or fsrcnn_x3")
  add("--output", required=True, help="the .png to write")
  add("--layer", help="its path, such as conv2; else the first")
  add("--image", help="a picture: its feature maps instead of filters")
  add("--scale", type=int, help="enlargement, where the file does not say it")
  arguments = parser.parse_args(argv)
  try:
    _run(arguments)
  except (OSError, ValueError) as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    return 2
  return 0


def _run(arguments: argparse.Namespace) -> None:
  output = epath.Path(arguments.output).expanduser()
  if output.suffix.lower() != ".png":
    raise ValueError(f"--output: '{output}' does not end in .png")
  check_target(output)
  if arguments.weights in INTERPOLATIONS:
    raise ValueError(f"'{arguments.weights}' has no layers")
  network = load_network(arguments.weights, scale=arguments.scale)
  if arguments.image:
    name, maps = _maps(network, arguments.image, arguments.layer)
    picture = draw_maps(maps)
    what = f"{maps.shape[-1]} feature maps of {name}, of the upper left "
    what += f"{_SIDE} x {_SIDE} pixels of the picture made small"
  else:
    name, kernel = _kernel(network, arguments.layer)
    picture = draw_filters(kernel)
    what = f"filters of {name}, {' x '.join(map(str, kernel.shape))}"
    if kernel.shape[2] not in (1, 3) and max(kernel.shape[2:]) > _MOST_PAIRS:
      what += f", of the first {_MOST_PAIRS} inputs and outputs"
  grey = np.all(picture == picture[..., :1])
  code = cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR
  small = [cv2.IMWRITE_PNG_COMPRESSION, 9]
  _, png = cv2.imencode(".png", cv2.cvtColor(picture, code), small)
  write_whole(output, png.tobytes())
  print(f"{output}: {what}")


def _maps(
  network: Network, image: str, layer: str | None
) -> tuple[str, Float[np.ndarray, "h w c"]]:
  """What a layer makes of a picture made small."""
  model = network.model
  scale = getattr(model, "scale", 1)
  hr = crop_to_multiple(read_image(epath.Path(image).expanduser()), scale)
  lr = np.asarray(imresize(hr / 255.0, 1 / scale), np.float32)
  lr = lr[:_SIDE, :_SIDE]
  inputs = []
  for example in example_inputs(model):
    if len(example.shape) < 4:
      raise ValueError(f"a {type(model).__name__} takes no picture")
    size = getattr(model, "input_shape", lr.shape)[:2]
    given = np.asarray(imresize(lr, shape=size), np.float32)
    if example.shape[-1] == 1:
      given = np.asarray(rgb_to_y(given))
    inputs.append(jnp.broadcast_to(given, (*example.shape[:-3], *given.shape)))
  found = feature_maps(model, network.variables, *inputs)
  name = _chosen(layer, list(found))
  return name, np.asarray(found[name][0], np.float32)


def _kernel(
  network: Network, layer: str | None
) -> tuple[str, Float[np.ndarray, "kh kw c d"]]:
  """Of a layer; of stacked blocks the first one's."""
  flat = tree.flatten(network.variables)
  if isinstance(network.model, SparseCoding):
    high = flat["params/high"]
    side = 3 * network.model.scale
    name = _chosen(layer, ["high"])
    return name, _atoms(high, network.model.scale).reshape(side, side, 1, -1)
  kernels = {
    key.removeprefix("params/").removesuffix("/kernel"): value
    for key, value in flat.items()
    if key.endswith("/kernel") and value.ndim in (4, 5)
  }
  first = [
    x for x in ("conv_first", "feature", "conv1", "first/conv") if x in kernels
  ]
  order = first + [key for key in kernels if key not in first]
  name = _chosen(layer, order)
  kernel = kernels[name]
  return name, kernel if kernel.ndim == 4 else kernel[0]


def _atoms(high: np.ndarray, scale: int) -> np.ndarray:
  """Of [atoms, 3 x 3 cells of scale x scale], pixels by rows: [h, w, atoms]."""
  cells = high.reshape(-1, 3, 3, scale, scale).transpose(1, 3, 2, 4, 0)
  return cells.reshape(3 * scale, 3 * scale, -1)


def _chosen(layer: str | None, known: list[str]) -> str:
  if not known:
    raise ValueError("the network has no convolution whose output is known")
  if layer is None:
    return known[0]
  if layer not in known:
    raise ValueError(f"--layer: '{layer}' is not one of {known}")
  return layer


def draw_filters(
  kernel: Float[np.ndarray, "kh kw c d"],
) -> UInt8[np.ndarray, "h w 3"]:
  """A tile for each filter, from -largest to largest of its own.

  Args:
    kernel: HWIO. Of 1 or 3 inputs a filter is one tile, grey or in colours;
      else a row of them, for the first inputs and outputs.

  Returns:
    RGB.
  """
  if kernel.shape[2] not in (1, 3):
    kernel = kernel[:, :, :_MOST_PAIRS, :_MOST_PAIRS]
    columns = kernel.shape[2]
    tiles = kernel.transpose(3, 2, 0, 1).reshape(-1, *kernel.shape[:2], 1)
  else:
    count = kernel.shape[3]
    columns = min(max(_IN_ROW, math.isqrt(count)), count)
    tiles = kernel.transpose(3, 0, 1, 2)
  largest = np.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
  tiles = 0.5 + 0.5 * tiles / np.maximum(largest, np.finfo(np.float32).tiny)
  return _grid(tiles, columns)


def draw_maps(
  maps: Float[np.ndarray, "h w c"],
) -> UInt8[np.ndarray, "h2 w2 3"]:
  """A tile for each channel, its smallest value black and its largest white.

  Args:
    maps: What a layer gave.

  Returns:
    RGB.
  """
  tiles = maps.transpose(2, 0, 1)[..., None]
  low = tiles.min(axis=(1, 2), keepdims=True)
  spread = tiles.max(axis=(1, 2), keepdims=True) - low
  tiles = (tiles - low) / np.maximum(spread, np.finfo(np.float32).tiny)
  return _grid(tiles, min(_IN_ROW // 2, len(tiles)))


def _grid(
  tiles: Float[np.ndarray, "n h w c"], columns: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Rows of tiles on white, their pixels enlarged where they are small."""
  times = max(1, -(-_TILE // max(tiles.shape[1:3])))
  tiles = np.round(tiles * 255).astype(np.uint8)
  tiles = tiles.repeat(times, axis=1).repeat(times, axis=2)
  if tiles.shape[-1] == 1:
    tiles = tiles.repeat(3, axis=-1)
  count, height, width, _ = tiles.shape
  rows = -(-count // columns)
  shape = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
  picture = np.full(shape, _WHITE, np.uint8)
  for i, tile in enumerate(tiles):
    row, column = divmod(i, columns)
    top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
    picture[top : top + height, left : left + width] = tile
  return picture


if __name__ == "__main__":
  sys.exit(main())
