"""What training minimises: plain functions of arrays."""

from sr_jax.losses.adversarial import (
  adversarial,
  gradient_penalty,
  r1_penalty,
  relativistic_discriminator,
  relativistic_generator,
)
from sr_jax.losses.perceptual import perceptual
from sr_jax.losses.pixel import charbonnier, l1, mse, total_variation

__all__ = [
  "adversarial",
  "charbonnier",
  "gradient_penalty",
  "l1",
  "mse",
  "perceptual",
  "r1_penalty",
  "relativistic_discriminator",
  "relativistic_generator",
  "total_variation",
]
