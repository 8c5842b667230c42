"""The adversarial game: what discriminator and generator minimise.

All take logits, of any shape (one a sample, or one a pixel), and return an
unweighted scalar: the caller multiplies, BasicSR only in the generator's loss.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.losses.norms import l2_norm

_KINDS = ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge")
_NORMS = ("pixel", "sample")


def adversarial(
  logits: Float[Array, "..."] | Sequence[Float[Array, "..."]],
  *,
  real: bool,
  for_discriminator: bool,
  kind: str = "vanilla",
  real_label: float = 1.0,
  fake_label: float = 0.0,
) -> Float[Array, ""]:
  """How far logits are from what they should say.

  The discriminator calls it on its logits of real images with `real`, on those
  of restored ones without. The generator calls it on restored ones with `real`.

  Args:
    logits: Of the discriminator, unbounded; several arrays (of a multi-scale
      discriminator) are averaged, each counting the same.
    real: Whether the logits should say "real".
    for_discriminator: Whose loss it is. Only "hinge" asks: the generator's is
      `-mean(logits)`, whatever `real` says.
    kind: "vanilla" (cross-entropy), "lsgan" (squared distance from the label),
      "wgan" (-+ logits), "wgan_softplus" (softplus of that; StyleGAN2's), or
      "hinge".
    real_label: Target of real images; below 1 it is a soft label. Only
      "vanilla" and "lsgan" have targets; the others ignore it.
    fake_label: Target of restored images, likewise.

  Returns:
    The mean over all logits.

  Raises:
    ValueError: an unknown kind, or no logits.

  Source: Goodfellow et al. 2014; Mao et al. 2017, eq. 2; Arjovsky et al. 2017;
  Lim & Ye 2017; BasicSR `GANLoss` and `MultiScaleGANLoss`.
  """
  if kind not in _KINDS:
    raise ValueError(f"kind '{kind}' is not one of {list(_KINDS)}")
  scales = list(logits) if isinstance(logits, Sequence) else [logits]
  if not scales:
    raise ValueError(
      "logits is empty; give an array, or one for each scale of the "
      "discriminator"
    )
  label = real_label if real else fake_label
  sign = -1.0 if real else 1.0

  def loss(x: Array) -> Array:
    x = jnp.asarray(x, jnp.float32)
    if kind == "vanilla":
      # In this form neither a large logit nor its loss loses digits.
      each = label * jax.nn.softplus(-x) + (1.0 - label) * jax.nn.softplus(x)
    elif kind == "lsgan":
      each = jnp.square(x - label)
    elif kind == "wgan":
      each = sign * x
    elif kind == "wgan_softplus":
      each = jax.nn.softplus(sign * x)
    elif for_discriminator:
      each = jax.nn.relu(1.0 + sign * x)
    else:
      each = -x
    return each.mean()

  return sum((loss(x) for x in scales), start=jnp.zeros(())) / len(scales)


def relativistic_generator(
  real_logits: Float[Array, "..."],
  fake_logits: Float[Array, "..."],
  *,
  kind: str = "vanilla",
  real_label: float = 1.0,
  fake_label: float = 0.0,
) -> Float[Array, ""]:
  """The generator's loss: real images less, its own more real than average.

  Args:
    real_logits: Of real images; no gradient goes into them.
    fake_logits: Of restored images.
    kind: As for `adversarial`, but for "hinge".
    real_label: As for `adversarial`.
    fake_label: As for `adversarial`.

  Returns:
    The mean of the two terms.

  Raises:
    ValueError: an unknown kind, or "hinge": the two terms of BasicSR's hinge
      cancel, and the generator would learn nothing.

  Source: Wang et al. 2018 (ESRGAN), eq. 2; BasicSR `ESRGANModel`.
  """
  if kind == "hinge":
    raise ValueError(
      "kind 'hinge' has no relativistic generator loss: its terms, -mean(real "
      "- mean(fake)) and -mean(fake - mean(real)), cancel; take 'vanilla'"
    )
  real_logits = jax.lax.stop_gradient(real_logits)
  terms = [
    adversarial(
      logits - other.mean(),
      real=real,
      for_discriminator=False,
      kind=kind,
      real_label=real_label,
      fake_label=fake_label,
    )
    for logits, other, real in (
      (real_logits, fake_logits, False),
      (fake_logits, real_logits, True),
    )
  ]
  return (terms[0] + terms[1]) / 2.0


def relativistic_discriminator(
  logits: Float[Array, "..."],
  other_logits: Float[Array, "..."],
  *,
  real: bool,
  kind: str = "vanilla",
  real_label: float = 1.0,
  fake_label: float = 0.0,
) -> Float[Array, ""]:
  """One of the two terms of the discriminator's loss; their sum is the loss.

  No gradient goes into the other side's logits, so this is not ESRGAN's eq. 1
  differentiated whole. The two terms may have logits of different forward
  passes: BasicSR runs the discriminator on the restored images twice.

  Args:
    logits: Of real images with `real`, of restored ones without.
    other_logits: Of the other side, whose mean is subtracted.
    real: Which side `logits` are.
    kind: As for `adversarial`.
    real_label: As for `adversarial`.
    fake_label: As for `adversarial`.

  Returns:
    Half the adversarial loss of `logits - mean(other_logits)`.

  Raises:
    ValueError: an unknown kind.

  Source: Wang et al. 2018 (ESRGAN), eq. 1; BasicSR `ESRGANModel`.
  """
  return 0.5 * adversarial(
    logits - jax.lax.stop_gradient(other_logits).mean(),
    real=real,
    for_discriminator=True,
    kind=kind,
    real_label=real_label,
    fake_label=fake_label,
  )


def gradient_penalty(
  discriminator_fn: Callable[[Array], Float[Array, "..."]],
  real: Float[Array, "b h w c"],
  fake: Float[Array, "b h w c"],
  *,
  alpha: Float[Array, "b 1 1 1"],
  norm: str,
  mask: Float[Array, "b h w _"] | None = None,
) -> Float[Array, ""]:
  """Keeps the slope of the discriminator near 1 between real and fake.

  Args:
    discriminator_fn: Images to logits, each of its image alone: no BatchNorm
      in training mode.
    real: Real images.
    fake: Restored images, same shape and range; no gradient goes into either.
    alpha: Share of the real image in each mixture, uniform in [0, 1].
    norm: "sample" is the paper's: the slope of a whole sample is near 1.
      "pixel" is BasicSR's and MMEditing's: the norm is over the channels of
      each pixel, which asks for a far steeper discriminator.
    mask: Factor of the gradient at each pixel, of 1 or c channels. "pixel"
      then divides by its mean, so that it does not dilute the penalty.

  Returns:
    The mean of `(slope - 1)**2`; the paper's factor is 10.

  Raises:
    ValueError: an unknown norm, or shapes that do not belong together.

  Source: Gulrajani et al. 2017, eq. 3; BasicSR `gradient_penalty_loss`; mask
  as in Yu et al. 2018, eq. 4.
  """
  if norm not in _NORMS:
    raise ValueError(
      f"norm '{norm}' is not one of {list(_NORMS)}; 'sample' is the paper's, "
      "'pixel' BasicSR's"
    )
  if real.shape != fake.shape or real.ndim != 4:
    raise ValueError(
      f"real {real.shape} and fake {fake.shape} must be [batch, height, width, "
      "channels], of one shape: the penalty mixes them"
    )
  if alpha.shape != (real.shape[0], 1, 1, 1):
    raise ValueError(
      f"alpha {alpha.shape} must be {(real.shape[0], 1, 1, 1)}, one number a "
      "sample"
    )
  if mask is not None and mask.shape not in ((*real.shape[:3], 1), real.shape):
    raise ValueError(
      f"mask {mask.shape} must be {(*real.shape[:3], 1)}, or of the shape of "
      f"real, {real.shape}"
    )
  mixed = jax.lax.stop_gradient(alpha * real + (1.0 - alpha) * fake)
  slope = _slope(discriminator_fn, mixed)
  if mask is not None:
    slope = slope * mask
  axis = -1 if norm == "pixel" else (1, 2, 3)
  penalty = jnp.square(l2_norm(slope, axis=axis) - 1.0).mean()
  if mask is not None and norm == "pixel":
    penalty = penalty / mask.mean()
  return penalty


def r1_penalty(
  discriminator_fn: Callable[[Array], Float[Array, "..."]],
  real: Float[Array, "b h w c"],
) -> Float[Array, ""]:
  """Squared slope of the discriminator at real images.

  Args:
    discriminator_fn: As for `gradient_penalty`.
    real: Real images; no gradient goes into them.

  Returns:
    The squares summed over each sample, averaged over the batch. The paper's
    factor, gamma / 2, is the caller's.

  Source: Mescheder et al. 2018, eq. 9; BasicSR `r1_penalty`.
  """
  slope = _slope(discriminator_fn, jax.lax.stop_gradient(real))
  return jnp.square(slope).sum((1, 2, 3)).mean()


def _slope(
  discriminator_fn: Callable[[Array], Array], images: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
  return jax.grad(lambda x: discriminator_fn(x).sum())(images)
