"""Sparse coding: its codes by their optimality, its pieces by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from sr_jax import models
from sr_jax.data import load_images
from sr_jax.evaluation import evaluate, prepare
from sr_jax.models import sparse_coding
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize

RNG = np.random.default_rng(0)


def _unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_codes_are_the_minimum():
  """Every coefficient: its slope is the penalty, or it is zero and within."""
  atoms = _unit(RNG.standard_normal((40, 20))).T.astype(np.float32)
  samples = _unit(RNG.standard_normal((7, 20))).astype(np.float32)
  codes = sparse_coding._codes(
    jnp.asarray(samples),
    jnp.asarray(atoms),
    sparse_coding._step_size(jnp.asarray(atoms)),
    penalty=0.1,
    steps=2000,
  )
  codes = np.asarray(codes, np.float64)
  slope = (samples - codes @ atoms.T) @ atoms
  used = codes != 0
  assert 20 < used.sum() < codes.size / 2
  np.testing.assert_allclose(slope[used], 0.1 * np.sign(codes[used]), atol=1e-4)
  assert np.abs(slope[~used]).max() < 0.1 + 1e-4


def test_features_are_gradients_of_the_image_enlarged_twice():
  lr = RNG.random((7, 6, 1)).astype(np.float32)
  found = np.asarray(sparse_coding._features(jnp.asarray(lr)))
  assert found.shape == (7, 6, 144)
  zoomed = np.float64(imresize(lr, 2)[..., 0])
  maps = [
    scipy.ndimage.correlate1d(zoomed, taps, axis, mode="nearest")
    for taps in ((-1, 0, 1), (1, 0, -2, 0, 1))
    for axis in (0, 1)
  ]
  # The patch of 3x3 around pixel (3, 2), cell by cell.
  want = [
    maps[k][2 * (2 + i) + y, 2 * (1 + j) + x]
    for i in range(3)
    for j in range(3)
    for y in range(2)
    for x in range(2)
    for k in range(4)
  ]
  np.testing.assert_allclose(found[3, 2], want, atol=1e-5)


def test_patches_that_agree_are_the_image():
  image = RNG.random((5 * 3, 4 * 3)).astype(np.float32)
  cells = image.reshape(5, 3, 4, 3).swapaxes(1, 2).reshape(5, 4, 9)
  patches = sparse_coding._windows(jnp.asarray(cells))
  np.testing.assert_allclose(
    sparse_coding._averaged(patches, 3), image, atol=1e-6
  )


def test_without_atoms_that_say_anything_it_is_bicubic_corrected():
  """Made small again it is the low-resolution image, as far as it goes."""
  model = models.SparseCoding(scale=2, num_atoms=3, num_projections=40)
  lr = RNG.random((2, 9, 8, 1)).astype(np.float32)
  variables = {
    "params": {"low": jnp.ones((144, 3)), "high": jnp.zeros((3, 36))}
  }
  sr = np.asarray(model.apply(variables, jnp.asarray(lr)))
  again = np.stack([imresize(x, 1 / 2) for x in sr])
  bicubic = np.stack([imresize(imresize(x, 2), 1 / 2) for x in lr])
  assert np.abs(again - lr).max() < 0.05 * np.abs(bicubic - lr).max()
  plain = model.clone(num_projections=1).apply(variables, jnp.asarray(lr))
  up = np.stack([imresize(x, 2) for x in lr])
  want = up + np.stack([imresize(x, 2) for x in lr - bicubic])
  np.testing.assert_allclose(plain, want, atol=1e-5)


def _photos(split):
  return load_images("photos", split=split)


def _fit(model, images, **options):
  luma = [np.asarray(rgb_to_y(np.float32(x) / 255)) for x in images]
  return sparse_coding.fit(model, luma, jax.random.key(0), **options)


@pytest.mark.slow
def test_what_is_learned_is_better_than_bicubic():
  """64 atoms of seven photographs, on three others."""
  model = models.SparseCoding(scale=2, num_atoms=64, num_steps=20)
  images = [x[:240, :240] for _, x in _photos("train")]
  counts = []
  variables = _fit(
    model, images, num_patches=20_000, num_batches=20, on_batch=counts.append
  )
  assert counts == list(range(1, 21))
  low = np.asarray(variables["params"]["low"])
  np.testing.assert_allclose(np.linalg.norm(low, axis=0), 1, atol=1e-5)
  crops = [(name, x[:200, :200]) for name, x in _photos("test")]
  benchmark = prepare("photos", scale=2, channels=1, images=crops)
  result = evaluate(model, variables, benchmark)
  assert result.mean("psnr") > result.mean("bicubic_psnr") + 0.5


def test_too_few_patches_are_refused():
  with pytest.raises(ValueError, match=r"patches with an edge .* num_atoms 10"):
    _fit(models.SparseCoding(scale=2), [np.zeros((20, 20, 3), np.uint8)])


_FLAT = np.full((20, 20), 0.5)


@pytest.mark.parametrize(
  ("images", "options", "message"),
  [
    ([], {}, "number of images 0 must be at least 1"),
    ([_FLAT], {"num_patches": 0}, "num_patches 0 must be at least 1"),
    ([_FLAT], {"num_batches": -1}, "num_batches -1 must be at least 1"),
    ([_FLAT, _FLAT[:1]], {}, r"images\[1\] .* fewer than x2"),
    ([np.zeros((9, 9, 3))], {}, r"images\[0\] .*rule is Y"),
    ([255 * _FLAT], {}, "divide 8 bits by 255"),
  ],
)
def test_what_cannot_be_learned_from_is_refused(images, options, message):
  model = models.SparseCoding(scale=2)
  with pytest.raises(ValueError, match=message):
    sparse_coding.fit(model, images, jax.random.key(0), **options)


def test_colours_are_refused():
  model = models.SparseCoding(in_channels=3)
  with pytest.raises(ValueError, match="in_channels 3 must be 1"):
    jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
