"""MATLAB's bicubic downsampling of a crop, exact up to the crop's border."""

from jaxtyping import Float

from sr_jax.ops.resize import imresize
from sr_jax.types import AnyArray

#: Low-resolution pixels of context that a crop needs on each side so that
#: its low-resolution image equals the crop of the whole one: the antialiased
#: cubic kernel reaches two of them.
MARGIN = 2


def drop_margin(
  image: Float[AnyArray, "*b h w c"], pixels: int
) -> Float[AnyArray, "*b h2 w2 c"]:
  """Cuts `pixels` from each of the four sides."""
  if pixels == 0:
    return image
  return image[..., pixels:-pixels, pixels:-pixels, :]


def check_crop(
  hr: Float[AnyArray, "*b h w c"], *, scale: int, margin: int
) -> None:
  """Refuses a crop that cannot be downsampled.

  Raises:
    ValueError: a size is no multiple of scale, or the margin eats it all.
  """
  height, width = hr.shape[-3:-1]
  if height % scale or width % scale:
    raise ValueError(
      f"hr ({height}, {width}) is not a multiple of scale {scale}; crop it to "
      f"({height // scale * scale}, {width // scale * scale}) first"
    )
  if min(height, width) <= 2 * margin * scale:
    raise ValueError(
      f"hr ({height}, {width}) leaves nothing inside a margin of {margin} "
      f"low-resolution pixels at scale {scale}; cut a larger crop"
    )


def round_levels(
  levels: Float[AnyArray, "*b h w c"],
) -> Float[AnyArray, "*b h w c"]:
  """Clips to [0, 255] and rounds, half a level up.

  As MATLAB's uint8() does; `round` would go to the even level.
  """
  xp = levels.__array_namespace__()
  return xp.floor(xp.clip(levels, 0.0, 255.0) + 0.5)


def bicubic(
  hr: Float[AnyArray, "*b h w c"],
  *,
  scale: int,
  margin: int = 0,
  quantize: bool = True,
) -> Float[AnyArray, "*b h2 w2 c"]:
  """The low-resolution images of the papers, made from a crop.

  With `margin=MARGIN` the result equals, to the 8-bit level, the same crop of
  the image that MATLAB would have made offline from the whole picture. For
  that the host cuts the crop at a multiple of `scale`, with `margin * scale`
  more pixels on each side, out of the symmetrically padded image.

  Args:
    hr: Ground truth with its margin, [0, 1]: images, or clips `[b, t, ...]`.
      NumPy arrays are computed in float64.
    scale: Factor between the two; height and width are multiples of it.
    margin: Low-resolution pixels to drop from each side of the result.
    quantize: Clip and round to 8 bits, as an image file would hold it.

  Returns:
    `[..., h / scale - 2 * margin, w / scale - 2 * margin, c]`, [0, 1] where
    quantised (the cubic kernel overshoots otherwise).

  Raises:
    ValueError: a size is no multiple of scale, or the margin eats it all.

  Source: MATLAB imresize; the DIV2K `LR_bicubic` folders.
  """
  check_crop(hr, scale=scale, margin=margin)
  # In levels: at x2 the kernel's weights are multiples of 1/256, so that levels
  # halfway between two come out exactly, in float32 as in float64.
  levels = drop_margin(imresize(hr * 255.0, 1 / scale), margin)
  return (round_levels(levels) if quantize else levels) / 255.0
