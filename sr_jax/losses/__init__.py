"""What training minimises: plain functions of arrays."""

from sr_jax.losses.pixel import charbonnier, l1, mse, total_variation

__all__ = ["charbonnier", "l1", "mse", "total_variation"]
