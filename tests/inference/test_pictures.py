"""A picture in its colours, against its parts done one by one."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.inference import super_resolve, upscale
from sr_jax.models import EDVR, FSRCNN, SRCNN, BasicVSR, Interpolate, SPyNet
from sr_jax.ops.color import rgb_to_ycbcr, to_8_bits
from sr_jax.ops.resize import imresize

_TINY = FSRCNN(scale=3, num_features=4, shrink_features=2, num_blocks=1)


@pytest.fixture(scope="module")
def image():
  return np.random.default_rng(0).integers(60, 200, (9, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def variables():
  variables = jax.jit(_TINY.init)(jax.random.key(0), jnp.zeros((1, 9, 12, 1)))
  return jax.tree.map(lambda x: x + 0.05, dict(variables))


def test_the_network_has_luma_and_bicubic_the_colours(image, variables):
  sr = upscale(_TINY, variables, image)
  assert (sr.shape, sr.dtype) == ((27, 36, 3), np.uint8)
  y = rgb_to_ycbcr(image / 255.0)[..., :1]
  expected = super_resolve(_TINY, variables, [y])[0]
  ycbcr = rgb_to_ycbcr(sr / 255.0)
  inside = np.all((sr > 0) & (sr < 255), axis=-1)  # what was not clipped
  assert inside.mean() > 0.3
  np.testing.assert_allclose(
    ycbcr[inside][:, :1], expected[inside], rtol=0, atol=0.003
  )
  bicubic = rgb_to_ycbcr(np.asarray(imresize(image / 255.0, scale=3)))
  np.testing.assert_allclose(
    ycbcr[inside][:, 1:], bicubic[inside][:, 1:], rtol=0, atol=0.003
  )


def test_of_all_shapes_and_types(image, variables):
  grey = image[..., 0]
  sr = upscale(_TINY, variables, grey)
  assert sr.shape == (27, 36)
  np.testing.assert_array_equal(
    upscale(_TINY, variables, grey[..., None])[..., 0], sr
  )
  np.testing.assert_array_equal(upscale(_TINY, variables, grey / 255.0), sr)
  np.testing.assert_array_equal(
    upscale(_TINY, variables, jnp.asarray(image)),
    upscale(_TINY, variables, image / 255.0),
  )


def test_a_large_picture_takes_few_bytes_a_pixel(variables):
  """And its bands of rows are one picture."""
  image = np.random.default_rng(1).integers(60, 200, (400, 300, 3), np.uint8)
  tracemalloc.start()
  sr = upscale(_TINY, variables, image)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 60 * sr.shape[0] * sr.shape[1]
  top = upscale(_TINY, variables, image[:120])
  np.testing.assert_array_equal(sr[:330], top[:330])


def test_a_network_for_rgb_and_one_without_parameters(image):
  rgb = SRCNN(scale=2, in_channels=3, out_channels=3)
  variables = jax.jit(rgb.init)(jax.random.key(0), jnp.zeros((1, 9, 12, 3)))
  variables = jax.tree.map(lambda x: x + 0.01, dict(variables))
  restored = super_resolve(rgb, variables, [image.astype(np.float32) / 255])
  np.testing.assert_array_equal(
    upscale(rgb, variables, image), to_8_bits(restored[0])
  )
  with pytest.raises(ValueError, match="grey and the network takes RGB"):
    upscale(rgb, variables, image[..., 0])
  bicubic = upscale(Interpolate(scale=2), {}, image)
  expected = np.asarray(imresize(image / 255.0, scale=2)) * 255
  assert np.abs(bicubic - np.clip(expected, 0, 255)).max() <= 0.51


@pytest.mark.parametrize(
  ("model", "shape", "message"),
  [
    (_TINY, (9, 12, 4), "rule is .h, w, 3. in RGB"),
    (_TINY, (1, 9, 12, 3), "rule is .h, w, 3. in RGB"),
    (BasicVSR(), (9, 12, 3), "BasicVSR restores clips"),
    (EDVR(), (9, 12, 3), "EDVR restores clips"),
    (SPyNet(), (9, 12, 3), "SPyNet does not enlarge"),
    (FSRCNN(out_channels=3), (9, 12, 3), "FSRCNN does not enlarge"),
    (_TINY, (0, 12, 3), "rule is .h, w, 3. in RGB"),
  ],
)
def test_what_it_refuses(model, shape, message):
  with pytest.raises(ValueError, match=message):
    upscale(model, {}, np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (np.full((9, 9, 3), 200.0), r"from 200 to 200; .* divide"),
    (np.full((9, 9, 3), -1.0), "from -1 to -1"),
    (np.full((9, 9, 3), np.nan), "from nan to nan"),
    (None, "cv2.imread gives that"),
    ("a.png", "image is the path a.png"),
  ],
)
def test_what_is_no_picture(image, message, variables):
  with pytest.raises(ValueError, match=message):
    upscale(_TINY, variables, image)


def test_variables_of_another_level(image, variables):
  with pytest.raises(ValueError, match="dict with 'params'"):
    upscale(_TINY, variables["params"], image)


def test_whole_numbers_that_are_no_bytes(image, variables):
  with pytest.raises(ValueError, match="int64; the rule is float"):
    upscale(_TINY, variables, image.astype(np.int64))
