"""Clips frame by frame: which frames each kind of network is shown."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.inference import kind, restore_clip, super_resolve
from sr_jax.models import Interpolate, build


class _Window(nn.Module):
  """Says which frames it was shown: a digit each."""

  num_frames: int
  center_frame: int | None = None
  scale: int = 1

  def __call__(self, lr):
    digits = 10.0 ** jnp.arange(self.num_frames)[::-1]
    return jnp.einsum("bthwc,t->bhwc", lr, digits)


_RECURRENT = build(
  "basicvsr", num_features=4, num_blocks=1, spynet_widths=(4, 4, 4, 4)
)


def _clip(length):
  return [np.full((2, 3, 3), t, np.float32) for t in range(length)]


def test_kinds():
  assert kind(Interpolate()) == "image"
  assert kind(_Window(num_frames=5)) == "window"
  assert kind(_RECURRENT) == "clip"


@pytest.mark.parametrize("batch_pixels", [1, 2 * 14 * 18, 2**20])
def test_a_network_of_images_sees_each_frame_alone(batch_pixels):
  rng = np.random.default_rng(0)
  frames = [rng.random((7, 9, 3), np.float32) for _ in range(5)]
  model = Interpolate(scale=2)
  restored = list(restore_clip(model, {}, frames, batch_pixels=batch_pixels))
  expected = super_resolve(model, {}, frames)
  assert len(restored) == 5
  for a, b in zip(restored, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_network_of_windows_sees_the_neighbours():
  restored = restore_clip(_Window(num_frames=5), {}, _clip(6))
  assert [int(frame[0, 0, 0]) for frame in restored] == [
    43012,  # EDVR's padding: what lies beyond the other end of the window
    40123,
    1234,
    12345,
    23451,
    34521,
  ]
  replicated = restore_clip(
    _Window(num_frames=3), {}, _clip(2), padding="replicate"
  )
  assert [int(frame[0, 0, 0]) for frame in replicated] == [1, 11]


def test_the_restored_frame_stands_where_the_network_has_it():
  first = restore_clip(_Window(num_frames=3, center_frame=0), {}, _clip(5))
  # Beyond the end what lies before the window of as many on both sides.
  assert [int(frame[0, 0, 0]) for frame in first] == [12, 123, 234, 340, 410]
  last = restore_clip(_Window(num_frames=2, center_frame=1), {}, _clip(3))
  assert [int(frame[0, 0, 0]) for frame in last] == [20, 1, 12]


@pytest.mark.parametrize("model", [_Window(num_frames=3), Interpolate()])
def test_frames_that_are_not_wanted_are_not_restored(model):
  some = list(restore_clip(model, {}, _clip(5), only=(1, 4)))
  every = list(restore_clip(model, {}, _clip(5)))
  np.testing.assert_array_equal(some, [every[1], every[4]])


@pytest.mark.slow
def test_a_network_of_clips_sees_all_frames():
  rng = np.random.default_rng(0)
  clip = jnp.asarray(rng.random((1, 3, 20, 18, 3), np.float32))
  variables = jax.jit(_RECURRENT.init)(jax.random.key(0), clip)
  restored = np.stack(
    list(restore_clip(_RECURRENT, variables, [*np.asarray(clip[0])]))
  )
  expected = _RECURRENT.apply(variables, clip)[0]
  np.testing.assert_allclose(restored, expected, rtol=0, atol=2e-5)


def test_no_frames_and_other_sizes():
  assert list(restore_clip(Interpolate(), {}, [])) == []
  with pytest.raises(ValueError, match="the frames of a clip have one size"):
    list(restore_clip(Interpolate(), {}, [*_clip(1), np.zeros((3, 3, 3))]))
  levels = [np.zeros((8, 8, 3), np.uint8)]
  for model in (_Window(num_frames=1), Interpolate(), _RECURRENT):
    with pytest.raises(ValueError, match=r"frames\[0\] is uint8 .* by 255"):
      list(restore_clip(model, {}, levels))
