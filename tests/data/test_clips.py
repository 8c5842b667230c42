"""Clips found by set, folder and list; one message for each mistake."""

import dataclasses

import cv2
import numpy as np
import pytest

from sr_jax import data
from sr_jax.data import benchmarks, builders, clips


def _touch(folder, count, *, size=(8, 8), name="{:08d}.png"):
  folder.mkdir(parents=True, exist_ok=True)
  for i in range(count):
    cv2.imwrite(str(folder / name.format(i)), np.full((*size, 3), i, np.uint8))


@pytest.fixture
def small_sets(monkeypatch):
  """The named sets with two or three frames a clip, and few clips."""

  def shrink(name, **changes):
    info = dataclasses.replace(benchmarks.NAMED_CLIPS[name], **changes)
    monkeypatch.setitem(benchmarks.NAMED_CLIPS, name, info)

  shrink("reds", count=5, frames=2)
  shrink("reds4", frames=2)
  shrink("vimeo90k", count=2)
  shrink("vimeo90k-t", count=1)
  shrink("vid4", frames={"calendar": 2, "city": 3, "foliage": 2, "walk": 1})
  shrink("udm10", count=2, frames=2)


def _found(spec, split="train", **options):
  return [
    clip
    for source in data.resolve_clips(str(spec), split=split, **options)
    for clip in source.clips
  ]


def test_a_folder_of_clips(write_clips):
  folder, expected = write_clips((12, 8, 9), (3, 10, 8))
  (folder / "clip0" / "notes.txt").write_text("not a frame")
  (folder / ".hidden").mkdir()
  found = data.load_clips(str(folder))
  assert [name for name, _ in found] == ["clip0", "clip1"]
  for (_, frames), clip in zip(found, expected, strict=True):
    # In order of time: 2.png before 10.png.
    assert [name for name, _ in frames] == [str(t) for t in range(len(clip))]
    for (_, frame), truth in zip(frames, clip, strict=True):
      np.testing.assert_array_equal(frame, truth)
  assert [name for name, _ in found[1:]] == ["clip1"]
  assert _found(folder / "clip1") == [("clip1", 3)]
  assert _found(f"{folder}+{folder / 'clip1'}") == [
    ("clip0", 12),
    ("clip1", 3),
    ("clip1", 3),
  ]
  (folder / "empty").mkdir()
  with pytest.raises(
    ValueError, match="empty holds no images, and the folders"
  ):
    data.load_clips(str(folder))


def test_mistakes_name_the_folder_and_what_is_in_it(write_clips, tmp_path):
  with pytest.raises(FileNotFoundError, match=r"'vid5' is neither.*'vid4'"):
    data.resolve_clips("vid5")
  with pytest.raises(FileNotFoundError, match=r"'set5'.*is a set of images"):
    data.resolve_clips("set5")
  with pytest.raises(ValueError, match=r"'vid4' is a set of clips: give num_f"):
    data.load_images("vid4")
  with pytest.raises(ValueError, match="split 'valid'"):
    data.resolve_clips("vid4", split="valid")
  folder, _ = write_clips((2, 8, 8))
  _touch(folder, 1)
  with pytest.raises(ValueError, match="holds 1 images, and the folder 'clip0"):
    data.resolve_clips(str(folder))
  (tmp_path / "outer" / "inner" / "000").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"no clips: .*its folders are \['inne"):
    data.resolve_clips(str(tmp_path / "outer"))


def test_what_a_spec_names(write_clips, write_images):
  folder, _ = write_clips((2, 8, 8))
  photos, _ = write_images((8, 8))
  assert clips.is_clips("Vid4")
  assert clips.is_clips(f"reds4+{folder}")
  # A folder of images is one, whatever they show.
  for spec in ("set5", "photos", photos, folder / "clip0", "/no/such"):
    assert not clips.is_clips(str(spec))


def test_vid4(small_sets, tmp_path, monkeypatch):
  for name, count in (("calendar", 2), ("City", 3), ("foliage", 2)):
    _touch(tmp_path / "vid4" / "GT" / name, count)
  with pytest.raises(ValueError, match=r"4 clips of 2 \(calendar\).*holds 3\."):
    data.load_clips("vid4", data_dir=tmp_path)
  _touch(tmp_path / "vid4" / "GT" / "walk", 2)
  with pytest.raises(ValueError, match="walk holds 2 frames where 1 are expec"):
    data.load_clips("vid4", data_dir=tmp_path)
  (tmp_path / "vid4" / "GT" / "walk" / "00000001.png").unlink()
  monkeypatch.setenv("SR_JAX_DATA", str(tmp_path))
  assert sorted(_found("Vid4", "test")) == [
    ("City", 3),
    ("calendar", 2),
    ("foliage", 2),
    ("walk", 1),
  ]
  with pytest.raises(FileNotFoundError) as error:
    data.load_clips("udm10", data_dir=tmp_path)
  message = str(error.value)
  assert "https://" in message
  assert str(tmp_path / "UDM10" / "GT") in message
  assert "2 clips, a folder of 2 frames each" in message


@pytest.mark.parametrize("layout", ["merged", "official"])
def test_reds_holds_four_clips_out(small_sets, tmp_path, layout):
  reds = tmp_path / "REDS"
  sharp = reds / ("train_sharp" if layout == "merged" else "train/train_sharp")
  for name in ("000", "001", "011", "015", "016", "017", "020"):
    _touch(sharp / name, 2)
  assert _found("reds", "test", data_dir=tmp_path) == [
    (name, 2) for name in ("000", "011", "015", "020")
  ]
  assert _found("reds4", data_dir=tmp_path) == _found(
    "reds", "test", data_dir=tmp_path
  )
  with pytest.raises(ValueError, match=r"'reds' has 5 clips .*sharp holds 3\."):
    data.resolve_clips("reds", data_dir=tmp_path)
  names = ["001", "016", "017"]
  if layout == "merged":  # the clips of val_sharp go on counting
    more = ["240", "241"]
    for name in more:
      _touch(sharp / name, 2)
  else:
    more = ["val_sharp/000", "val_sharp/001"]
    for name in more:
      _touch(reds / "val" / name, 2)
  assert _found("reds", data_dir=tmp_path) == [(n, 2) for n in names + more]


@pytest.mark.parametrize("layout", ["vimeo_septuplet/sequences", "Vimeo90K/GT"])
def test_vimeo_goes_by_its_lists(small_sets, tmp_path, layout):
  root = tmp_path / layout
  for name in ("00001/0001", "00001/0002", "00002/0001"):
    _touch(root / name, 7, name="im{:d}.png")
  with pytest.raises(ValueError, match=r"sep_trainlist\.txt.* is missing"):
    data.resolve_clips("vimeo90k", data_dir=tmp_path)
  (root.parent / "sep_trainlist.txt").write_text("00001/0001\n00002/0001\n\n")
  (root.parent / "sep_testlist.txt").write_text("00001/0002\n")
  assert _found("vimeo90k", data_dir=tmp_path) == [
    ("00001/0001", 7),
    ("00002/0001", 7),
  ]
  test = _found("vimeo90k", "test", data_dir=tmp_path)
  assert test == _found("vimeo90k-t", data_dir=tmp_path) == [("00001/0002", 7)]
  (root / "00002" / "0001" / "im4.png").unlink()
  with pytest.raises(ValueError, match="0001 holds 6 frames where 7 are expec"):
    data.resolve_clips("vimeo90k", data_dir=tmp_path)
  (root.parent / "sep_trainlist.txt").write_text("00001/0001\n")
  with pytest.raises(ValueError, match=r"sep_trainlist\.txt lists 1\."):
    data.resolve_clips("vimeo90k", data_dir=tmp_path)


def test_udm10_as_pfnl_packs_it(small_sets, tmp_path):
  for name in ("archpeople", "band"):
    _touch(tmp_path / "udm10" / name / "truth", 2)
    _touch(tmp_path / "udm10" / name / "blur4", 2)
  found = data.load_clips("udm10", data_dir=tmp_path)
  assert [name for name, _ in found] == ["archpeople", "band"]
  assert found[0][1].paths[0].parent.name == "truth"


def test_pairs_go_together_clip_by_clip(tmp_path):
  for name in ("a", "b"):
    _touch(tmp_path / "hr" / name, 2)
    _touch(tmp_path / "lr" / name, 2, size=(4, 4), name="{:08d}x2.png")
  spec = f"{tmp_path / 'hr'}:lr={tmp_path / 'lr'}"
  (source,) = data.resolve_clips(spec, scale=2)
  for hr, lr in zip(source.hr, source.lr or (), strict=True):
    assert lr.parent.name == hr.parent.name
    assert lr.stem == f"{hr.stem}x2"
  one = f"{tmp_path / 'hr' / 'a'}:lr={tmp_path / 'lr' / 'b'}"
  assert data.resolve_clips(one, scale=2)[0].lr == source.lr[2:]
  _touch(tmp_path / "lr" / "c", 2)
  with pytest.raises(ValueError, match=r"lr/c has no partner among the clips"):
    data.resolve_clips(spec, scale=2)
  _touch(tmp_path / "hr" / "d", 2)
  with pytest.raises(ValueError, match=r"clip 'd' .*its clips are \['a', 'b',"):
    data.resolve_clips(spec, scale=2)
  (tmp_path / "lr" / "b" / "00000001x2.png").unlink()
  with pytest.raises(ValueError, match=r"b/00000001\.png has no partner"):
    data.resolve_clips(spec, scale=2)


def _prepare(spec, **options):
  (source,) = data.resolve_clips(str(spec))
  return builders.prepare(source, **options)


def test_a_record_is_a_frame(write_clips):
  folder, written = write_clips((3, 20, 24), (2, 16, 20))
  builder = _prepare(folder, sub_image_size=None)
  assert [name for name, _ in builder.units] == ["clip0", "clip1"]
  assert builder.rows == [range(0, 3), range(3, 5)]
  records = builder.as_data_source("train")
  assert len(records) == 5
  for rows, clip in zip(builder.rows, written, strict=True):
    for row, frame in zip(rows, clip, strict=True):
      np.testing.assert_array_equal(records[row]["hr"], frame)


def test_frames_can_be_cut_too(write_clips):
  folder, (clip,) = write_clips((3, 20, 60))
  builder = _prepare(folder, sub_image_size=40, sub_image_step=20)
  assert [(t.left, t.width) for _, t in builder.units] == [(0, 40), (20, 40)]
  records = builder.as_data_source("train")
  for (_, tile), rows in zip(builder.units, builder.rows, strict=True):
    assert len(rows) == 3
    for row, frame in zip(rows, clip, strict=True):
      expected = frame[:, tile.left : tile.left + tile.width]
      np.testing.assert_array_equal(records[row]["hr"], expected)


def test_other_clips_of_the_same_files_are_another_build(write_clips):
  folder, _ = write_clips((3, 8, 8), (3, 8, 8))
  (source,) = data.resolve_clips(str(folder))
  first = builders.prepare(source).data_path
  assert builders.prepare(source).data_path == first
  whole = dataclasses.replace(source, clips=(("all", 6),))
  assert builders.prepare(whole).data_path != first
  images = dataclasses.replace(source, clips=())
  assert len(builders.prepare(images).units) == 6


def test_frames_of_different_sizes_are_refused(write_clips):
  folder, _ = write_clips((2, 8, 9))
  _touch(folder / "clip0", 1, size=(8, 10), name="9.png")
  with pytest.raises(
    ValueError, match=r"9\.png is 8x10, but .*'clip0' are 8x9"
  ):
    _prepare(folder, sub_image_size=None)


@pytest.mark.data
def test_real_clips_are_found(data_dir):
  assert _found("vid4", data_dir=data_dir) == [
    ("calendar", 41),
    ("city", 34),
    ("foliage", 49),
    ("walk", 47),
  ]
  folder = data_dir / "video"
  assert _found(folder) == [("ntia_aspen", 31), ("temple", 31)]
  _, frames = data.load_clips(str(folder))[0]
  assert frames[0][1].shape == (540, 960, 3)
