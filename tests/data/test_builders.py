"""Builds: what is in them, when they are made anew, what stops them."""

import concurrent.futures
import errno
import os
import pathlib
import shutil
import sys
import time

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from sr_jax import data
from sr_jax.data import build_once, builders, sources
from sr_jax.ops import resize


def _prepare(spec, **options):
  (source,) = data.resolve(str(spec), scale=options.get("scale"))
  return builders.prepare(source, **options)


def test_records_are_the_tiles_of_the_images(write_images):
  folder, images = write_images((30, 60), (72, 50))
  builder = _prepare(folder, sub_image_size=48, sub_image_step=24)
  # 30x60: columns 0-48 and 0-60; 72x50: rows 0-48, 24-72, columns 0-48, 0-50.
  places = [(i, t.top, t.left, t.height, t.width) for i, t in _tiles(builder)]
  assert places == [
    (0, 0, 0, 30, 48),
    (0, 0, 0, 30, 60),
    (1, 0, 0, 48, 48),
    (1, 0, 0, 48, 50),
    (1, 24, 0, 48, 48),
    (1, 24, 0, 48, 50),
  ]
  records = builder.as_data_source("train")
  assert len(records) == len(places)
  for record, (i, top, left, height, width) in zip(
    records, places, strict=True
  ):
    expected = images[i][top : top + height, left : left + width]
    np.testing.assert_array_equal(record["hr"], expected)
    assert record["name"] == f"{i:03d}.png".encode()
  # It is an ordinary TFDS build, and TensorFlow had no part in it.
  again = tfds.builder_from_directory(builder.data_path)
  assert again.info.splits["train"].num_examples == len(places)
  assert str(again.info.file_format.value) == "array_record"
  assert "tensorflow" not in sys.modules


def _tiles(builder):
  return [(int(name[-7:-4]), tile) for name, tile in builder.units]


def test_scaled_copies_are_matlab_bicubic(write_images):
  folder, (image,) = write_images((40, 31))
  builder = _prepare(folder, scales=(1.0, 0.6))
  records = builder.as_data_source("train")
  small = np.clip(resize.imresize(image / 255.0, 0.6), 0, 1)
  assert records[1]["hr"].shape == (24, 19, 3)  # ceil(31 * 0.6)
  np.testing.assert_array_equal(records[0]["hr"], image)
  np.testing.assert_array_equal(records[1]["hr"], np.rint(small * 255))


def test_built_once_and_anew_when_the_folder_changes(write_images):
  folder, images = write_images((20, 20), (22, 20))
  first = _prepare(folder).data_path
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sources, "read_image", None)  # nothing is read again
    assert _prepare(folder).data_path == first
  assert _prepare(folder, scales=(0.5,)).data_path != first
  (folder / "001.png").unlink()
  second = _prepare(folder)
  assert second.data_path != first
  assert len(second.as_data_source("train")) == 1
  cv2.imwrite(str(folder / "000.png"), images[1])
  third = _prepare(folder)
  np.testing.assert_array_equal(
    third.as_data_source("train")[0]["hr"], images[1][..., ::-1]
  )


def test_cache_directory_argument(write_images, tmp_path):
  folder, _ = write_images((20, 20))
  built = _prepare(folder, cache_dir=tmp_path / "elsewhere").data_path
  assert built.is_relative_to(tmp_path / "elsewhere")


def test_corrupt_image_is_named_and_the_build_not_taken(write_images):
  folder, images = write_images((20, 20), (20, 20), (20, 20))
  broken = folder / "001.png"
  broken.write_bytes(broken.read_bytes()[:200])
  for _ in range(2):  # what the first attempt left is not taken for a build
    with pytest.raises(ValueError, match=r"001\.png \(200 bytes\) cannot be"):
      _prepare(folder)
  cv2.imwrite(str(broken), images[1])
  assert len(_prepare(folder).as_data_source("train")) == 3


def test_another_process_was_faster(write_images, monkeypatch):
  folder, _ = write_images((20, 20))
  download_and_prepare = builders.SubImages.download_and_prepare

  def lose_the_race(self):
    download_and_prepare(self)
    raise OSError("Directory not empty")

  monkeypatch.setattr(builders.SubImages, "download_and_prepare", lose_the_race)
  assert len(_prepare(folder).units) == 1


def test_full_disk_is_named(write_images, monkeypatch, tmp_path):
  """The one that is full; a workdir may lie on another."""
  folder, _ = write_images((20, 20))
  for error in (
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    RuntimeError("write() failed: No space left on device; writing x"),
  ):

    def fail(self, error=error):
      raise error

    monkeypatch.setattr(builders.SubImages, "download_and_prepare", fail)
    with pytest.raises(
      ValueError, match=rf"disk full: .* built in {tmp_path / 'mine'}"
    ):
      _prepare(folder, cache_dir=tmp_path / "mine")


def test_several_at_once_build_once(write_images, monkeypatch, capsys):
  folder, _ = write_images((20, 20))
  build, count = builders.SubImages.download_and_prepare, []

  def slow(self):
    count.append(self)
    time.sleep(0.5)
    build(self)

  monkeypatch.setattr(builders.SubImages, "download_and_prepare", slow)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = list(pool.map(lambda _: _prepare(folder), range(3)))
  assert [len(builder.units) for builder in found] == [1] * 3
  assert len(count) == 1
  assert capsys.readouterr().err.count("waits for a process") == 2


def test_what_a_killed_build_left_is_removed(write_images):
  folder, _ = write_images((20, 20))
  parent = pathlib.Path(_prepare(folder).data_path).parent
  (left := parent / "incomplete.ABCDEF_1.0.0").mkdir()
  (record := left / "sub_images-train.array_record-00000").write_bytes(b"x")
  for hours, kept in ((0, True), (2, False)):  # of a living one it is not
    for path in (record, left):
      os.utime(path, (time.time() - 3600 * hours,) * 2)
    shutil.rmtree(parent / "1.0.0")
    assert len(_prepare(folder).units) == 1
    assert left.exists() == kept
  assert sorted(x.name for x in parent.iterdir()) == [".lock", "1.0.0"]


@pytest.mark.parametrize(
  "name", ["dataset_info.json", "metadata.json", "features.json"]
)
@pytest.mark.parametrize("content", ["", '{"a":', "[1]", '{"records": 3}'])
def test_a_damaged_build_is_named(write_images, name, content):
  """Of what says what is in it; the records have checksums of their own."""
  folder, _ = write_images((20, 20))
  path = pathlib.Path(_prepare(folder).data_path)
  (path / name).write_text(content)
  if name == "features.json":  # which is for others
    assert len(_prepare(folder).units) == 1
    return
  for _ in range(2):
    with pytest.raises(
      ValueError, match=rf"records of .* in {path.parent} are damaged .* delete"
    ):
      _prepare(folder)
    (path / "metadata.json").unlink(missing_ok=True)


def test_classes_that_a_build_names_are_not_imported(
  write_images, tmp_path, monkeypatch
):
  folder, _ = write_images((20, 20))
  path = pathlib.Path(_prepare(folder).data_path)
  text = (path / "features.json").read_text()
  (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
  monkeypatch.syspath_prepend(tmp_path)
  for said in ("pythonClassName", "python\\u0043lassName", "type"):
    evil = text.replace("pythonClassName", said)
    evil = evil.replace(
      "tensorflow_datasets.core.features.tensor_feature", "evil"
    )
    (path / "features.json").write_text(evil)
    with pytest.raises(ValueError, match=r"features\.json names evil\.Tensor"):
      build_once.open_build(str(path))
  (path / "features.json").write_text(text)
  assert len(build_once.open_build(str(path)).as_data_source("train")) == 1


def test_pairs(write_images):
  hr_folder, hr = write_images((99, 75), (48, 48), folder="HR")
  lr_folder, lr = write_images((49, 37), (24, 24), folder="LR")
  builder = _prepare(
    f"{hr_folder}:lr={lr_folder}",
    scale=2,
    sub_image_size=48,
    sub_image_step=24,
  )
  assert len(builder.units) == 4 * 3 + 1
  for record, (i, tile) in zip(
    builder.as_data_source("train"), _tiles(builder), strict=True
  ):
    rows = slice(tile.top, tile.top + tile.height)
    columns = slice(tile.left, tile.left + tile.width)
    np.testing.assert_array_equal(record["hr"], hr[i][:98, :74][rows, columns])
    rows = slice(tile.top // 2, (tile.top + tile.height) // 2)
    columns = slice(tile.left // 2, (tile.left + tile.width) // 2)
    np.testing.assert_array_equal(record["lr"], lr[i][rows, columns])


def test_pair_of_wrong_size(write_images):
  hr, _ = write_images((96, 96), folder="HR")
  lr, _ = write_images((25, 24), folder="LR")
  with pytest.raises(
    ValueError,
    match=r"hr \(96, 96\) is not 4x lr \(25, 24\); .*HR/000\.png and .*LR/000",
  ):
    _prepare(f"{hr}:lr={lr}", scale=4)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"sub_image_step": 0}, "sub_image_step 0"),
    ({"sub_image_size": 96, "sub_image_step": 97}, "leave pixels out"),
    ({"cache_dir": "gs://bucket/x"}, "must be on a mounted file system"),
    ({"scales": ()}, r"scales \(\)"),
    ({"scales": (1.0, 1.5)}, r"\(0, 1\]"),
  ],
)
def test_bad_options(write_images, options, message):
  folder, _ = write_images((20, 20))
  with pytest.raises(ValueError, match=message):
    _prepare(folder, **options)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({}, "give scale"),
    ({"scale": 2, "scales": (1.0, 0.9)}, "only HR images can be resized"),
    ({"scale": 5}, "sub_image_step 240 must be a multiple of scale 5, and"),
    ({"scale": 4, "sub_image_step": 230}, "sub_image_step 230"),
  ],
)
def test_bad_options_of_pairs(write_images, options, message):
  hr, _ = write_images((20, 20), folder="HR")
  lr, _ = write_images((5, 5), folder="LR")
  with pytest.raises(ValueError, match=message):
    _prepare(f"{hr}:lr={lr}", **options)
