"""Many images of several sizes against one at a time, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.inference import images as module
from sr_jax.inference import super_resolve
from sr_jax.models import FSRCNN, Interpolate

_TINY = FSRCNN(scale=2, num_features=4, shrink_features=2, num_blocks=1)
_SHAPES = [(7, 9), (8, 5), (7, 9), (8, 5), (7, 9)]


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return [rng.random((*shape, 1), np.float32) for shape in _SHAPES]


@pytest.fixture(scope="module")
def variables():
  variables = jax.jit(_TINY.init)(jax.random.key(0), jnp.zeros((1, 7, 9, 1)))
  return jax.tree.map(lambda x: x + 0.1, dict(variables))


def test_each_image_as_if_alone(images, variables):
  together = super_resolve(_TINY, variables, images)
  for image, restored in zip(images, together, strict=True):
    alone = _TINY.apply(variables, jnp.asarray(image[None]))[0]
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, alone, rtol=0, atol=1e-6)


def test_small_batches_give_the_same(images, variables):
  seen = []
  restored = super_resolve(
    # Two 14x18 outputs a batch: the last of three is filled up and dropped.
    _TINY,
    variables,
    images,
    batch_pixels=2 * 14 * 18,
    on_image=seen.append,
  )
  assert sum(seen) == len(images)
  for a, b in zip(
    restored, super_resolve(_TINY, variables, images), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_one_program_a_shape_whatever_the_weights(images, variables):
  super_resolve(_TINY, variables, images, batch_pixels=1)
  before = module.apply._cache_size()
  other = jax.tree.map(lambda x: 2 * x, variables)
  super_resolve(_TINY, other, images, batch_pixels=1)
  super_resolve(_TINY, other, images[::-1] * 2, batch_pixels=1)
  assert module.apply._cache_size() == before


def test_no_parameters():
  image = np.arange(12, dtype=np.float64).reshape(3, 4, 1) / 12
  (restored,) = super_resolve(
    Interpolate(scale=2, method="nearest"), {}, [image]
  )
  expected = image.repeat(2, axis=0).repeat(2, axis=1)
  np.testing.assert_allclose(restored, expected, atol=1e-6)
  assert super_resolve(_TINY, {}, []) == []


def test_wrong_input_is_refused():
  with pytest.raises(ValueError, match=r"images\[0\] is float32 \(4, 4\)"):
    super_resolve(_TINY, {}, [np.zeros((4, 4), np.float32)])
  with pytest.raises(ValueError, match="uint8"):
    super_resolve(_TINY, {}, [np.zeros((4, 4, 1), np.uint8)])
  with pytest.raises(ValueError, match="batch_pixels"):
    super_resolve(_TINY, {}, [], batch_pixels=0)
