"""The papers' numbers are in the recipes.

Those of RECIPES.md (BasicSR's and MMagic's option files) and of the papers.
"""

import importlib
import pathlib

import numpy as np
import pytest

from sr_jax.training import experiment
from sr_jax.training.schedules import SCHEDULES

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
  monkeypatch.syspath_prepend(str(_ROOT))


def _recipe(name, variant):
  return importlib.import_module(f"configs.{name}").get_config(variant)


def _rate(config, section="schedule"):
  """Schedule of a network, as the step will ask it."""
  fields = dict(config[section])
  return SCHEDULES[fields.pop("name")](**fields)


def _adam(config, section="optimizer"):
  fields = config[section]
  assert fields.name == "adam"
  return fields.b1, fields.b2


def _model(config, *names):
  return tuple(config.model[name] for name in names)


def test_numbers_of_srresnet_and_msrresnet():
  """Card 3 (BasicSR 001 to 003), and Ledig et al., sec. 3.2."""
  for scale, crop in ((2, 64), (3, 96), (4, 128)):
    config = _recipe("msrresnet", f"x{scale}")
    assert (config.data.patch_size, config.data.batch_size) == (crop, 16)
    assert (config.data.train, config.data.sub_image_size) == ("div2k", 480)
    assert config.data.sub_image_step == 240
    assert _model(config, "num_features", "num_blocks") == (64, 16)
    assert (config.loss.name, config.loss.weight) == ("l1", 1.0)
    assert (config.steps, config.ema_decay) == (1_000_000, 0.999)
    assert _adam(config) == (0.9, 0.99)
    rate = _rate(config)
    np.testing.assert_allclose(
      [rate(0), rate(125_000), rate(249_999), rate(250_001), rate(999_999)],
      [2e-4, 1e-4 + 5e-8, 1e-7, 2e-4, 1e-7],
      rtol=1e-3,
    )
  config = _recipe("srresnet", "")
  assert (config.loss.name, config.steps) == ("mse", 1_000_000)
  assert (config.data.patch_size, config.data.batch_size) == (96, 16)
  assert (config.optimizer.b1, config.ema_decay) == (0.9, 0)
  rate = _rate(config)
  assert rate(0) == rate(999_999) == 1e-4


def test_numbers_of_edsr():
  """Card 12."""
  for scale, crop in ((2, 96), (3, 144), (4, 192)):
    config = _recipe("edsr", f"x{scale},large")
    assert (config.data.patch_size, config.data.batch_size) == (crop, 16)
    assert _model(config, "num_features", "num_blocks", "residual_scale") == (
      256,
      32,
      0.1,
    )
  config = _recipe("edsr", "")
  assert _model(config, "scale", "num_features", "num_blocks") == (2, 64, 16)
  assert config.model.residual_scale == 1
  assert (config.loss.name, config.steps) == ("l1", 300_000)
  rate = _rate(config)
  np.testing.assert_allclose(
    [rate(0), rate(199_999), rate(200_001)], [1e-4, 1e-4, 5e-5], rtol=1e-6
  )


@pytest.mark.parametrize("size", ["m", "l"])
@pytest.mark.parametrize("tsa", [False, True])
def test_numbers_of_edvr(size, tsa):
  """Card 6 (BasicSR 101 to 104)."""
  config = _recipe("edvr", f"{size}{',from=RUN' if tsa else ',wotsa'}")
  assert _model(
    config,
    "num_features",
    "num_frames",
    "deformable_groups",
    "num_extract_blocks",
    "num_reconstruct_blocks",
    "tsa",
  ) == (*((64, 5, 8, 5, 10) if size == "m" else (128, 5, 8, 5, 40)), tsa)
  assert config.model.max_offset is None
  data = config.data
  assert (data.train, data.num_frames, data.interval) == ("reds", 5, 1)
  assert (data.patch_size, data.batch_size) == (256, 32)
  assert config.loss.to_dict() == {
    "name": "charbonnier",
    "weight": 1.0,
    "reduction": "sum",
    "eps": 1e-12,
  }
  assert (config.steps, config.ema_decay, config.seed) == (600_000, 0.999, 10)
  assert _adam(config) == (0.9, 0.99)
  rate = _rate(config)
  starts = [0, 50, 150, 300, 450] if tsa else [0, 150, 300, 450]
  again = 1.0 if size == "m" else 0.5
  for start, end in zip(starts, [*starts[1:], 600], strict=True):
    top = 4e-4 if start == 0 else 4e-4 * again
    np.testing.assert_allclose(rate(start * 1000 + 1), top, rtol=1e-3)
    np.testing.assert_allclose(rate(end * 1000), 1e-7, rtol=1e-4)
  assert len(config.optimizer.freeze) == tsa


@pytest.mark.parametrize("name", ["srgan", "esrgan"])
def test_numbers_of_the_games(name):
  """Cards 4 and 5, second stage: they differ in the game alone."""
  config = _recipe(name, "from=RUN")
  assert (config.data.patch_size, config.data.batch_size) == (128, 16)
  assert config.steps == 400_000
  assert (config.loss.name, config.loss.weight) == ("l1", 1e-2)
  assert config.perceptual.weight == 1
  assert config.perceptual.layer_weights.to_dict() == {"conv5_4": 1.0}
  assert config.perceptual.criterion == "l1"
  assert config.perceptual.input_norm
  assert not config.perceptual.range_norm
  assert (config.adversarial.weight, config.adversarial.kind) == (
    5e-3,
    "vanilla",
  )
  assert config.adversarial.relativistic == (name == "esrgan")
  assert config.adversarial.real_label == 1
  assert config.discriminator.to_dict() == {
    "name": "vgg_discriminator",
    "num_features": 64,
    "input_size": 128,
  }
  assert (config.d_steps, config.d_init_steps) == (1, 0)
  assert config.ema_decay == 0.999
  for network in ("", "d_"):
    assert _adam(config, f"{network}optimizer") == (0.9, 0.99)
    rate = _rate(config, f"{network}schedule")
    np.testing.assert_allclose(
      [rate(k * 1000) for k in (49, 51, 101, 201, 301)],
      1e-4 / 2.0 ** np.arange(5),
      rtol=1e-6,
    )


def test_numbers_of_rrdbnet():
  """Card 5, first stage; and Real-ESRGAN's losses with `unet`."""
  config = _recipe("esrgan", "psnr")
  assert _model(config, "num_features", "num_blocks", "growth_features") == (
    64,
    23,
    32,
  )
  assert (config.data.patch_size, config.data.batch_size) == (128, 16)
  assert (config.loss.name, config.loss.weight) == ("l1", 1.0)
  assert (config.steps, config.discriminator.name) == (1_000_000, "")
  rate = _rate(config)
  np.testing.assert_allclose(
    [rate(0), rate(250_001), rate(999_999)], [2e-4, 2e-4, 1e-7], rtol=1e-3
  )
  config = _recipe("esrgan", "unet")
  assert config.discriminator.name == "unet_discriminator"
  assert (config.loss.weight, config.adversarial.weight) == (1.0, 0.1)
  assert not config.adversarial.relativistic
  assert config.perceptual.layer_weights.to_dict() == {
    "conv1_2": 0.1,
    "conv2_2": 0.1,
    "conv3_4": 1.0,
    "conv4_4": 1.0,
    "conv5_4": 1.0,
  }


def test_numbers_of_the_srgan_paper():
  """Ledig et al. 2017, sec. 3.2: VGG54 / 12.75, and 1e-3 of the game."""
  config = _recipe("srgan", "paper")
  assert config.model.name == "srresnet"
  assert config.discriminator.to_dict() == {
    "name": "srgan_discriminator",
    "num_features": 64,
    "input_size": 96,
  }
  assert config.loss.weight == 0
  assert config.perceptual.layer_weights.to_dict() == {"relu5_4": 0.006}
  assert config.perceptual.criterion == "l2"
  assert config.perceptual.weight == 1
  assert (config.adversarial.weight, config.adversarial.kind) == (
    1e-3,
    "vanilla",
  )
  assert not config.adversarial.relativistic
  assert (config.data.patch_size, config.data.batch_size) == (96, 16)
  assert config.steps == 200_000
  for network in ("", "d_"):
    rate = _rate(config, f"{network}schedule")
    np.testing.assert_allclose(
      [rate(0), rate(99_999), rate(100_001)], [1e-4, 1e-4, 1e-5], rtol=1e-6
    )
    assert config[f"{network}optimizer"].b1 == 0.9


def test_numbers_of_the_dcgan_paper():
  """Radford et al. 2016, sec. 4."""
  config = _recipe("dcgan", "")
  assert _model(config, "latent_features", "image_size") == (100, 64)
  assert (config.data.patch_size, config.data.batch_size) == (64, 128)
  assert (config.loss.weight, config.adversarial.weight) == (0, 1)
  assert config.adversarial.kind == "vanilla"
  assert config.perceptual.weight == 0
  for network in ("", "d_"):
    assert _adam(config, f"{network}optimizer")[0] == 0.5
    assert _rate(config, f"{network}schedule")(50_000) == 2e-4


def test_numbers_of_srcnn_and_fsrcnn():
  """Cards 1 and 2, Dong et al. 2016."""
  fsrcnn = _recipe("fsrcnn", "x3")
  assert (fsrcnn.data.patch_size, fsrcnn.optimizer.momentum) == (21, 0.9)
  assert fsrcnn.data.scales == (1.0, 0.9, 0.8, 0.7, 0.6)
  schedule = experiment.build(fsrcnn).schedule
  assert schedule(0) == schedule(10**7) == 1e-3
  assert tuple(fsrcnn.optimizer.multipliers) == (("deconv", 0.1),)
  mmagic = _recipe("srcnn", "mmagic")
  assert (mmagic.data.patch_size, mmagic.data.batch_size) == (128, 16)
  schedule = experiment.build(mmagic).schedule
  np.testing.assert_allclose(schedule(250_001), 2e-4, rtol=1e-6)
  np.testing.assert_allclose(schedule(1_000_000), 1e-7)
  srcnn = _recipe("srcnn", "")
  assert (srcnn.data.patch_size, srcnn.data.batch_size) == (33, 128)
  assert tuple(srcnn.optimizer.multipliers) == (("conv3", 0.1),)


def test_numbers_of_basicvsr_and_those_after_it():
  """Cards 7, 8 and 9."""
  for name, steps, rate, frames, factor in (
    ("basicvsr", 300_000, 2e-4, 15, 0.125),
    ("iconvsr", 300_000, 2e-4, 15, 0.125),
    ("basicvsr_plusplus", 600_000, 1e-4, 30, 0.25),
  ):
    config = _recipe(name, "")
    assert (config.steps, config.ema_decay) == (steps, 0.999)
    assert (config.data.num_frames, config.data.batch_size) == (frames, 8)
    assert (config.data.patch_size, config.data.train) == (256, "reds")
    assert config.loss.to_dict() == {
      "name": "charbonnier",
      "weight": 1.0,
      "eps": 1e-12,
    }
    assert _adam(config) == (0.9, 0.99)
    schedule = _rate(config)
    np.testing.assert_allclose(
      [schedule(0), schedule(steps)], [rate, 1e-7], rtol=1e-5
    )
    assert tuple(config.optimizer.multipliers) == (("^spynet/", factor),)
    still = "^(spynet|edvr)/" if name == "iconvsr" else "^spynet/"
    assert tuple(config.optimizer.freeze) == ((still, 0, 5000),)
    vimeo = _recipe(name, "vimeo,bd")
    assert (vimeo.data.num_frames, vimeo.data.mirror) == (7, True)
    assert (vimeo.degradation, vimeo.data.train) == ("BD", "vimeo90k")
    assert vimeo.steps == 300_000
  assert not _recipe("basicvsr_plusplus", "vimeo").optimizer.freeze
  assert _model(_recipe("basicvsr", ""), "num_features", "num_blocks") == (
    64,
    30,
  )
  assert _model(_recipe("basicvsr_plusplus", ""), "num_blocks") == (7,)
  for variant, padding, file in (
    ("", 2, "edvr_reds_pretrained_new"),
    ("vimeo", 3, "edvr_vimeo90k_pretrained"),
  ):
    config = _recipe("iconvsr", variant)
    fields = ("keyframe_stride", "temporal_padding")
    assert _model(config, *fields) == (5, padding)
    assert config.init_parts.edvr == f"weights/{file}.pth"
  published = {
    ("edvr", "l,wotsa"): "edvr_l_reds_wotsa",
    ("edvr", ""): "edvr_m_reds",
    ("basicvsr", ""): "basicvsr_reds",
    ("basicvsr", "cpu"): "",
    ("iconvsr", "vimeo"): "iconvsr_vimeo90k_bi",
    ("basicvsr_plusplus", "vimeo,bd"): "basicvsr_plusplus_vimeo90k_bd",
  }
  for recipe, key in published.items():
    assert _recipe(*recipe).published == key
