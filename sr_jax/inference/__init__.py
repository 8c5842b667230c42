"""A network over whole images of any sizes, and over clips."""

from sr_jax.inference.frames import kind, restore_clip
from sr_jax.inference.images import super_resolve

__all__ = ["kind", "restore_clip", "super_resolve"]
