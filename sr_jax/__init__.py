"""Image and video super-resolution in JAX/Flax."""
