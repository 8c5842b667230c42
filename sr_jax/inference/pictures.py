"""One picture, as people have them: 8 bits, in colours, in and out."""

from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from sr_jax.inference.frames import kind
from sr_jax.inference.images import super_resolve
from sr_jax.ops.color import (
  rgb_to_y,
  rgb_to_ycbcr,
  to_8_bits,
  to_float,
  ycbcr_to_rgb,
)
from sr_jax.ops.resize import imresize
from sr_jax.types import AnyArray, Variables


def upscale(
  model: Any,
  variables: Variables,
  image: AnyArray,
  *,
  mesh: Mesh | None = None,
) -> UInt8[np.ndarray, "h2 w2 *c"]:
  """One picture, as people have them, enlarged.

  A network of one channel restores Y; the colours are interpolated, as the
  papers show their results.

  Args:
    model: A network of still images, for Y or for RGB.
    variables: Its variables.
    image: RGB `[h, w, 3]`, or grey, `[h, w]` or `[h, w, 1]`, for a network of
      one channel; uint8, or float in [0, 1]. (OpenCV reads BGR: `[..., ::-1]`.)
    mesh: As for `super_resolve`.

  Returns:
    8 bits, of as many axes and channels as `image`.

  Raises:
    ValueError: a network of clips or one that enlarges nothing, a grey image
      for an RGB network, or an image of another shape or type.
  """
  name = type(model).__name__
  if kind(model) != "image":
    raise ValueError(f"{name} restores clips; give restore_clip their frames")
  if not hasattr(model, "scale"):
    raise ValueError(f"{name} enlarges nothing; give a generator")
  given = to_float(np.asarray(image))
  pixels = given[..., None] if given.ndim == 2 else given
  if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
    raise ValueError(
      f"image has shape {given.shape}; the rule is [h, w, 3] in RGB, or grey "
      "as [h, w] or [h, w, 1]"
    )
  colour = pixels.shape[-1] == 3
  channels = getattr(model, "in_channels", pixels.shape[-1])
  if channels == 3 and not colour:
    raise ValueError(
      "image is grey and the network takes RGB; give it three times over: "
      "np.repeat(image.reshape(h, w, 1), 3, axis=-1)"
    )
  lr = rgb_to_y(pixels) if colour and channels == 1 else pixels
  sr = super_resolve(model, variables, [np.asarray(lr)], mesh=mesh)[0]
  if colour and channels == 1:
    sr = in_colours_of(imresize(pixels, shape=sr.shape[:2]), sr)
  return to_8_bits(sr.reshape(*sr.shape[:2], *given.shape[2:]))


def in_colours_of(
  image: Float[AnyArray, "h w 3"], luma: Float[AnyArray, "h w 1"]
) -> Float[np.ndarray, "h w 3"]:
  """RGB with the chroma of one image and the Y of another; not clipped."""
  chroma = np.asarray(rgb_to_ycbcr(np.asarray(image)))[..., 1:]
  return ycbcr_to_rgb(np.concatenate([np.asarray(luma), chroma], axis=-1))
