"""Training batches, evaluation images and clips, from files to uint8 arrays."""

from sr_jax.data.benchmarks import NAMED_CLIPS, NAMED_SETS
from sr_jax.data.clips import Clips, load_clips, resolve_clips
from sr_jax.data.pipeline import Loader, make_loader
from sr_jax.data.sources import Images, load_images, resolve

__all__ = [
  "NAMED_CLIPS",
  "NAMED_SETS",
  "Clips",
  "Images",
  "Loader",
  "load_clips",
  "load_images",
  "make_loader",
  "resolve",
  "resolve_clips",
]
