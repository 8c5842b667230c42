"""From ground truth to network input, on the device, inside the step."""

from sr_jax.degradations.bicubic import MARGIN, bicubic, drop_margin

__all__ = ["MARGIN", "bicubic", "drop_margin"]
