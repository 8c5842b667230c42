"""What several tests of tables measure on."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two smooth pictures, one with a name that HTML must not swallow."""
  folder = tmp_path_factory.mktemp("pictures")
  rng = np.random.default_rng(0)
  for name in ("a", "b<i>"):
    small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
    small.resize((28, 26), Image.Resampling.BICUBIC).save(
      folder / f"{name}.png"
    )
  return folder
