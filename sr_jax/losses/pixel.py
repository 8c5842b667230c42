"""Losses that compare pixel with pixel.

All take `weight` and `reduction` alike. The weighted mean divides by the sum of
the weights, so that a mask does not dilute the loss; a weight of one channel
counts for every channel of the image.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def l1(
  sr: Float[Array, "*b h w c"],
  hr: Float[Array, "*b h w c"],
  *,
  weight: Float[Array, "..."] | None = None,
  reduction: str = "mean",
) -> Float[Array, "..."]:
  """Absolute difference.

  Args:
    sr: Restored image.
    hr: Ground truth, same shape.
    weight: Factor of each pixel, of a shape that broadcasts to `sr`.
    reduction: "mean" (over the weights where there are any), "sum" or "none".

  Returns:
    A scalar, or an image for "none". The gradient is 0 where the two agree.

  Raises:
    ValueError: shapes that differ, a weight that does not broadcast, or an
      unknown reduction.

  Source: BasicSR `L1Loss`.
  """
  difference = _difference(sr, hr)
  # Not jnp.abs: its gradient at 0 is 1, which would push equal pixels apart.
  return _reduce(difference * jnp.sign(difference), weight, reduction)


def mse(
  sr: Float[Array, "*b h w c"],
  hr: Float[Array, "*b h w c"],
  *,
  weight: Float[Array, "..."] | None = None,
  reduction: str = "mean",
) -> Float[Array, "..."]:
  """Squared difference; arguments, result and errors as for `l1`.

  Source: BasicSR `MSELoss`.
  """
  return _reduce(jnp.square(_difference(sr, hr)), weight, reduction)


def charbonnier(
  sr: Float[Array, "*b h w c"],
  hr: Float[Array, "*b h w c"],
  *,
  eps: float = 1e-12,
  weight: Float[Array, "..."] | None = None,
  reduction: str = "mean",
) -> Float[Array, "..."]:
  """`sqrt((sr - hr)**2 + eps)`, the smooth L1 of the video networks.

  Args:
    sr: Restored image.
    hr: Ground truth, same shape.
    eps: Added to the square as it is; the paper's epsilon is its root.
    weight: As for `l1`.
    reduction: As for `l1`.

  Returns:
    As `l1`.

  Raises:
    ValueError: as `l1`, or eps is not positive (the gradient would be NaN
      where the two images agree).

  Source: Lai et al. 2017, eq. 4; BasicSR `CharbonnierLoss`.
  """
  if eps <= 0:
    raise ValueError(f"eps {eps} is not positive; 1e-12 is usual")
  smooth = jnp.sqrt(jnp.square(_difference(sr, hr)) + eps)
  return _reduce(smooth, weight, reduction)


def total_variation(
  image: Float[Array, "*b h w c"],
  *,
  weight: Float[Array, "..."] | None = None,
  reduction: str = "mean",
) -> Float[Array, ""]:
  """Absolute difference of neighbours, down the rows plus along them.

  Args:
    image: At least 2x2 pixels.
    weight: Factor of each pixel, of a shape that broadcasts to `image`; a
      difference takes that of its upper or left pixel.
    reduction: "mean" (of each direction, then added) or "sum".

  Returns:
    A scalar.

  Raises:
    ValueError: an image without neighbours, a weight that does not broadcast,
      or another reduction (the two directions differ in shape).

  Source: Rudin et al. 1992, anisotropic; BasicSR `WeightedTVLoss`.
  """
  if reduction not in ("mean", "sum"):
    raise ValueError(
      f"reduction '{reduction}' of total_variation is not 'mean' or 'sum'"
    )
  if image.ndim < 3 or min(image.shape[-3:-1]) < 2:
    raise ValueError(
      f"image {image.shape} has no neighbours; the rule is [..., height, "
      "width, channels] with at least 2x2 pixels"
    )
  if weight is None:
    down_weight = across_weight = None
  else:
    weight = _broadcast(weight, image.shape)
    down_weight = weight[..., :-1, :, :]
    across_weight = weight[..., :, :-1, :]
  down = l1(
    image[..., :-1, :, :],
    image[..., 1:, :, :],
    weight=down_weight,
    reduction=reduction,
  )
  across = l1(
    image[..., :, :-1, :],
    image[..., :, 1:, :],
    weight=across_weight,
    reduction=reduction,
  )
  return down + across


def _difference(sr: Array, hr: Array) -> Array:
  if sr.shape != hr.shape:
    raise ValueError(
      f"sr {sr.shape} and hr {hr.shape} differ; a loss compares pixel with "
      "pixel: check the scale, and the margin of the crop"
    )
  return sr - hr


def _broadcast(weight: Array, shape: tuple[int, ...]) -> Array:
  try:
    return jnp.broadcast_to(weight, shape)
  except ValueError:
    raise ValueError(
      f"weight {weight.shape} does not broadcast to the image's {shape}; give "
      "it the same shape, or 1 channel"
    ) from None


def _reduce(loss: Array, weight: Array | None, reduction: str) -> Array:
  if reduction not in ("mean", "sum", "none"):
    raise ValueError(f"reduction '{reduction}' is not 'mean', 'sum' or 'none'")
  if weight is not None:
    weight = _broadcast(weight, loss.shape)
    loss = loss * weight
  if reduction == "none":
    return loss
  if reduction == "mean":
    return loss.mean() if weight is None else loss.sum() / weight.sum()
  return loss.sum()
