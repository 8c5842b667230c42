"""Images that cannot be decoded and records that are damaged: what is drawn."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sr_jax import data

SIDE = 40


def _cut_short(path):
  path.write_bytes(path.read_bytes()[:200])


def _loader(folder, **options):
  """Whole images, as they are: each batch says which they were."""
  fixed = {"batch_size": 2, "patch_size": SIDE, "scale": 2, "seed": 3}
  return data.make_loader(str(folder), **fixed | {"augment": False} | options)


def _take(loader, count):
  return np.stack([next(loader)["hr"] for _ in range(count)])


def _numbers(batches, images):
  """Which image each crop is."""
  crops = batches.reshape(-1, *batches.shape[-3:])
  same = [[np.array_equal(crop, image) for image in images] for crop in crops]
  found = np.argmax(same, axis=1)
  assert np.all(np.sum(same, axis=1) == 1)
  return found


def _damage_record(path, row):
  """Flips a byte of one record's part of the file, wherever that is."""
  (file,) = path.glob("*.array_record*")
  whole = file.read_bytes()
  for at in range(70, len(whole), 501):
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    source = tfds.builder_from_directory(path).as_data_source("train")
    failed = set()
    for i in range(len(source)):
      try:
        source[i]
      except RuntimeError:
        failed.add(i)
    if failed == {row}:
      return
  raise AssertionError(f"no byte of {file} is of record {row} alone")


def _build(tmp_path):
  (info,) = (tmp_path / "cache").rglob("dataset_info.json")
  return info.parent


def test_an_unreadable_image_is_as_one_that_is_not_there(
  write_images, tmp_path
):
  folder, _ = write_images(*[(SIDE, SIDE)] * 5)
  fewer, _ = write_images(*[(SIDE, SIDE)] * 5, folder="fewer")
  _cut_short(folder / "002.png")
  (fewer / "002.png").unlink()
  loader = _loader(folder, max_bad=1)
  assert loader.num_images == 4
  (told,) = loader.bad
  assert "002.png (200 bytes) cannot be decoded" in told
  np.testing.assert_array_equal(
    _take(loader, 9), _take(_loader(fewer, cache_dir=tmp_path / "other"), 9)
  )
  assert loader.bad == [told]
  loader = _loader(folder, max_bad=1)  # as it was built
  assert loader.bad == [told]
  with pytest.raises(ValueError, match=r"1 files .* 0 may be .*002\.png"):
    _loader(folder)
  # Another file, another build.
  _cut_short(folder / "003.png")
  with pytest.raises(ValueError, match=r"2 files .* 1 may .*002\.png.*003"):
    _loader(folder, max_bad=1)
  with pytest.raises(ValueError, match="003"):
    _loader(f"{fewer}+{folder}", max_bad=1)


def test_nothing_that_can_be_read(write_images):
  folder, _ = write_images((SIDE, SIDE))
  _cut_short(folder / "000.png")
  with pytest.raises(
    ValueError, match=r"nothing of .* can be read: .*000\.png"
  ):
    _loader(folder, max_bad=5)


def test_a_clip_with_an_unreadable_frame_is_left_out(write_clips):
  folder, clips = write_clips(*[(4, SIDE, SIDE)] * 3)
  _cut_short(folder / "clip1" / "2.png")
  loader = _loader(folder, max_bad=1, num_frames=2)
  assert loader.num_images == 2 * 3
  assert "clip1/2.png" in loader.bad[0]
  drawn = _take(loader, 12)
  seen = set()
  for window in drawn.reshape(-1, 2, SIDE, SIDE, 3):
    (clip,) = (i for i, c in enumerate(clips) if (window[0] == c).any(0).all())
    first = window[0, 0, 0, 2]
    np.testing.assert_array_equal(window, clips[clip][first : first + 2])
    seen.add((clip, int(first)))
  assert seen == {(clip, first) for clip in (0, 2) for first in range(3)}


@pytest.mark.parametrize("cache", [False, True])
def test_a_damaged_record_is_replaced_by_the_next(
  write_images, tmp_path, cache
):
  folder, images = write_images(*[(SIDE, SIDE)] * 6)
  options = {"max_bad": 1, "cache": cache}
  whole = _numbers(_take(_loader(folder, **options), 12), images)
  assert sorted(whole[:6]) == list(range(6))
  _damage_record(_build(tmp_path), 5)
  want = np.where(whole == 5, 0, whole)

  loader = _loader(folder, **options)
  assert loader.bad == []
  places = []
  drawn = []
  for _ in range(12):
    places.append(loader.get_state())
    drawn.append(next(loader)["hr"])
  np.testing.assert_array_equal(_numbers(np.stack(drawn), images), want)
  (told,) = loader.bad
  assert f"record 5 of {_build(tmp_path)}" in told
  assert "005.png" in told
  assert "Corrupted" in told

  # From any place, by a process that has not met it; and by several hosts.
  for k in (3, 7):
    again = _loader(folder, **options)
    again.set_state(places[k])
    rest = _numbers(_take(again, 12 - k), images)
    np.testing.assert_array_equal(rest, want[2 * k :])
  shards = [
    _loader(folder, shard_index=i, shard_count=2, **options | {"batch_size": 1})
    for i in range(2)
  ]
  parts = [_take(shard, 12) for shard in shards]
  both = np.concatenate(parts, axis=1)
  np.testing.assert_array_equal(_numbers(both, images), want)


def test_damaged_records_past_the_limit(write_images, tmp_path):
  folder, _ = write_images(*[(SIDE, SIDE)] * 6)
  _loader(folder)
  _damage_record(_build(tmp_path), 2)
  build = _build(tmp_path)
  with pytest.raises(ValueError, match=r"1 records .* 0 may") as caught:
    _take(_loader(folder), 6)
  assert f"record 2 of {build}" in str(caught.value)
  assert f"Delete the folder {build}" in str(caught.value)
  (file,) = build.glob("*.array_record*")
  file.write_bytes(b"")
  with pytest.raises(ValueError, match=r"6 records .* 5 may"):
    _take(_loader(folder, max_bad=5), 6)
  with pytest.raises(ValueError, match="no record is whole: record 0 of"):
    _take(_loader(folder, max_bad=50), 6)


def test_several_crops_of_an_image(write_images, tmp_path):
  folder, images = write_images(*[(SIDE, SIDE)] * 6)
  options = {"max_bad": 1, "crops_per_image": 2}
  whole = _numbers(_take(_loader(folder, **options), 12), images)
  _damage_record(_build(tmp_path), 1)
  loader = _loader(folder, **options)
  drawn = _numbers(_take(loader, 12), images)
  np.testing.assert_array_equal(drawn, np.where(whole == 1, 2, whole))
  assert len(loader.bad) == 1


def _windows(batches):
  """Clip (by its pixels) and frames of each window."""
  flat = batches.reshape(-1, *batches.shape[2:])
  return [(int(w[0, 0, 0, 0]), *map(int, w[:, 0, 0, 2])) for w in flat]


def test_windows_with_a_damaged_frame(write_clips, tmp_path):
  """The next window whose own frames are whole, whatever was met before."""
  folder, _ = write_clips(*[(7, SIDE, SIDE)] * 3)
  options = {
    "num_frames": 2,
    "interval": (1, 2),
    "random_reverse": True,
    "max_bad": 1,
  }
  whole = _windows(_take(_loader(folder, **options), 30))
  clips = list(dict.fromkeys(clip for clip, *_ in whole))
  assert len(clips) == 3
  _damage_record(_build(tmp_path), 7 + 3)
  loader = _loader(folder, **options)
  places, drawn = [], []
  for _ in range(30):
    places.append(loader.get_state())
    drawn.append(next(loader)["hr"])
  drawn = _windows(np.stack(drawn))
  changed = [a for a, b in zip(whole, drawn, strict=True) if a != b]
  hit = [w for w in whole if w == (changed[0][0], *w[1:]) and 3 in w[1:]]
  assert sorted(changed) == sorted(hit)
  assert not any(w[0] == changed[0][0] and 3 in w[1:] for w in drawn)
  assert len(loader.bad) == 1
  for k in (5, 20):
    again = _loader(folder, **options)
    again.set_state(places[k])
    assert _windows(_take(again, 30 - k)) == drawn[2 * k :]


@pytest.mark.slow
def test_workers_tell_of_damage(write_images, tmp_path):
  folder, images = write_images(*[(SIDE, SIDE)] * 6)
  options = {"max_bad": 1, "num_workers": 2}
  whole = _numbers(_take(_loader(folder), 12), images)
  _damage_record(_build(tmp_path), 4)
  loader = _loader(folder, **options)
  drawn = _numbers(_take(loader, 12), images)
  loader.close()
  np.testing.assert_array_equal(drawn, np.where(whole == 4, 5, whole))
  assert len(loader.bad) == 1
  loader = _loader(folder, num_workers=1)
  with pytest.raises(ValueError, match="record 4 of"):
    _take(loader, 12)
  loader.close()
