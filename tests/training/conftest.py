"""Configs of runs that take seconds."""

import importlib

import pytest
from absl import flags

from tests.training import runs


@pytest.fixture
def recipes(monkeypatch, tmp_path):
  """From a recipe's name and variant to its config."""
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.syspath_prepend(str(runs.ROOT))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  return lambda name, variant="": importlib.import_module(
    f"configs.{name}"
  ).get_config(variant)


@pytest.fixture
def images(tmp_path):
  """A folder of four pictures."""
  return str(runs.pictures(tmp_path / "images"))


@pytest.fixture
def config(recipes, images):
  """A tiny FSRCNN x2 on a folder, four images a step."""
  config = recipes("quickstart")
  config.model.num_features = 8
  config.model.shrink_features = 4
  config.data.train = images
  config.data.patch_size = 16
  config.data.batch_size = 4
  config.eval.benchmarks = images
  config.eval.max_images = 1
  config.schedule.periods = (8,)
  config.steps = 6
  config.log_every = 2
  config.eval_every = 3
  config.ema_decay = 0.5
  return config
