"""Windows of frames against BasicSR's lists, and against counting."""

import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.data import temporal
from tests.golden import golden_io


def test_frame_indices_are_those_of_basicsr():
  arrays, _, _ = golden_io.load("frame_indices")
  assert len(arrays) == 4 * len(temporal.PADDINGS)
  for name, expected in arrays.items():
    length, num_frames, padding = name.split("_", 2)
    ours = [
      temporal.frame_indices(
        center, int(length[3:]), int(num_frames[1:]), padding=padding
      )
      for center in range(len(expected))
    ]
    np.testing.assert_array_equal(ours, expected, err_msg=name)


def test_neighbours_are_those_of_basicsr():
  arrays, _, _ = golden_io.load("dataset_neighbor_lists")
  ours = {
    # Vimeo's frames are counted from 1.
    **{f"vimeo_neighbors_{n}": temporal.centered(3, n) + 1 for n in (3, 5, 7)},
    "reds_c50_n5_i1": temporal.centered(50, 5),
    "reds_c10_n5_i2": temporal.centered(10, 5, 2),
    "reds_c97_n3_i1": temporal.centered(97, 3),
    "reds_c93_n7_i2": temporal.centered(93, 7, 2),
    "reds_recurrent_s0_n15_i1": temporal.window(0, 15),
    "reds_recurrent_s80_n7_i2": temporal.window(80, 7, 2),
  }
  assert set(ours) == set(arrays)
  for name, expected in arrays.items():
    np.testing.assert_array_equal(ours[name], expected, err_msg=name)
  assert temporal.num_windows(100, 15) == 86
  assert temporal.num_windows(100, 7, 2) == 88
  assert temporal.window(87, 7, 2)[-1] == 99  # the last of the 88


def _draw(count, *, length, parts=1, **options):
  words = np.random.Philox(key=[1, 2]).random_raw(2 * count).reshape(-1, 2)
  full = np.full(count, length)
  return temporal.draw_windows(
    words,
    lengths=full,
    parts=np.arange(count) % parts,
    part_counts=np.full(count, parts),
    **({"intervals": (1,), "random_reverse": False} | options),
  )


def test_every_window_is_equally_likely():
  windows = _draw(4000, length=8, num_frames=3, intervals=(1, 2))
  steps = windows[:, 1] - windows[:, 0]
  assert set(steps) == {1, 2}
  np.testing.assert_array_equal(windows[:, 2] - windows[:, 1], steps)
  for step, number in ((1, 6), (2, 4)):
    starts = windows[steps == step, 0]
    counts = np.bincount(starts)
    assert len(counts) == number
    expected = len(starts) / number
    # A chi-square of at most 5 degrees of freedom: below 30 but once in 1e5.
    assert ((counts - expected) ** 2 / expected).sum() < 30
  assert abs((steps == 1).mean() - 0.5) < 0.04


@pytest.mark.parametrize("length", [7, 40])
def test_an_epoch_goes_through_every_window_once(length):
  count = length - 6
  windows = _draw(count, length=length, parts=count, num_frames=7)
  np.testing.assert_array_equal(windows[:, 0], np.arange(count))
  np.testing.assert_array_equal(windows[:, -1], np.arange(count) + 6)


def test_of_a_longer_interval_an_epoch_takes_windows_evenly():
  windows = _draw(40, length=40, parts=40, num_frames=7, intervals=(3,))
  starts = windows[:, 0]  # of 22 places
  assert (np.diff(starts) >= 0).all()
  np.testing.assert_allclose(starts, np.arange(40) * 22 / 40, atol=1.0)


def test_half_of_the_windows_run_backwards():
  plain = _draw(1000, length=30, num_frames=4)
  turned = _draw(1000, length=30, num_frames=4, random_reverse=True)
  backwards = turned[:, 0] > turned[:, 1]
  np.testing.assert_array_equal(turned[~backwards], plain[~backwards])
  np.testing.assert_array_equal(turned[backwards], plain[backwards, ::-1])
  assert 430 < backwards.sum() < 570
  # Which way a window runs tells nothing of where it is.
  assert abs(plain[backwards, 0].mean() - plain[~backwards, 0].mean()) < 2


def test_mirror_extension():
  clip = np.arange(7.0).reshape(1, 7, 1, 1, 1)
  expected = [0, 1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1, 0]
  for x in (clip, jnp.asarray(clip)):
    extended = temporal.mirror_extend(x)
    assert type(extended) is type(x)
    np.testing.assert_array_equal(np.asarray(extended).ravel(), expected)


def test_mistakes_are_refused():
  def frames(center, length, num_frames, padding="reflection"):
    return temporal.frame_indices(center, length, num_frames, padding=padding)

  with pytest.raises(ValueError, match="padding 'mirror' is not one of"):
    frames(0, 9, 3, "mirror")
  with pytest.raises(ValueError, match="num_frames 4 must be odd"):
    frames(0, 9, 4)
  with pytest.raises(ValueError, match="center 9 is not in"):
    frames(9, 9, 3)
  with pytest.raises(ValueError, match=r"2 frames is too short.*'replicate'"):
    frames(0, 2, 5)
  assert frames(0, 2, 5, "replicate").tolist() == [0, 0, 0, 1, 1]
  with pytest.raises(ValueError, match="of 12 frames has no window of 7"):
    _draw(3, length=12, num_frames=7, intervals=(1, 2))
