"""Every recipe in every variant can be built; the smoke variants run."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
from absl import flags

from sr_jax import training
from sr_jax.training import experiment

_ROOT = pathlib.Path(__file__).parents[1]

_VARIANTS = {
  "quickstart": ["", "smoke"],
  "srcnn": ["", "x2", "x4,955", "935,adam", "mmagic", "mmagic,935", "smoke"],
  "fsrcnn": ["", "x2", "x4,small", "x3,adam", "x2,adam,from=RUN", "smoke"],
}


def _recipe(name, variant):
  return importlib.import_module(f"configs.{name}").get_config(variant)


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(str(_ROOT))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def test_every_recipe_is_tried():
  names = {p.stem for p in (_ROOT / "configs").glob("*.py")}
  assert names - {"common"} == set(_VARIANTS)


@pytest.mark.parametrize(
  ("name", "variant"), [(n, v) for n, vs in _VARIANTS.items() for v in vs]
)
def test_it_can_be_built(name, variant):
  config = _recipe(name, variant)
  parts = experiment.build(config)
  assert config.name.startswith(name)
  assert parts.channels == (3 if "mmagic" in variant else 1)
  # Every field is one that common.base() lists, so that flags reach it.
  base = importlib.import_module("configs.common").base()
  assert set(config) == set(base)
  assert set(config.data) == set(base.data)


def test_variants_have_workdirs_of_their_own():
  names = [_recipe(n, v).name for n, vs in _VARIANTS.items() for v in vs]
  assert len(set(names)) == len(names)


@pytest.mark.parametrize(
  ("name", "variant", "message"),
  [
    ("fsrcnn", "x5", "did you mean 'x"),
    ("fsrcnn", "from=", "no variant 'from='"),
    ("fsrcnn", "x2,x3", "one scale at a time"),
    ("srcnn", "935,955", "one set of kernel sizes"),
    ("srcnn", "from=x", "no variant 'from=x'"),
  ],
)
def test_a_wrong_variant_is_named(name, variant, message):
  with pytest.raises(ValueError, match=message):
    _recipe(name, variant)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_of_a_batch_have_the_loss_of_the_whole(reduction):
  """A sum over the batch is the sum of its parts, a mean their mean."""
  hr = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), "uint8")
  losses = []
  for accumulate in (1, 2):
    config = _recipe("quickstart", "")
    config.accumulate = accumulate
    with config.unlocked():
      config.loss.reduction = reduction
    parts = experiment.build(config)
    state = parts.init_state(jax.random.key(0))
    step = jax.jit(parts.step)
    losses.append(step(state, {"hr": hr}, jax.random.key(0))[1]["loss"])
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_papers_numbers_are_in_the_recipes():
  """RECIPES.md cards 1 and 2, Dong et al. 2016."""
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


@pytest.mark.parametrize("name", ["srcnn", "fsrcnn"])
def test_smoke_runs(name, tmp_path, monkeypatch):
  """The recipe's own optimizer on real photographs, without blowing up."""
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  config = _recipe(name, "smoke")
  results = training.train(config, tmp_path / "run")
  assert np.isfinite(results["photos/psnr"])
  assert results["photos/psnr"] > 3  # black is 5 to 8 dB
  assert results["photos/bicubic_psnr"] > 25
  assert (tmp_path / "run" / "weights" / "last.safetensors").exists()


@pytest.mark.slow
@pytest.mark.data
def test_the_papers_fsrcnn_recipe_learns(data_dir, tmp_path, monkeypatch):
  """400 steps of SGD as published, from scratch on T91: no divergence."""
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  config = _recipe("fsrcnn", "x3")
  config.data.train = "t91"
  config.data.scales = (1.0,)
  config.steps = config.eval_every = 400
  config.log_every = 200
  results = training.train(config, tmp_path / "run")
  assert results["set5/psnr"] > 20
  jax.clear_caches()
