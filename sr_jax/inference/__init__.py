"""A network over whole images of any sizes."""

from sr_jax.inference.images import super_resolve

__all__ = ["super_resolve"]
