"""Sets, folders and pairs found; pixels read; one message for each mistake."""

import dataclasses
import os
import pathlib

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image

from sr_jax import data
from sr_jax.data import sources


def _touch(folder: pathlib.Path, count: int, suffix: str = ".png") -> None:
  folder.mkdir(parents=True)
  for i in range(count):
    image = np.full((8, 8, 3), i % 256, np.uint8)
    cv2.imwrite(str(folder / f"{i:04d}{suffix}"), image)


def test_folder_in_order_of_names(write_images):
  folder, images = write_images((8, 9), (10, 11))
  (folder / "notes.txt").write_text("not an image")
  (folder / "._000.png").write_text("a Mac's shadow file")
  found = data.load_images(str(folder))
  assert [name for name, _ in found] == ["000", "001"]
  for (_, image), expected in zip(found, images, strict=True):
    np.testing.assert_array_equal(image, expected)
  assert [name for name, _ in found[1:]] == ["001"]


def test_home_and_plus_in_a_folder_name(write_images, monkeypatch):
  folder, _ = write_images((8, 8), folder="a+b")
  monkeypatch.setenv("HOME", str(folder.parent))
  assert len(data.load_images(str(folder))) == 1
  assert len(data.load_images("~/a+b")) == 1
  assert len(data.load_images(f"{folder}")) == 1


def test_joined(write_images):
  one, _ = write_images((8, 8), folder="one")
  two, _ = write_images((8, 8), (8, 8), folder="two")
  found = data.resolve(f"{one}+{two}")
  assert [len(source.hr) for source in found] == [1, 2]
  assert len(data.load_images(f"{one}+{two}")) == 3


def test_unknown_name_suggests_the_nearest():
  with pytest.raises(FileNotFoundError, match=r"'sett5' is neither.*'set5'"):
    data.load_images("sett5")
  with pytest.raises(FileNotFoundError, match=r"/no/such/photos.*neither"):
    data.load_images("/no/such/photos")
  with pytest.raises(ValueError, match="split 'valid'"):
    data.load_images("photos", split="valid")


def test_empty_folder_names_its_subfolders(tmp_path):
  with pytest.raises(ValueError, match=r"holds no images .*\.png"):
    data.load_images(str(tmp_path))
  _touch(tmp_path / "HR", 1)
  with pytest.raises(ValueError, match=r"subfolders \['HR'\] do"):
    data.load_images(str(tmp_path))


def test_named_set_from_argument_or_environment(tmp_path, monkeypatch):
  _touch(tmp_path / "sET5", 5, ".bmp")
  assert len(data.load_images("Set5", data_dir=tmp_path)) == 5
  monkeypatch.setenv("SR_JAX_DATA", str(tmp_path))
  assert len(data.load_images("set5")) == 5
  assert data.resolve("SET5")[0].name == "set5"


def test_missing_set_says_where_to_get_it(tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    data.load_images("urban100", data_dir=tmp_path / "nowhere")
  message = str(error.value)
  assert "https://" in message
  assert f"100 images (PNG, JPEG, WebP, BMP or TIFF) into {tmp_path}" in message
  assert "SR_JAX_DATA" in message
  with pytest.raises(FileNotFoundError, match="DF2K_HR"):
    data.load_images("df2k", data_dir=tmp_path)


def test_incomplete_set_is_refused(tmp_path):
  _touch(tmp_path / "Set5", 4)
  with pytest.raises(ValueError, match=r"'set5' has 5 images, but .* holds 4"):
    data.load_images("set5", data_dir=tmp_path)


def test_union_of_sets(tmp_path, monkeypatch):
  for name, count in {"div2k": 3, "flickr2k": 2, "df2k": 5}.items():
    info = dataclasses.replace(data.NAMED_SETS[name], count=count)
    monkeypatch.setitem(data.NAMED_SETS, name, info)
  _touch(tmp_path / "DIV2K" / "DIV2K_train_HR", 3)
  _touch(tmp_path / "flickr2k", 2)
  assert len(data.load_images("df2k", data_dir=tmp_path)) == 5


def test_known_counts():
  counts = {name: info.count for name, info in data.NAMED_SETS.items()}
  assert counts == {
    "set5": 5,
    "set14": 14,
    "bsd100": 100,
    "bsd200": 200,
    "t91": 91,
    "urban100": 100,
    "general100": 100,
    "div2k": 800,
    "div2k100": 100,
    "flickr2k": 2650,
    "df2k": 800 + 2650,
  }


def test_photos_are_disjoint_and_large():
  splits = {s: data.load_images("photos", split=s) for s in ("train", "test")}
  train = {name for name, _ in splits["train"]}
  test = {name for name, _ in splits["test"]}
  assert len(test) >= 2
  assert not train & test
  assert {name for name, _ in data.load_images("photos")} == test
  assert data.resolve("photos")[0].split == "train"
  for _, image in splits["test"]:
    assert min(image.shape[:2]) >= 300
    # Colour photographs: the channels differ.
    assert np.ptp(image.astype(int), axis=-1).mean() > 5


def test_photos_missing(monkeypatch, tmp_path):
  monkeypatch.setattr(
    sources.importlib.util, "find_spec", lambda name: None, raising=True
  )
  with pytest.raises(FileNotFoundError, match="pip install scikit-image"):
    data.load_images("photos")
  monkeypatch.undo()
  monkeypatch.setitem(sources.PHOTOS, "test", ("gone.png",))
  with pytest.raises(FileNotFoundError, match=r"gone\.png is missing"):
    data.load_images("photos")


def test_reads_rgb_as_another_decoder_does(tmp_path):
  rng = np.random.Generator(np.random.Philox(key=3))
  noise = rng.integers(0, 256, (13, 17, 4), dtype=np.uint8)
  noise[..., 3] = 255
  cases = {
    "rgb.png": Image.fromarray(noise[..., :3]),
    "rgb.webp": Image.fromarray(noise[..., :3]),
    "rgb.tif": Image.fromarray(noise[..., :3]),
    "grey.png": Image.fromarray(noise[..., 0]),
    "opaque.png": Image.fromarray(noise),
    "palette.png": Image.fromarray(noise[..., :3]).quantize(16),
    "binary.png": Image.fromarray(noise[..., 0] > 99),
  }
  for name, image in cases.items():
    options = {"lossless": True} if name.endswith("webp") else {}
    image.save(tmp_path / name, **options)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(
      sources.read_image(tmp_path / name), expected, err_msg=name
    )


def test_16_bits_are_rounded(tmp_path):
  deep = np.array([[0, 128, 129, 257, 65535 - 129, 65535]], np.uint16)
  cv2.imwrite(str(tmp_path / "deep.png"), deep)
  image = sources.read_image(tmp_path / "deep.png")
  # 65535 / 255 = 257 levels to one: 128 rounds down, 129 up.
  np.testing.assert_array_equal(image[0, :, 0], [0, 0, 1, 1, 254, 255])


def test_transparency_and_floats_are_refused(tmp_path):
  rgba = np.full((4, 4, 4), 255, np.uint8)
  rgba[0, 0, 3] = 254
  Image.fromarray(rgba).save(tmp_path / "glass.png")
  with pytest.raises(ValueError, match=r"glass\.png is partly transparent"):
    sources.read_image(tmp_path / "glass.png")
  cv2.imwrite(str(tmp_path / "float.tiff"), np.ones((4, 4, 3), np.float32))
  with pytest.raises(ValueError, match=r"float\.tiff holds float32"):
    sources.read_image(tmp_path / "float.tiff")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_corrupt_file_is_named(write_images, suffix):
  folder, images = write_images((40, 40))
  path = folder / f"broken{suffix}"
  cv2.imwrite(str(path), images[0])
  path.write_bytes(path.read_bytes()[:500])
  with pytest.raises(ValueError, match=rf"broken{suffix} \(500 bytes\) cannot"):
    sources.read_image(path)
  path.write_bytes(b"")
  with pytest.raises(ValueError, match=r"\(0 bytes\) cannot be decoded"):
    sources.read_image(path)


def test_pairs_by_name_or_name_with_scale(write_images):
  hr, _ = write_images((8, 8), (8, 8), folder="HR")
  lr, _ = write_images((4, 4), (4, 4), folder="LR")
  (lr / "001.png").rename(lr / "001x2.png")
  (source,) = data.resolve(f"{hr}:lr={lr}", scale=2)
  assert [p.name for p in source.lr or ()] == ["000.png", "001x2.png"]
  with pytest.raises(ValueError, match=r"HR/001\.png has no partner in .*LR"):
    data.resolve(f"{hr}:lr={lr}", scale=4)
  (hr / "001.png").unlink()
  with pytest.raises(ValueError, match=r"LR/001x2\.png has no partner"):
    data.resolve(f"{hr}:lr={lr}", scale=2)
  with pytest.raises(FileNotFoundError, match="none does not exist"):
    data.resolve(f"{hr}:lr={lr.parent / 'none'}", scale=2)


def test_default_data_directory(monkeypatch):
  monkeypatch.setenv("HOME", "/home/someone")
  assert os.fspath(sources.data_root()) == "/home/someone/data"
  assert sources.data_root("/x") == epath.Path("/x")


@pytest.mark.data
def test_real_sets_are_found(data_dir):
  for name, first, shape in (
    ("set5", "baby", (512, 512, 3)),
    ("set14", "baboon", (480, 500, 3)),
  ):
    found = data.load_images(name, data_dir=data_dir)
    assert (found[0][0], found[0][1].shape) == (first, shape)
  bridge = dict(iter(data.load_images("set14", data_dir=data_dir)))["bridge"]
  np.testing.assert_array_equal(bridge[..., 0], bridge[..., 2])
