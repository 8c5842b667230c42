"""A network over whole images of any sizes, and over clips of any length."""

from sr_jax.inference.clips import ClipMemory, super_resolve_clip
from sr_jax.inference.frames import kind, restore_clip
from sr_jax.inference.images import super_resolve
from sr_jax.inference.pictures import upscale, with_chroma

__all__ = [
  "ClipMemory",
  "kind",
  "restore_clip",
  "super_resolve",
  "super_resolve_clip",
  "upscale",
  "with_chroma",
]
