"""One picture, as people have them: 8 bits, in colours, in and out."""

import os
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from sr_jax.inference.frames import kind
from sr_jax.inference.images import super_resolve
from sr_jax.ops.color import rgb_to_ycbcr, to_8_bits, to_float, ycbcr_to_rgb
from sr_jax.ops.resize import imresize
from sr_jax.types import Variables

#: Rows that are converted at a time.
_BAND = 256
#: How far beyond [0, 1] a picture in floats may go: interpolation leaves it.
_SLACK = 0.5


def upscale(
  model: Any,
  variables: Variables,
  image: Any,
  *,
  mesh: Mesh | None = None,
) -> UInt8[np.ndarray, "h2 w2 *c"]:
  """One picture, as people have them, enlarged.

  A network of one channel restores Y; the colours are interpolated, as the
  papers show their results. The network sees the picture whole: it takes the
  memory of its features at that size, and beside it some 40 bytes for each
  pixel of the result.

  Args:
    model: A network of still images, for Y or for RGB.
    variables: Its variables.
    image: Array, RGB `[h, w, 3]`, or grey, `[h, w]` or `[h, w, 1]`, for a
      network of one channel; uint8, or float in [0, 1]. (OpenCV reads BGR:
      `[..., ::-1]`.)
    mesh: As for `super_resolve`.

  Returns:
    8 bits, of as many axes and channels as `image`.

  Raises:
    ValueError: a network of clips, or one that enlarges no images; a grey image
      for an RGB network; an image of another shape, type or range, or without
      pixels; variables that are none.
  """
  name = type(model).__name__
  if kind(model) != "image":
    raise ValueError(f"{name} restores clips; give restore_clip their frames")
  _check_given(variables, image)
  image = np.asarray(image)
  pixels = image[..., None] if image.ndim == 2 else image
  if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
    raise ValueError(
      f"image has shape {image.shape}; the rule is [h, w, 3] in RGB, or grey "
      "as [h, w] or [h, w, 1]"
    )
  given = pixels.shape[-1]
  channels = getattr(model, "in_channels", given)
  if not hasattr(model, "scale") or (
    getattr(model, "out_channels", channels) != channels
  ):
    raise ValueError(f"{name} does not enlarge images; give a generator")
  if channels == 3 and given == 1:
    raise ValueError(
      "image is grey and the network takes RGB; give it three times over: "
      "np.repeat(image.reshape(h, w, 1), 3, axis=-1)"
    )
  pixels = to_float(pixels).astype(np.float32)
  low, high = pixels.min(), pixels.max()
  if not (low >= -_SLACK and high <= 1 + _SLACK):
    raise ValueError(
      f"image goes from {low:g} to {high:g}; the rule is uint8, or float in "
      "[0, 1]: divide by the largest value there can be (255, 65535)"
    )
  chroma = None
  if given == 3 and channels == 1:
    pixels, chroma = np.split(rgb_to_ycbcr(pixels), [1], axis=-1)
  sr = super_resolve(model, variables, [np.asarray(pixels)], mesh=mesh)[0]
  if chroma is not None:
    chroma = np.asarray(imresize(chroma, shape=sr.shape[:2]))
  return with_chroma(sr, chroma).reshape(*sr.shape[:2], *image.shape[2:])


def _check_given(variables: Variables, image: Any) -> None:
  """What is easily mistaken."""
  if image is None:
    raise ValueError("image is None: cv2.imread gives that of no readable file")
  if isinstance(image, str | os.PathLike):
    raise ValueError(f"image is the path {image}; give the picture, an array")
  if "params" in variables or not variables:
    return
  raise ValueError(
    f"variables are {list(variables)}; the rule is a dict with 'params', as "
    "weights.load gives it"
  )


def with_chroma(
  image: Float[np.ndarray, "h w c"], chroma: Float[np.ndarray, "h w 2"] | None
) -> UInt8[np.ndarray, "h w d"]:
  """Y with the chroma of another picture; or an image without, as it is.

  Args:
    image: Y in [16/255, 235/255], or any image where there is no chroma.
    chroma: Cb and Cr as `ops.color.rgb_to_ycbcr` has them, or None.

  Returns:
    8 bits; RGB where there is chroma.
  """
  bands = []
  for start in range(0, len(image), _BAND):
    band = image[start : start + _BAND]
    if chroma is not None:
      both = [band, chroma[start : start + _BAND]]
      band = ycbcr_to_rgb(np.concatenate(both, axis=-1))
    bands.append(to_8_bits(band))
  return np.concatenate(bands)
