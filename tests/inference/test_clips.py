"""Clips frame by frame: the result of the whole, whatever the length."""

import collections.abc

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.inference import super_resolve_clip
from sr_jax.metrics import psnr, ssim
from sr_jax.ops.resize import imresize
from tests.golden import golden_io

MODEL = models.BasicVSR(
  num_features=12, num_blocks=2, spynet_widths=(8, 16, 8, 4)
)


@pytest.fixture(scope="module")
def variables():
  _, params, _ = golden_io.load("basicvsr_narrow")
  return weights.from_torch(MODEL, params)


def _frames(count, shape=(18, 21, 3)):
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, shape, np.uint8) for _ in range(count)]


@pytest.mark.usefixtures("optimized")
def test_frame_by_frame_is_the_recorded_clip(variables):
  arrays, _, record = golden_io.load("basicvsr_narrow")
  clip = golden_io.nhwc(arrays["input"])[0]
  sr = np.stack(list(super_resolve_clip(MODEL, variables, clip)))
  sr = golden_io.nchw(sr)[None]
  atol = record["atol"]["output"]
  np.testing.assert_allclose(
    sr[..., ::3, ::3], arrays["output_sub3"], rtol=0, atol=atol
  )
  np.testing.assert_allclose(
    sr[..., -24:, -24:], arrays["output_crop"], rtol=0, atol=atol
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iconvsr", "basicvsr_plusplus"])
@pytest.mark.parametrize("arguments", [{}, {"is_low_res_input": False}])
def test_networks_that_look_before_they_pass(name, arguments):
  """Key frames have neighbours, and features that wait for later passes."""
  if name == "iconvsr":
    if arguments:
      pytest.skip("an argument of BasicVSR++")
    arguments = {"keyframe_stride": 2}
  model = models.build(
    name, num_features=8, num_blocks=1, spynet_widths=(2,), **arguments
  )
  clip = _frames(4, (10, 13, 3))
  lr = jnp.asarray(np.stack(clip)[None] / 255, jnp.float32)
  rng = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32),
    jax.eval_shape(model.init, jax.random.key(0), lr),
  )
  whole = jax.jit(model.apply)(variables, lr)[0]
  sr = list(super_resolve_clip(model, variables, clip))
  np.testing.assert_allclose(np.stack(sr), whole, atol=1e-4)


@pytest.mark.slow
def test_the_device_holds_no_more_of_a_longer_clip(variables):
  held = []
  for count in (1, 3, 9):
    clip = _frames(count)
    sr = list(super_resolve_clip(MODEL, variables, clip, on_memory=held.append))
    whole = jax.jit(MODEL.apply)(
      variables, jnp.asarray(np.stack(clip)[None] / 255, jnp.float32)
    )
    np.testing.assert_allclose(np.stack(sr), whole[0], atol=2e-4)
  one, three, nine = held
  assert three.device_bytes == nine.device_bytes
  assert one.device_bytes <= three.device_bytes
  # What the backward pass leaves: 12 features and the frame, in float32.
  assert nine.host_bytes == 9 * 18 * 21 * (12 + 3) * 4
  assert nine.host_bytes == 3 * three.host_bytes
  weight_bytes = sum(x.nbytes for x in jax.tree.leaves(variables))
  assert one.device_bytes > weight_bytes


def test_frames_are_asked_for_one_by_one(variables):
  asked = []

  class Files(collections.abc.Sequence):
    def __len__(self):
      return 4

    def __getitem__(self, index):
      asked.append(index)
      return _frames(4)[index]

  restored = super_resolve_clip(MODEL, variables, Files())
  asked.clear()  # beartype looks into what it is given
  next(restored)
  assert asked == [3, 2, 1, 0, 0, 1]  # one frame is on its way
  assert len(list(restored)) == 3
  assert asked == [3, 2, 1, 0, 0, 1, 2, 3]


@pytest.mark.parametrize(
  ("clip", "message"),
  [
    ([], "no frames"),
    ([np.zeros((8, 8, 1), np.uint8)], r"clip\[0\].*\[height, width, 3\]"),
    (
      [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)],
      r"clip\[0\] has shape \(8, 8, 3\), and others have \(8, 9, 3\)",
    ),
    ([np.zeros((8, 8, 3), np.int32)], "uint8, or floats"),
  ],
)
def test_bad_clips_are_refused(variables, clip, message):
  with pytest.raises(ValueError, match=message):
    list(super_resolve_clip(MODEL, variables, clip))


#: On Vid4, all 171 frames, Y, no crop, mean of the four clips' means: the
#: paper's table (Chan et al. 2021, table 1).
VID4_BI = {"psnr": 27.24, "ssim": 0.8251}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_the_authors_weights_give_the_papers_figures(data_dir, real_weights):
  """Takes about five minutes on two cores."""
  model = models.BasicVSR()
  path = real_weights("basicvsr/BasicVSR_Vimeo90K_BIx4.pth")
  variables = weights.from_torch(model, weights.read_pth(path))
  metrics = {"psnr": psnr, "ssim": ssim}
  means = {name: [] for name in metrics}
  frames = 0
  for folder in sorted((data_dir / "Vid4" / "GT").iterdir()):
    hr = [
      cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
      for file in sorted(folder.iterdir())
    ]
    lr = [np.uint8(imresize(x / 255, 1 / 4).clip(0, 1) * 255 + 0.5) for x in hr]
    figures = {name: [] for name in metrics}
    for x, y in zip(super_resolve_clip(model, variables, lr), hr, strict=True):
      x = np.uint8(np.clip(x, 0, 1) * 255 + 0.5)
      for name, metric in metrics.items():
        figures[name].append(metric(x, y, crop_border=0, y_channel=True))
      frames += 1
    for name, values in figures.items():
      means[name].append(np.mean(values))
  assert frames == 171
  assert abs(np.mean(means["psnr"]) - VID4_BI["psnr"]) < 0.01
  assert abs(np.mean(means["ssim"]) - VID4_BI["ssim"]) < 0.001
