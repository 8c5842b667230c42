"""Folders of synthetic images, and a cache of builds that the test owns."""

import pathlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.delenv("SR_JAX_DATA", raising=False)


@pytest.fixture
def write_images(
  tmp_path: pathlib.Path,
) -> Callable[..., tuple[pathlib.Path, list[np.ndarray]]]:
  """Writes noise images of the given sizes; returns the folder and them."""

  def write(*sizes: tuple[int, int], folder: str = "photos of mine"):
    rng = np.random.Generator(np.random.Philox(key=len(sizes)))
    path = tmp_path / folder
    path.mkdir(parents=True, exist_ok=True)
    images = []
    for i, (height, width) in enumerate(sizes):
      image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
      assert cv2.imwrite(str(path / f"{i:03d}.png"), image[..., ::-1])
      images.append(image)
    return path, images

  return write
