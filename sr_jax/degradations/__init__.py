"""From ground truth to network input, on the device, inside the step."""

from sr_jax.degradations.bicubic import MARGIN, bicubic, drop_margin
from sr_jax.degradations.blur_downsample import (
  BD_MARGIN,
  DUF_MARGIN,
  bd,
  blur_downsample,
  duf,
)
from sr_jax.degradations.table import DEGRADATIONS, Degradation, find

__all__ = [
  "BD_MARGIN",
  "DEGRADATIONS",
  "DUF_MARGIN",
  "MARGIN",
  "Degradation",
  "bd",
  "bicubic",
  "blur_downsample",
  "drop_margin",
  "duf",
  "find",
]
