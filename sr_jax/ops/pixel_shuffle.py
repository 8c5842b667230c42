"""Channels to space and back, in PyTorch's channel order."""

from jaxtyping import Shaped

from sr_jax.types import AnyArray


def pixel_shuffle(
  x: Shaped[AnyArray, "*b h w c"], scale: int
) -> Shaped[AnyArray, "*b h2 w2 c2"]:
  """Spreads groups of `scale * scale` channels over as many pixels.

  Args:
    x: Feature map; channel `c * scale**2 + dy * scale + dx` becomes channel
      `c` of pixel `(dy, dx)` of each block.
    scale: Enlargement.

  Returns:
    `[*b, h * scale, w * scale, c / scale**2]`.

  Raises:
    ValueError: scale is not a positive int, or its square does not divide c.

  Source: Shi et al. 2016, eq. 4; order of `torch.nn.PixelShuffle`.
  """
  _check(x, scale)
  *batch, h, w, c = x.shape
  if c % scale**2:
    raise ValueError(
      f"x has {c} channels, no multiple of scale**2 = {scale**2}; give the "
      "layer before it scale**2 times the output channels"
    )
  n, c = len(batch), c // scale**2
  x = x.reshape(*batch, h, w, c, scale, scale)
  x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
  return x.reshape(*batch, h * scale, w * scale, c)


def pixel_unshuffle(
  x: Shaped[AnyArray, "*b h w c"], scale: int
) -> Shaped[AnyArray, "*b h2 w2 c2"]:
  """The inverse of `pixel_shuffle`: each block of pixels becomes channels.

  Args:
    x: Image or feature map.
    scale: Reduction.

  Returns:
    `[*b, h / scale, w / scale, c * scale**2]`.

  Raises:
    ValueError: scale is not a positive int, or does not divide h and w.

  Source: `torch.nn.PixelUnshuffle`.
  """
  _check(x, scale)
  *batch, h, w, c = x.shape
  if h % scale or w % scale:
    raise ValueError(
      f"x ({h}, {w}) is not a multiple of scale {scale}; crop or pad it first"
    )
  n, h, w = len(batch), h // scale, w // scale
  x = x.reshape(*batch, h, scale, w, scale, c)
  x = x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
  return x.reshape(*batch, h, w, c * scale**2)


def _check(x: AnyArray, scale: int) -> None:
  if not isinstance(scale, int) or scale < 1:
    raise ValueError(f"scale {scale!r} is not a positive int")
  if x.ndim < 3:
    raise ValueError(
      f"x has shape {x.shape}; the rule is [..., height, width, channels]"
    )
