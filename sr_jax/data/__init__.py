"""Training batches and evaluation images, from files to uint8 arrays."""

from sr_jax.data.benchmarks import NAMED_SETS
from sr_jax.data.pipeline import Loader, make_loader
from sr_jax.data.sources import Images, load_images, resolve

__all__ = [
  "NAMED_SETS",
  "Images",
  "Loader",
  "load_images",
  "make_loader",
  "resolve",
]
