"""Every recipe in every variant can be built; the smoke variants run."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
from absl import flags

from sr_jax import models, training
from sr_jax.training import experiment

_ROOT = pathlib.Path(__file__).parents[1]

_VARIANTS = {
  "quickstart": ["", "smoke"],
  "srcnn": [
    "",
    "x2",
    "x4,955",
    "935,muon",
    "x2,muon,from=RUN",
    "mmagic",
    "mmagic,935",
    "smoke",
  ],
  "fsrcnn": [
    "",
    "x2",
    "x4,small",
    "x3,muon",
    "x2,muon,from=RUN",
    "x4,from=RUN",
    "smoke",
  ],
  "msrresnet": ["", "x2", "x3", "x2,from=RUN", "cpu", "x4,cpu", "smoke"],
  "srresnet": ["", "x2", "smoke"],
  "edsr": ["", "x3", "x4,large", "x3,from=RUN", "smoke"],
  "srgan": ["", "from=RUN", "paper", "paper,from=RUN", "smoke", "paper,smoke"],
  "esrgan": [
    "psnr",
    "psnr,x2",
    "psnr,x2,from=RUN",
    "psnr,cpu",
    "psnr,smoke",
    "",
    "x2",
    "from=RUN",
    "unet",
    "unet,from=RUN",
    "cpu,from=RUN",
    "smoke",
    "unet,smoke",
    "cpu,smoke",
  ],
  "dcgan": ["", "cpu", "smoke"],
}
#: Recipes of clips.
_OF_CLIPS = {
  "edvr": [
    "wotsa",
    "",
    "from=RUN",
    "l,wotsa",
    "l,from=RUN",
    "cpu",
    "wotsa,cpu",
    "smoke",
    "wotsa,smoke",
  ],
  "basicvsr": ["", "vimeo", "vimeo,bd", "from=RUN", "cpu", "smoke"],
  "iconvsr": ["", "vimeo,bd", "from=RUN", "smoke"],
  "basicvsr_plusplus": ["", "vimeo", "vimeo,bd,from=RUN", "smoke"],
}
#: Recipes on Y; all others are on RGB, as their figures are.
_ON_Y = ("quickstart", "srcnn", "fsrcnn")


def _recipe(name, variant):
  return importlib.import_module(f"configs.{name}").get_config(variant)


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(str(_ROOT))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def narrow_vgg(monkeypatch):
  """VGG19 of two channels a layer: the full one takes seconds."""
  build = models.build

  def narrow(name, **arguments):
    if name == "vgg19":
      arguments["widths"] = (2,) * 5
    return build(name, **arguments)

  monkeypatch.setattr(models, "build", narrow)


def test_every_recipe_is_tried():
  names = {p.stem for p in (_ROOT / "configs").glob("*.py")}
  assert names - {"common"} == set(_VARIANTS) | set(_OF_CLIPS)


@pytest.mark.parametrize(
  ("name", "variant"), [(n, v) for n, vs in _VARIANTS.items() for v in vs]
)
@pytest.mark.usefixtures("narrow_vgg")
def test_it_can_be_built(name, variant):
  config = _recipe(name, variant)
  if config.perceptual.weight:
    config.perceptual.vgg = "random"
  parts = experiment.build(config)
  assert config.name.startswith(name)
  words = variant.split(",")
  on_y = name in _ON_Y or (name == "msrresnet" and "cpu" in words)
  assert parts.channels == (1 if on_y and "mmagic" not in words else 3)
  against = name in ("srgan", "esrgan", "dcgan") and "psnr" not in words
  assert (parts.discriminator is not None) == against
  assert (parts.frozen is not None) == (against and name != "dcgan")
  assert config.init_from == ("RUN" if "from=RUN" in words else "")
  _check_fields(config)


def _check_fields(config):
  """Every field is one that common.base() lists, so that flags reach it."""
  base = importlib.import_module("configs.common").base()
  assert set(config) == set(base)
  for section in ("data", "perceptual", "adversarial", "health", "eval"):
    assert set(config[section]) == set(base[section])


@pytest.mark.parametrize(
  ("name", "variant"), [(n, v) for n, vs in _OF_CLIPS.items() for v in vs]
)
def test_a_recipe_of_clips_has_a_network_and_an_optimizer(name, variant):
  config = _recipe(name, variant)
  assert config.name.startswith(name)
  assert config.init_from == ("RUN" if "from=RUN" in variant else "")
  _check_fields(config)
  model = models.build(**config.model)
  (clip,) = models.example_inputs(model)
  assert model.num_frames in (None, config.data.num_frames)
  params = jax.eval_shape(model.init, jax.random.key(0), clip)["params"]
  # What no parameter is called is refused here.
  fields = dict(config.optimizer)
  make = training.make_optimizer(lambda step: 1.0, **fields)
  jax.eval_shape(make.init, params)


def test_variants_have_workdirs_of_their_own():
  recipes = {**_VARIANTS, **_OF_CLIPS}
  names = [_recipe(n, v).name for n, vs in recipes.items() for v in vs]
  assert len(set(names)) == len(names)


@pytest.mark.parametrize(
  ("name", "variant", "message"),
  [
    ("fsrcnn", "x5", "did you mean 'x"),
    ("fsrcnn", "from=", "no variant 'from='"),
    ("fsrcnn", "x2,x3", "one scale at a time"),
    ("srcnn", "935,955", "one set of kernel sizes"),
    ("srcnn", "mmagic,muon", "leave muon out"),
    ("srresnet", "from=x", "no variant 'from=x'"),
    ("esrgan", "psnr,unet", "psnr has no discriminator"),
    ("esrgan", "x3", "no variant 'x3'"),
    ("srgan", "papper", "did you mean 'paper'"),
    ("edsr", "x3,x4", "one scale at a time"),
    ("edvr", "m,l", "one size at a time"),
    ("edvr", "l,cpu", "one size at a time"),
    ("basicvsr", "vimeo,cpu", "not 'vimeo,cpu'"),
    ("dcgan", "from=RUN", "no variant 'from=RUN'"),
  ],
)
def test_a_wrong_variant_is_named(name, variant, message):
  with pytest.raises(ValueError, match=message):
    _recipe(name, variant)


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["srgan", "esrgan"])
def test_without_vgg_the_command_that_makes_it_is_told(
  name, monkeypatch, tmp_path
):
  monkeypatch.setenv("SR_JAX_DATA", str(tmp_path))
  for file in ("", "weights/mine.safetensors"):
    config = _recipe(name, "")
    config.perceptual.vgg = file
    with pytest.raises(FileNotFoundError) as caught:
      experiment.build(config)
    told = str(caught.value)
    assert "config.perceptual.vgg" in told
    assert str(tmp_path / (file or "weights/vgg19.safetensors")) in told
    assert "python -m sr_jax.weights vgg19" in told


@pytest.mark.data
def test_the_cpu_recipe_has_features_of_real_weights(data_dir):
  """VGG19 up to conv3_4, and no further."""
  config = _recipe("esrgan", "cpu")
  config.data.data_dir = str(data_dir)
  parts = experiment.build(config)
  assert set(parts.frozen["params"]) == {
    "conv1_1",
    "conv1_2",
    "conv2_1",
    "conv2_2",
    "conv3_1",
    "conv3_2",
    "conv3_3",
    "conv3_4",
  }
  assert parts.hr_shape == (1, 64, 64, 3)


_SMOKES = [("srcnn", "smoke"), ("fsrcnn", "smoke"), ("edsr", "smoke")]
_SLOW_SMOKES = [
  ("msrresnet", "smoke"),
  ("srresnet", "smoke"),
  ("srgan", "smoke"),
  ("srgan", "paper,smoke"),
  ("esrgan", "psnr,smoke"),
  ("esrgan", "smoke"),
  ("esrgan", "unet,smoke"),
]


@pytest.mark.parametrize(
  ("name", "variant"),
  [
    *_SMOKES,
    *(pytest.param(*given, marks=pytest.mark.slow) for given in _SLOW_SMOKES),
  ],
)
def test_smoke_runs(name, variant, tmp_path, monkeypatch):
  """The recipe's own optimizer on real photographs, without blowing up."""
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  config = _recipe(name, variant)
  results = training.train(config, tmp_path / "run")
  assert np.isfinite(results["photos/psnr"])
  assert results["photos/psnr"] > 3  # black is 5 to 8 dB
  assert results["photos/bicubic_psnr"] > 25
  assert (tmp_path / "run" / "weights" / "last.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_OF_CLIPS))
def test_smoke_runs_of_clips(name, tmp_path, monkeypatch):
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  results = training.train(_recipe(name, "smoke"), tmp_path / "run")
  assert results["pans/psnr"] > 3
  assert results["pans/bicubic_psnr"] > 20
  assert (tmp_path / "run" / "samples" / "pans_0000004.png").exists()


def test_dcgan_smoke_runs(tmp_path, monkeypatch):
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  training.train(_recipe("dcgan", "smoke"), tmp_path / "run")
  assert (tmp_path / "run" / "samples" / "samples_0000004.png").exists()


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
