"""Batches of clips: one place and flip for all frames; order; resuming."""

import collections
import itertools
import threading

import cv2
import jax
import numpy as np
import pytest

from sr_jax import degradations
from sr_jax.data import make_loader


def _options(**options):
  defaults = {"batch_size": 4, "patch_size": 8, "scale": 2, "seed": 7}
  return defaults | {"num_frames": 3} | options


def _take(spec, count, **options):
  loader = make_loader(str(spec), **_options(**options))
  batches = [b["hr"] for b in itertools.islice(loader, count)]
  loader.close()
  return batches


def _times(batches):
  """The frames of each window, which blue tells."""
  return [tuple(clip[:, 0, 0, 2].tolist()) for b in batches for clip in b]


def test_batch(write_clips):
  folder, (clip,) = write_clips((3, 8, 8))
  loader = make_loader(str(folder), **_options(augment=False))
  assert loader.num_images == 1
  assert not loader.paired
  batch = next(loader)
  assert list(batch) == ["hr"]
  assert batch["hr"].dtype == np.uint8
  np.testing.assert_array_equal(batch["hr"], np.stack([clip] * 4))
  loader.close()


def test_all_frames_have_one_place_and_flip(write_clips):
  folder, (clip,) = write_clips((9, 16, 14))
  picture = clip[0, ..., :2]
  forms = {}
  for top, left in itertools.product(range(0, 9, 2), range(0, 7, 2)):
    crop = picture[top : top + 8, left : left + 8]
    for k in range(4):
      turned = np.rot90(crop, k)
      forms[turned.tobytes()] = (top, left, k, False)
      forms[np.fliplr(turned).tobytes()] = (top, left, k, True)
  batches = _take(folder, 100)
  seen = collections.Counter()
  for sample in np.concatenate(batches):
    assert (sample[..., :2] == sample[:1, ..., :2]).all()
    seen[forms[sample[0, ..., :2].tobytes()]] += 1
  assert len(seen) >= 130  # of 160 places and flips, 147 expected
  assert all(b - a == c - b == 1 for a, b, c in _times(batches))


def test_an_epoch_goes_through_every_window(write_clips):
  folder, _ = write_clips((9, 8, 8), (5, 8, 10))
  batches = _take(folder, None, epochs=2, batch_size=2)
  starts = collections.Counter(
    (sample.shape, sample[0, 0, 0, 2]) for b in batches for sample in b
  )
  # 7 windows of one clip and 3 of the other; both have the starts 0, 1 and 2.
  assert [starts[(3, 8, 8, 3), i] for i in range(7)] == [4, 4, 4, 2, 2, 2, 2]


@pytest.mark.parametrize("crops_per_image", [1, 2])
def test_shards_partition_every_epoch(write_clips, crops_per_image):
  folder, _ = write_clips((15, 8, 8))
  seen = collections.Counter()
  for shard in range(3):
    batches = _take(
      folder,
      None,
      epochs=2,
      shard_index=shard,
      shard_count=3,
      drop_remainder=False,
      crops_per_image=crops_per_image,
    )
    seen.update(times[0] for times in _times(batches))
  assert seen == dict.fromkeys(range(13), 2 * crops_per_image)


def test_hosts_together_read_what_one_host_reads(write_clips):
  folder, _ = write_clips((9, 12, 12), (8, 12, 14))
  options = {"interval": (1, 2), "random_reverse": True, "margin": 1}
  whole = _take(folder, 12, batch_size=8, **options)
  parts = [
    _take(folder, 12, shard_index=i, shard_count=2, **options) for i in (0, 1)
  ]
  for batch, one, two in zip(whole, *parts, strict=True):
    np.testing.assert_array_equal(batch, np.concatenate([one, two]))


def test_interval_reverse_and_mirror(write_clips):
  folder, _ = write_clips((9, 8, 8))
  steps = collections.Counter()
  for times in _times(
    _take(folder, 100, interval=(1, 3), random_reverse=True, mirror=True)
  ):
    assert times[3:] == times[2::-1]
    assert times[1] - times[0] == times[2] - times[1]
    steps[times[1] - times[0]] += 1
  assert set(steps) == {1, 3, -1, -3}
  assert min(steps.values()) > 65  # 100 expected


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"cache": False, "interval": (1, 2), "random_reverse": True},
    {"crops_per_image": 2, "mirror": True},
    pytest.param({"num_workers": 2}, marks=pytest.mark.slow),
  ],
)
def test_resumed_batches_are_those_of_the_unbroken_run(write_clips, options):
  folder, _ = write_clips((9, 12, 12), (8, 12, 14))
  unbroken = _take(folder, 13, **options | {"num_workers": 0})
  loader = make_loader(str(folder), **_options(**options))
  for _ in range(5):
    next(loader)
  state = loader.get_state()
  loader.close()
  again = make_loader(str(folder), **_options(**options))
  again.set_state(state)
  for expected in unbroken[5:]:
    np.testing.assert_array_equal(next(again)["hr"], expected)
  again.close()


@pytest.mark.parametrize("name", ["BI", "BD"])
def test_degraded_crops_are_crops_of_the_degraded_clip(write_clips, name):
  made = degradations.find(name)
  folder, (clip,) = write_clips((4, 32, 40))
  offline = np.rint(made.downsample(clip / 255.0, scale=4) * 255)
  places = {
    offline[t : t + 3, y : y + 2, x : x + 2].tobytes(): (t, y, x)
    for t, y, x in itertools.product(range(2), range(7), range(9))
  }
  loader = make_loader(
    str(folder),
    **_options(scale=4, augment=False, margin=made.margin, border=made.border),
  )
  run = jax.jit(
    lambda hr: made.downsample(hr / 255.0, scale=4, margin=made.margin)
  )
  seen = set()
  for batch in itertools.islice(loader, 75):
    lr = np.rint(np.asarray(run(batch["hr"].astype(np.float32))) * 255)
    assert lr.shape == (4, 3, 2, 2, 3)
    seen |= {places[x.astype(np.float64).tobytes()] for x in lr}
  loader.close()
  assert len(seen) > 105  # of 126, 300 drawn: the borders are among them


def test_pairs(tmp_path):
  rng = np.random.default_rng(0)
  for name, side in (("hr", 24), ("lr", 12)):
    (tmp_path / name / "clip").mkdir(parents=True)
    for t in range(4):
      frame = rng.integers(0, 256, (side, side, 3), np.uint8)
      if name == "lr":  # which frame, row and column
        frame[..., 0] = t
        frame[..., 1], frame[..., 2] = np.mgrid[:side, :side]
      else:
        frame[..., 0] = t
        frame[..., 1], frame[..., 2] = np.mgrid[:side, :side] // 2
      cv2.imwrite(str(tmp_path / name / "clip" / f"{t}.png"), frame[..., ::-1])
  loader = make_loader(
    f"{tmp_path / 'hr'}:lr={tmp_path / 'lr'}", **_options(random_reverse=True)
  )
  assert loader.paired
  for batch in itertools.islice(loader, 20):
    assert batch["lr"].shape == (4, 3, 4, 4, 3)
    np.testing.assert_array_equal(batch["hr"][..., ::2, ::2, :], batch["lr"])
  loader.close()


def test_records_outside_the_window_are_not_read(write_clips, monkeypatch):
  from sr_jax.data import crops

  folder, _ = write_clips((30, 8, 8))
  loader = make_loader(str(folder), **_options(cache=False))
  loader.close()
  read, real = collections.defaultdict(list), crops._open

  class Source:
    def __init__(self, *names):
      self.records = real(*names)

    def __getitem__(self, row):
      read[threading.get_ident()].append(row)  # two threads read ahead
      return self.records[row]

  monkeypatch.setattr(crops, "_open", Source)
  (batch,) = _take(folder, 1, cache=False, batch_size=1)[:1]
  windows = [
    tuple(rows[i : i + 3])
    for rows in read.values()
    for i in range(0, len(rows), 3)
  ]
  assert _times([batch])[0] in windows


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_frames": 10}, "'clip0' has 9 frames, and a window of num_frames 10"),
    ({"interval": 5}, "with interval 5 takes 11; lower num_frames or interval"),
    ({"num_frames": None, "mirror": True}, "are of clips; give num_frames"),
    ({"num_frames": None, "interval": 2}, "are of clips; give num_frames"),
    ({"num_frames": 0}, "num_frames 0 must be at least 1"),
    ({"interval": ()}, "interval is empty"),
    ({"interval": (1, 0)}, "interval 0 must be at least 1"),
    ({"border": "wrap"}, "border 'wrap' is not one of"),
    ({"patch_size": 10}, "clip0 .*is smaller than a crop"),
    ({"epochs": 1, "batch_size": 9}, "7 windows give no batch of 9"),
  ],
)
def test_mistakes_are_refused(write_clips, options, message):
  folder, _ = write_clips((9, 8, 8))
  with pytest.raises(ValueError, match=message):
    make_loader(str(folder), **_options(**options))


@pytest.mark.data
def test_real_clips(data_dir):
  """The neighbours in a real clip are alike, and its far frames less so."""
  folder = data_dir / "video" / "ntia_aspen"
  (batch,) = _take(folder, 1, num_frames=5, patch_size=64, cache=False)
  assert batch.shape == (4, 5, 64, 64, 3)
  near, far = (
    np.abs(batch[:, 0].astype(float) - batch[:, i]).mean() for i in (1, 4)
  )
  assert 0 < near < far
