"""Losses that compare features of the images: perceptual and style."""

import difflib
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.losses.norms import l2_norm
from sr_jax.losses.pixel import l1, mse

Features = Mapping[str, Float[Array, "b _ _ _"]]

_CRITERIA: dict[str, Callable[[Array, Array], Array]] = {
  "l1": l1,
  "l2": mse,
  "fro": lambda sr, hr: l2_norm(sr - hr),
}


def perceptual(
  sr: Float[Array, "b h w c"],
  hr: Float[Array, "b h w c"],
  *,
  features_fn: Callable[[Array], Features],
  layer_weights: Mapping[str, float],
  perceptual_weight: float = 1.0,
  style_weight: float = 0.0,
  criterion: str = "l1",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Distance of the features of two images, and of their Gram matrices.

  ESRGAN compares VGG19's conv5_4 (before the activation) by "l1", weight 1.
  The SRGAN paper's content loss is the mean squared error of relu5_4 (after
  it), features divided by 12.75. The square of that goes into the weight:
  `layer_weights={"relu5_4": 0.006}, criterion="l2"` (1 / 12.75**2 = 0.00615,
  which the paper rounds).

  Args:
    sr: Restored image, in the range that `features_fn` takes.
    hr: Ground truth, same shape and range; no gradient goes into it.
    features_fn: Image to features by name of the layer, such as
      `lambda image: vgg.apply(variables, image)`.
    layer_weights: Factor of each layer; the layers are added.
    perceptual_weight: Factor of the first result.
    style_weight: Factor of the second.
    criterion: "l1" or "l2" (mean absolute or squared difference), or "fro":
      the root of the sum of squares over the whole batch. That one is not a
      mean and grows with batch and image. Its gradient is 0 where the two
      agree.

  Returns:
    The perceptual and the style term, weighted; 0 where the weight is 0.

  Raises:
    ValueError: shapes that differ, no layer, a layer that `features_fn` does
      not return, a weight that is negative or not finite, or an unknown
      criterion.

  Source: Johnson et al. 2016, eq. 2 to 4; Ledig et al. 2017, eq. 5 and
  sec. 3.2; BasicSR `PerceptualLoss`.
  """
  if criterion not in _CRITERIA:
    raise ValueError(f"criterion '{criterion}' is not one of {list(_CRITERIA)}")
  if not layer_weights:
    raise ValueError(
      "layer_weights is empty; name the layers, such as {'conv5_4': 1.0}"
    )
  for name, weight in (
    ("perceptual_weight", perceptual_weight),
    ("style_weight", style_weight),
    *((f"layer_weights.{k}", v) for k, v in layer_weights.items()),
  ):
    if not 0 <= weight < math.inf:
      raise ValueError(
        f"{name} {weight} must be finite and not negative; 0 leaves the term "
        "out"
      )
  if sr.shape != hr.shape:
    raise ValueError(
      f"sr {sr.shape} and hr {hr.shape} differ; a perceptual loss compares "
      "images of one size: check the scale, and the margin of the crop"
    )
  zero = jnp.zeros((), jnp.float32)
  if not perceptual_weight and not style_weight:
    return zero, zero
  ours = features_fn(sr)
  for layer in layer_weights:
    if layer not in ours:
      known = sorted(ours)
      close = difflib.get_close_matches(layer, known, n=1, cutoff=0.0)
      hint = f"; did you mean '{close[0]}'?" if close else ""
      raise ValueError(
        f"layer_weights has '{layer}', but features_fn returns {known}{hint}"
      )
  theirs = jax.lax.stop_gradient(features_fn(hr))
  distance = _CRITERIA[criterion]

  def total(transform: Callable[[Array], Array]) -> Array:
    return sum(
      (
        weight * distance(transform(ours[layer]), transform(theirs[layer]))
        for layer, weight in layer_weights.items()
      ),
      start=zero,
    )

  content = (
    perceptual_weight * total(lambda x: x) if perceptual_weight else zero
  )
  style = style_weight * total(_gram) if style_weight else zero
  return content, style


def _gram(features: Float[Array, "b h w c"]) -> Float[Array, "b c c"]:
  """Products of the channels, averaged: Johnson et al. 2016, eq. 3."""
  _, h, w, c = features.shape
  # No bfloat16 products on a TPU: differences of large sums are compared.
  products = jnp.einsum(
    "bhwi,bhwj->bij", features, features, precision=jax.lax.Precision.HIGHEST
  )
  return products / (c * h * w)
