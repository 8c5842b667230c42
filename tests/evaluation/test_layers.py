"""Filters and feature maps as pictures."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from sr_jax import weights
from sr_jax.evaluation import layers
from sr_jax.models import (
  FSRCNN,
  BasicVSR,
  DCGANGenerator,
  MSRResNet,
  SparseCoding,
  SPyNet,
  SRGANDiscriminator,
  feature_maps,
)
from tests.weights.odd import filled

TINY = FSRCNN(scale=2, num_features=4, shrink_features=2, num_blocks=1)


@pytest.fixture
def saved(tmp_path):
  variables = jax.jit(TINY.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  variables["params"]["feature"]["bias"] = jnp.arange(4.0)
  path = tmp_path / "net.safetensors"
  weights.save(path, TINY, variables)
  return path, variables


@pytest.fixture
def picture(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
  path = tmp_path / "picture.png"
  cv2.imwrite(str(path), image)
  return path


def test_maps_are_the_layers_own(saved):
  _, variables = saved
  lr = np.random.default_rng(0).random((1, 9, 8, 1)).astype(np.float32)
  found = feature_maps(TINY, variables, jnp.asarray(lr))
  assert list(found) == ["feature", "shrink", "map_0", "expand", "deconv"]
  kernel = np.asarray(variables["params"]["feature"]["kernel"], np.float64)
  for i in range(4):
    want = scipy.signal.correlate2d(lr[0, ..., 0], kernel[..., 0, i], "same")
    np.testing.assert_allclose(found["feature"][0, ..., i], want + i, atol=1e-5)
  sr = TINY.apply(variables, jnp.asarray(lr))
  np.testing.assert_array_equal(found["deconv"], sr)


def test_blocks_in_a_loop_are_left_out():
  model = MSRResNet(scale=2, num_features=4, num_blocks=2)
  lr = jnp.zeros((1, 8, 8, 3))
  found = feature_maps(model, jax.jit(model.init)(jax.random.key(0), lr), lr)
  assert list(found) == ["conv_first", "upconv1", "conv_hr", "conv_last"]
  assert found["upconv1"].shape == (1, 8, 8, 16)


def test_a_filter_is_grey_at_zero_and_white_or_black_at_its_largest():
  kernel = np.zeros((3, 3, 1, 18), np.float32)
  kernel[0, 2, 0, 0], kernel[1, 1, 0, 0] = 0.5, -0.25
  kernel[2, 0, 0, 17] = -8
  drawn = layers.draw_filters(kernel)
  # 3x3 pixels 12 times enlarged, 16 in a row, lines of two pixels between.
  assert drawn.shape == (2 * 38 + 2, 16 * 38 + 2, 3)
  first = drawn[2:38:12, 2:38:12, 0].tolist()
  assert first == [[128, 128, 255], [128, 64, 128], [128, 128, 128]]
  last = drawn[40:76:12, 40:76:12, 0]
  assert last[2, 0] == 0
  assert np.all(drawn[:2] == 255)
  assert np.all(drawn[40:, 78:] == 255)  # there are 18


def test_filters_of_colours_are_coloured_and_others_are_in_rows():
  kernel = np.zeros((1, 1, 3, 1), np.float32)
  kernel[0, 0] = [[1], [-1], [0]]
  drawn = layers.draw_filters(kernel)
  assert drawn[3, 3].tolist() == [255, 0, 128]
  kernel = np.ones((3, 3, 5, 40), np.float32)
  assert layers.draw_filters(kernel).shape == (16 * 38 + 2, 5 * 38 + 2, 3)


def test_maps_go_from_black_to_white():
  maps = np.zeros((40, 40, 3), np.float32)
  maps[..., 1] = np.linspace(-5, 7, 40)
  drawn = layers.draw_maps(maps)
  assert drawn.shape == (44, 3 * 42 + 2, 3)
  assert np.all(drawn[2:42, 2:42] == 0)  # one without contrast
  assert drawn[10, 44, 0] == 0
  assert drawn[10, 83, 0] == 255


def test_the_command(saved, picture, tmp_path, capsys):
  path, variables = saved
  out = tmp_path / "out.png"
  assert layers.main([str(path), f"--output={out}"]) == 0
  assert "filters of feature, 5 x 5 x 1 x 4" in capsys.readouterr().out
  kernel = np.asarray(variables["params"]["feature"]["kernel"])
  drawn = cv2.cvtColor(cv2.imread(str(out)), cv2.COLOR_BGR2RGB)
  np.testing.assert_array_equal(drawn, layers.draw_filters(kernel))

  assert layers.main([str(path), f"--output={out}", "--layer=map_0"]) == 0
  assert "filters of map_0, 3 x 3 x 2 x 2" in capsys.readouterr().out
  arguments = [str(path), f"--output={out}", f"--image={picture}"]
  assert layers.main(arguments) == 0
  assert "4 feature maps of feature" in capsys.readouterr().out
  # 20x15 pixels are enlarged twice.
  assert cv2.imread(str(out)).shape == (40 + 4, 4 * 32 + 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
  "model",
  [
    BasicVSR(num_features=4, num_blocks=1, spynet_widths=(2,)),
    SPyNet(widths=(2,)),
    SRGANDiscriminator(num_features=1),
  ],
)
def test_networks_that_take_more_than_a_picture(model, picture, tmp_path):
  """Clips and pairs of it, or one of the size that they are for."""
  path, out = tmp_path / "net.safetensors", tmp_path / "out.png"
  weights.save(path, model, filled(model))
  assert layers.main([str(path), f"--output={out}", f"--image={picture}"]) == 0
  assert out.exists()


def test_atoms_of_sparse_coding(tmp_path):
  """A dictionary's cells are pixels by rows again."""
  model = SparseCoding(scale=2, num_atoms=1)
  image = np.arange(36.0).reshape(6, 6)
  cells = image.reshape(3, 2, 3, 2).swapaxes(1, 2).reshape(1, 36)
  low = np.ones((144, 1), np.float32)
  path, out = tmp_path / "net.safetensors", tmp_path / "out.png"
  weights.save(path, model, {"params": {"low": low, "high": np.float32(cells)}})
  assert layers.main([str(path), f"--output={out}", "--layer=low"]) == 2
  assert layers.main([str(path), f"--output={out}"]) == 0
  drawn = cv2.imread(str(out))[2:38:6, 2:38:6, 0]
  np.testing.assert_array_equal(
    drawn, np.round(127.5 + 127.5 * image / 35).astype(np.uint8)
  )


def test_mistakes_are_one_line(saved, picture, tmp_path, capsys):
  path, out = saved[0], tmp_path / "out.png"
  dcgan, model = tmp_path / "dcgan.safetensors", DCGANGenerator(num_features=1)
  weights.save(dcgan, model, filled(model))
  for arguments, message in (
    ([path, f"--output={tmp_path / 'out.jpg'}"], "does not end in .png"),
    ([path, f"--output={out}", "--layer=conv"], "'conv' is not one of ['feat"),
    (["bicubic", f"--output={out}"], "'bicubic' has no layers"),
    ([dcgan, f"--output={out}", f"--image={picture}"], "takes no picture"),
    ([tmp_path / "gone", f"--output={out}"], "there is no weight file"),
    ([path, f"--output={out}", f"--image={path}"], str(path)),
    ([path, f"--output={tmp_path / 'gone' / 'x.png'}"], "there is no folder"),
  ):
    assert layers.main([str(x) for x in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
  assert not out.exists()
