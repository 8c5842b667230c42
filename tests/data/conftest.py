"""Folders of synthetic images and clips, and a cache that the test owns."""

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


@pytest.fixture
def write_clips(
  tmp_path: pathlib.Path,
) -> Callable[..., tuple[pathlib.Path, list[np.ndarray]]]:
  """Writes clips of the given (frames, height, width).

  Red and green are noise, the same in all frames of a clip; blue is the number
  of the frame. So a crop says where it is from, and when.
  """

  def write(*sizes: tuple[int, int, int], folder: str = "clips of mine"):
    rng = np.random.Generator(np.random.Philox(key=len(sizes)))
    clips = []
    for i, (length, height, width) in enumerate(sizes):
      path = tmp_path / folder / f"clip{i}"
      path.mkdir(parents=True, exist_ok=True)
      picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
      clip = picture[None].repeat(length, axis=0)
      clip[..., 2] = np.arange(length)[:, None, None]
      for t, frame in enumerate(clip):
        assert cv2.imwrite(str(path / f"{t}.png"), frame[..., ::-1])
      clips.append(clip)
    return tmp_path / folder, clips

  return write
