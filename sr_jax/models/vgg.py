"""VGG19 (Simonyan & Zisserman, ICLR 2015): features by the name of a layer."""

import difflib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import Conv, he_init

#: Convolutions of each block: column E of the paper's table 1, without the
#: three dense layers.
_BLOCKS = (2, 2, 4, 4, 4)


def _block_layers(block: int, convs: int) -> list[str]:
  pairs = [
    f"{kind}{block}_{i}"
    for i in range(1, convs + 1)
    for kind in ("conv", "relu")
  ]
  return [*pairs, f"pool{block}"]


#: Every layer that has a name, in the order of computation.
LAYERS = [
  name
  for block, convs in enumerate(_BLOCKS, start=1)
  for name in _block_layers(block, convs)
]


def _max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """The largest of each 2x2; an odd last row or column is dropped.

  Of equal ones the first, row by row, has the gradient, and NaN is the largest,
  as in PyTorch. Not `nn.max_pool`: its gradient takes 20 times as long on a
  CPU.
  """

  def larger(a: Array, b: Array) -> Array:
    return jnp.where((b > a) | jnp.isnan(b), b, a)

  h, w = (size // 2 * 2 for size in x.shape[1:3])
  x = larger(x[:, :, 0:w:2], x[:, :, 1:w:2])
  return larger(x[:, 0:h:2], x[:, 1:h:2])


class VGG19(nn.Module, kw_only=True):
  """Features of an image for perceptual losses and metrics.

  Layers are `conv{b}_{i}` (before the activation, what ESRGAN compares),
  `relu{b}_{i}` (after it, what SRGAN compares) and `pool{b}`; b is 1 to 5, i 1
  to 2 in the first two blocks and 1 to 4 in the others. What comes after the
  last one asked for is not computed, and has no parameters.

  Attributes:
    layers: Names of the layers to return.
    in_channels: Of the image.
    widths: Channels of the five blocks.
    mean: Of the training images, RGB in [0, 1]; torchvision's weights take
      ImageNet's.
    std: The same.
    input_norm: Subtract `mean` and divide by `std` first.
    range_norm: Map an image in [-1, 1] to [0, 1] before that.
    dtype: Of the computation; parameters and the features are float32.

  Raises:
    ValueError: a layer that is not there, numbers of widths, mean or std that
      do not fit, or an image that is too small for the layers asked for.

  Source: Simonyan & Zisserman 2015, table 1, E; names and normalisation of
  BasicSR `VGGFeatureExtractor`.
  """

  layers: Sequence[str] = ("conv5_4",)
  in_channels: int = 3
  widths: Sequence[int] = (64, 128, 256, 512, 512)
  mean: Sequence[float] = (0.485, 0.456, 0.406)
  std: Sequence[float] = (0.229, 0.224, 0.225)
  input_norm: bool = True
  range_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w c"]
  ) -> dict[str, Float[Array, "b _ _ _"]]:
    last = self._last_layer()
    self._check_image(image, last)
    # float32 until here: bfloat16 would round the image to 8 bits and less.
    x = image.astype(jnp.float32)
    if self.range_norm:
      x = (x + 1.0) / 2.0
    if self.input_norm:
      mean = jnp.asarray(self.mean, jnp.float32)
      x = (x - mean) / jnp.asarray(self.std, jnp.float32)
    features = {}
    for name in LAYERS[: last + 1]:
      if name.startswith("conv"):
        width = self.widths[int(name[4]) - 1]
        x = Conv(width, 3, kernel_init=he_init(), dtype=self.dtype, name=name)(
          x
        )
      elif name.startswith("relu"):
        x = nn.relu(x)
      else:
        x = _max_pool(x)
      if name in self.layers:
        features[name] = x.astype(jnp.float32)
    return features

  def _last_layer(self) -> int:
    """Checks the attributes; the place of the last layer asked for."""
    if isinstance(self.layers, str) or not self.layers:
      raise ValueError(
        f"VGG19.layers {self.layers!r} names no layers; give a sequence of "
        "them, such as ('conv5_4',)"
      )
    for name in self.layers:
      if name not in LAYERS:
        close = difflib.get_close_matches(str(name), LAYERS, n=1, cutoff=0.0)
        raise ValueError(
          f"VGG19 has no layer '{name}'; did you mean '{close[0]}'? Layers are "
          "conv1_1 to conv5_4, relu1_1 to relu5_4 and pool1 to pool5"
        )
    if len(self.widths) != len(_BLOCKS):
      raise ValueError(
        f"VGG19.widths {tuple(self.widths)} must be {len(_BLOCKS)} numbers, "
        "one a block"
      )
    for key in ("mean", "std"):
      value = getattr(self, key)
      if self.input_norm and len(value) != self.in_channels:
        raise ValueError(
          f"VGG19.{key} {tuple(value)} must be one number for each of the "
          f"{self.in_channels} channels"
        )
    return max(LAYERS.index(name) for name in self.layers)

  def _check_image(self, image: jax.Array, last: int) -> None:
    if image.ndim != 4 or image.shape[-1] != self.in_channels:
      raise ValueError(
        f"VGG19 takes image as [batch, height, width, {self.in_channels}], got "
        f"shape {image.shape}; a single image is image[None]"
      )
    if not jnp.issubdtype(image.dtype, jnp.floating):
      span = "[-1, 1]" if self.range_norm else "[0, 1]"
      raise ValueError(
        f"image is {image.dtype}; VGG19 takes floats in {span}: divide by 255"
      )
    pools = sum(name.startswith("pool") for name in LAYERS[: last + 1])
    if min(image.shape[1:3]) < 2**pools:
      raise ValueError(
        f"image {image.shape} is too small for '{LAYERS[last]}', which comes "
        f"after {pools} halvings: it takes at least {2**pools} pixels a side"
      )
