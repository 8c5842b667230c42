"""Batches: which crops, in which order, whoever reads them; and resuming."""

import collections
import itertools
import json
import pickle

import cv2
import grain
import numpy as np
import pytest
from absl import flags

from sr_jax.data import make_loader


@pytest.fixture
def coloured(tmp_path):
  """26 flat images: a crop's colour says which image it is from."""
  folder = tmp_path / "coloured"
  folder.mkdir()
  for i in range(26):
    image = np.full((20 + i, 40, 3), 9 * i, np.uint8)
    cv2.imwrite(str(folder / f"{i:02d}.png"), image)
  return str(folder)


def _options(**options):
  return {"batch_size": 4, "patch_size": 8, "scale": 2, "seed": 7} | options


def _take(spec, count, **options):
  loader = make_loader(str(spec), **_options(**options))
  batches = [b["hr"] for b in itertools.islice(loader, count)]
  loader.close()
  return batches


def _images_in(batches):
  return [int(i) // 9 for b in batches for i in b[:, 0, 0, 0]]


def test_batch(write_images):
  folder, (image,) = write_images((8, 8))
  loader = make_loader(str(folder), **_options(augment=False))
  assert loader.num_images == 1
  assert not loader.paired
  batch = next(iter(loader))
  assert list(batch) == ["hr"]
  assert batch["hr"].dtype == np.uint8
  np.testing.assert_array_equal(batch["hr"], np.stack([image] * 4))
  loader.close()


def test_crops_with_margin_are_windows_of_the_padded_image(write_images):
  folder, (image,) = write_images((25, 21))
  whole = np.pad(image[:24, :21], ((6, 6), (6, 6), (0, 0)), mode="symmetric")
  windows = {
    whole[top : top + 21, left : left + 21].tobytes(): (top, left)
    for top in range(0, 36 - 21 + 1, 3)
    for left in range(0, 33 - 21 + 1, 3)
  }
  options = {"scale": 3, "patch_size": 9, "margin": 2, "augment": False}
  batches = _take(folder, 100, **options)
  seen = collections.Counter(
    windows[crop.tobytes()] for batch in batches for crop in batch
  )
  assert set(seen) == set(windows.values())  # every place comes
  # Uniform: a chi-square of 29 degrees of freedom is below 70 but once in 3e4.
  expected = 400 / len(windows)
  assert sum((n - expected) ** 2 / expected for n in seen.values()) < 70


@pytest.mark.parametrize("crops_per_image", [1, 4])
def test_no_draw_is_used_twice(write_images, crops_per_image):
  """Of 256 crops among 14,641 places of one image, few are alike."""
  folder, _ = write_images((128, 128))
  options = {"scale": 1, "augment": False, "crops_per_image": crops_per_image}
  first = _take(folder, 64, **options)
  # By chance two or three pairs; draws that overlap give a hundred.
  assert len({crop.tobytes() for batch in first for crop in batch}) >= 245
  other = _take(folder, 64, seed=8, **options)
  shared = {c.tobytes() for b in first for c in b} & {
    c.tobytes() for b in other for c in b
  }
  assert len(shared) <= 15


def test_the_eight_symmetries_come_equally(write_images):
  folder, (image,) = write_images((8, 8))
  turned = [np.rot90(image, k) for k in range(4)]
  forms = [x.tobytes() for t in turned for x in (t, np.fliplr(t))]
  batches = _take(folder, 100)
  seen = collections.Counter(c.tobytes() for batch in batches for c in batch)
  assert set(seen) == set(forms)
  assert min(seen.values()) > 25  # 50 expected


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("crops_per_image", [1, 2])
def test_shards_partition_every_epoch(coloured, shards, crops_per_image):
  seen = collections.Counter()
  for shard in range(shards):
    batches = _take(
      coloured,
      None,
      epochs=2,
      shard_index=shard,
      shard_count=shards,
      drop_remainder=False,
      crops_per_image=crops_per_image,
    )
    seen.update(_images_in(batches))
  assert seen == dict.fromkeys(range(26), 2 * crops_per_image)


def test_each_epoch_is_a_new_permutation(coloured):
  images = _images_in(_take(coloured, 13))
  first, second = images[:26], images[26:]
  assert sorted(first) == sorted(second) == list(range(26))
  assert first != second
  assert first != sorted(first)


@pytest.mark.parametrize("crops_per_image", [1, 3])
def test_dropping_the_remainder_gives_every_shard_as_many(
  coloured, crops_per_image
):
  lengths = set()
  for shard in range(3):
    batches = _take(
      coloured,
      None,
      epochs=3,
      shard_index=shard,
      shard_count=3,
      crops_per_image=crops_per_image,
    )
    assert all(len(batch) == 4 for batch in batches)
    lengths.add(len(batches))
  # 26 images a shard: 6 batches of 4. With three crops of each, 78 crops:
  # 2 chunks of 12 images give 9 batches each, the last 2 images 1.
  assert lengths == {6 if crops_per_image == 1 else 19}


@pytest.mark.parametrize("crops_per_image", [1, 3])
def test_hosts_together_read_what_one_host_reads(coloured, crops_per_image):
  options = {"margin": 1, "crops_per_image": crops_per_image}
  whole = _take(coloured, 20, batch_size=8, **options)
  parts = [
    _take(coloured, 20, shard_index=i, shard_count=2, **options)
    for i in range(2)
  ]
  for batch, left, right in zip(whole, *parts, strict=True):
    np.testing.assert_array_equal(batch, np.concatenate([left, right]))


def test_same_seed_same_batches_cached_or_not(write_images):
  folder, _ = write_images((30, 30), (60, 40))
  options = {"sub_image_size": 24, "sub_image_step": 12, "margin": 1}
  first = _take(folder, 30, **options)
  for cache in (True, False):
    for a, b in zip(
      first, _take(folder, 30, cache=cache, **options), strict=True
    ):
      np.testing.assert_array_equal(a, b)
  other = _take(folder, 30, **(options | {"seed": 8}))
  assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_crops_of_an_image_are_spread(coloured):
  crops = _images_in(_take(coloured, 9, crops_per_image=3))
  # A chunk: 12 images, three crops each, over 9 batches.
  assert set(collections.Counter(crops).values()) == {3}
  assert len(set(crops)) == 12
  for i in range(0, len(crops), 4):
    assert len(set(crops[i : i + 4])) == 4  # no two in one batch
  # Each row takes three images, in no order: in order, 2 of 8 would differ.
  differ = sum(a != b for a, b in zip(crops, crops[4:], strict=False))
  assert differ > 16


@pytest.mark.parametrize("crops_per_image", [1, 2])
def test_resumes_to_the_batch(coloured, crops_per_image):
  options = _options(crops_per_image=crops_per_image, margin=1)
  loader = make_loader(coloured, **options)
  states, batches = [], []
  for _ in range(12):
    states.append(json.dumps(loader.get_state()))
    batches.append(next(loader)["hr"])
  loader.close()
  for place in (0, 1, 5, 11):
    # Both a fresh loader and one that is elsewhere go there.
    for ahead in (0, 3):
      again = make_loader(coloured, **options)
      for _ in range(ahead):
        next(again)
      again.set_state(json.loads(states[place]))
      for expected in batches[place:]:
        np.testing.assert_array_equal(next(again)["hr"], expected)
      again.close()


@pytest.mark.slow
@pytest.mark.parametrize("crops_per_image", [1, 2])
def test_workers_change_nothing(coloured, crops_per_image):
  options = {"crops_per_image": crops_per_image, "margin": 1}
  expected = _take(coloured, 14, **options)
  loader = make_loader(coloured, **_options(num_workers=2, **options))
  for i in range(7):
    np.testing.assert_array_equal(next(loader)["hr"], expected[i])
  state = json.loads(json.dumps(loader.get_state()))
  next(loader)
  loader.close()
  loader = make_loader(coloured, **_options(num_workers=2, **options))
  loader.set_state(state)
  for i in range(7, 14):
    np.testing.assert_array_equal(next(loader)["hr"], expected[i])
  loader.close()


def test_workers_get_a_reader_without_its_images(coloured, monkeypatch):
  """What grain is asked to start and to send, without starting it."""
  readers, asked = [], []
  source = grain.MapDataset.source

  def note_reader(reader):
    readers.append(reader)
    return source(reader)

  def note_options(self, options, **_):
    asked.append(options.num_workers)
    return self

  monkeypatch.setattr(grain.MapDataset, "source", note_reader)
  monkeypatch.setattr(grain.IterDataset, "mp_prefetch", note_options)
  flags.FLAGS.unparse_flags()
  loader = make_loader(coloured, **_options(num_workers=2, cache=True))
  assert asked == [2]
  assert flags.FLAGS.is_parsed()
  first = next(loader)["hr"]
  loader.close()
  assert readers[0]._kept
  sent = pickle.loads(pickle.dumps(readers[0]))
  assert not sent._kept
  np.testing.assert_array_equal(sent[0]["hr"], first)


def test_pairs_are_cut_alike(tmp_path):
  # LR pixel (i, j) is (i, j, 0); HR pixel (y, x) is (y // 2, x // 2, 0).
  for name, size in (("HR", 60), ("LR", 30)):
    (tmp_path / name).mkdir()
    y, x = np.mgrid[:size, :size] * 30 // size
    image = np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / name / "0.png"), image[..., ::-1])
  loader = make_loader(
    f"{tmp_path}/HR:lr={tmp_path}/LR",
    **_options(margin=2, sub_image_size=48, sub_image_step=24),
  )
  assert loader.paired
  corners = set()
  for batch in itertools.islice(loader, 40):
    assert batch["hr"].shape == (4, 8, 8, 3)  # pairs need no margin
    np.testing.assert_array_equal(batch["hr"][:, ::2, ::2], batch["lr"])
    np.testing.assert_array_equal(batch["hr"][:, 1::2, 1::2], batch["lr"])
    corners |= {tuple(lr.min((0, 1)).tolist()) for lr in batch["lr"]}
  loader.close()
  assert max(corners)[0] == 26  # the last place of 30 - 4
  assert len(corners) > 80


def test_small_image_is_named(write_images):
  folder, _ = write_images((40, 40), (16, 40))
  with pytest.raises(
    ValueError,
    match=r"001\.png \(16x40\) is smaller than a crop, which takes at least "
    r"24x24 pixels of it \(patch_size 24\); lower patch_size or remove",
  ):
    make_loader(str(folder), **_options(patch_size=24, margin=2))
  with pytest.raises(
    ValueError,
    match=r"a sub-image of size 24x24 of .*000\.png is smaller .* at least "
    r"36x36 pixels .* raise sub_image_size or",
  ):
    make_loader(
      str(folder),
      **_options(patch_size=32, margin=2, sub_image_size=24, sub_image_step=12),
    )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 0}, "batch_size 0 must be at least 1"),
    ({"patch_size": 9}, "patch_size 9 must be a multiple of scale 2; nearest"),
    ({"margin": -1}, "margin -1"),
    ({"seed": -1}, "seed -1"),
    ({"epochs": 0}, "epochs 0"),
    ({"shard_index": 2, "shard_count": 2}, r"shard_index 2 must be in \[0"),
    ({"cache": "yes"}, "cache 'yes'"),
    ({"batch_size": 27, "epochs": 1}, "26 images give no batch of 27"),
    ({"num_workers": -1}, "num_workers -1"),
  ],
)
def test_bad_options(coloured, options, message):
  with pytest.raises(ValueError, match=message):
    make_loader(coloured, **_options(**options))


def test_all_paired_or_none(coloured, write_images):
  hr, _ = write_images((20, 20), folder="HR")
  lr, _ = write_images((10, 10), folder="LR")
  with pytest.raises(ValueError, match="with and without LR images"):
    make_loader(f"{hr}:lr={lr}+{coloured}", **_options())


def test_photos_need_nothing():
  """The embedded default: no folder, no download."""
  batches = _take("photos", 3, patch_size=32, sub_image_size=240)
  assert all(batch.shape == (4, 32, 32, 3) for batch in batches)
  assert len({batch.tobytes() for batch in batches}) == 3
