"""Recipes of clips: what the step sees, freezing, parts, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import degradations, models, training, weights
from sr_jax.training import experiment, make_prepare
from sr_jax.training.health import Health
from sr_jax.training.warm_start import read_parts, read_start, read_starts
from tests.training import runs
from tests.weights import pth_bytes

_MODEL = {
  "name": "basicvsr",
  "num_features": 4,
  "num_blocks": 1,
  "spynet_widths": (2, 4, 2, 2),
}


@pytest.fixture
def clip_config(recipes):
  """A tiny BasicVSR on pans, SPyNet frozen for two steps."""
  config = recipes("basicvsr", "smoke")
  with config.unlocked():
    config.model = dict(_MODEL)
  config.data.num_frames, config.data.patch_size = 2, 64
  config.optimizer.freeze = (("^spynet/", 0, 2),)
  config.steps, config.eval.benchmarks = 4, ""
  return config


@pytest.mark.parametrize("name", ["BI", "BD"])
def test_prepare_degrades_every_frame(name):
  made = degradations.find(name)
  rng = np.random.default_rng(0)
  side = 4 * (4 + 2 * made.margin)
  hr = rng.integers(0, 256, (2, 3, side, side, 3), dtype=np.uint8)
  prepare = make_prepare(scale=4, channels=3, degradation=made, frame=1)
  lr, target = jax.jit(prepare)({"hr": hr}, jax.random.key(0))
  cut = slice(4 * made.margin, -4 * made.margin)
  np.testing.assert_allclose(target, hr[:, 1, cut, cut] / 255, atol=1e-6)
  for b in range(2):
    for t in range(3):
      whole = made.downsample(hr[b, t] / 255.0, scale=4)
      inner = whole[made.margin : -made.margin, made.margin : -made.margin]
      np.testing.assert_allclose(lr[b, t], inner, atol=1e-6)


@pytest.mark.slow
def test_a_frozen_part_is_frozen_after_a_resume_too(clip_config, tmp_path):
  """Stopped inside the window, and past it: the bits of the unbroken run."""
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  clip_config.eval_every = 1
  clip_config.keep_last = 4
  training.train(clip_config, whole)
  for steps in (1, 3, 4):
    clip_config.steps = steps
    training.train(clip_config, broken)
  runs.assert_equal(runs.final_state(whole, 4), runs.final_state(broken, 4))
  one, two, three = (
    runs.final_state(whole, step)["generator"]["params"] for step in (1, 2, 3)
  )
  runs.assert_equal(one["spynet"], two["spynet"])
  pairs = zip(
    jax.tree.leaves(two["spynet"]),
    jax.tree.leaves(three["spynet"]),
    strict=True,
  )
  assert any(not np.array_equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_a_part_begins_from_its_own_file(clip_config, tmp_path):
  spynet = models.build("spynet", widths=_MODEL["spynet_widths"])
  image = jnp.zeros((1, 32, 32, 3))
  variables = jax.tree.map(
    lambda x: x + 0.5, jax.jit(spynet.init)(jax.random.key(3), image, image)
  )
  file = tmp_path / "spynet.safetensors"
  weights.save(file, spynet, variables)
  clip_config.steps = 1
  with clip_config.unlocked():
    clip_config.init_parts = {"spynet": str(file)}
  training.train(clip_config, tmp_path / "run")
  after = runs.final_state(tmp_path / "run", 1)["generator"]["params"]
  # Frozen, so it is still what the file has.
  runs.assert_equal(
    after["spynet"], jax.tree.map(np.asarray, variables["params"])
  )


def _mmagic(key):
  parts = key.split(".")
  if parts[0] != "basic_module":
    return key
  parts[3] = str(int(parts[3]) // 2)
  return ".".join([*parts[:4], "conv", parts[4]])


@pytest.mark.parametrize(
  "wrapped",
  [
    pytest.param(
      lambda names: {f"module.{key}": value for key, value in names.items()},
      marks=pytest.mark.slow,
    ),
    lambda names: {_mmagic(key): value for key, value in names.items()},
    lambda names: {f"spynet.{key}": value for key, value in names.items()},
  ],
  ids=["basicsr", "mmagic", "of a whole network"],
)
def test_a_part_begins_from_pytorch_s_file(clip_config, tmp_path, wrapped):
  spynet = models.build("spynet", widths=_MODEL["spynet_widths"])
  image = jnp.zeros((1, 32, 32, 3))
  variables = jax.jit(spynet.init)(jax.random.key(3), image, image)
  file = tmp_path / "spynet.pth"
  file.write_bytes(pth_bytes.save(wrapped(weights.to_torch(spynet, variables))))
  model = models.build(**clip_config.model)
  start = read_parts({"spynet": str(file)}, model)
  runs.assert_equal(
    start.variables["params"],
    {"spynet": jax.tree.map(np.asarray, variables["params"])},
  )


def test_the_extractor_of_key_frames_is_in_an_edvr_of_pytorch_s(tmp_path):
  arguments = {"num_features": 8, "num_reconstruct_blocks": 1}
  edvr = models.build("edvr", **arguments)
  (clip,) = models.example_inputs(edvr)
  shapes = jax.eval_shape(edvr.init, jax.random.key(0), clip)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes)
  file = tmp_path / "edvr.pth"
  file.write_bytes(pth_bytes.save(weights.to_torch(edvr, variables)))
  model = models.build("iconvsr", num_features=8, num_blocks=1)
  start = read_parts({"edvr": str(file)}, model)
  runs.assert_equal(
    start.variables["params"], {"edvr": variables["params"]["features"]}
  )
  # Of 7 frames it is another.
  wide = model.clone(temporal_padding=3)
  with pytest.raises(ValueError, match=r"init_parts\.edvr .* another network"):
    read_parts({"edvr": str(file)}, wide)


def test_a_part_without_a_file_begins_anew(recipes):
  """So it is in variants; a flag may name one all the same."""
  for name in ("basicvsr", "iconvsr", "basicvsr_plusplus"):
    for variant in ("smoke", "from=RUN"):
      config = recipes(name, variant)
      assert config.init_parts.spynet == ""
      config.init_from = ""
      assert read_starts(config, model=None) == []
  config.init_parts.spynet = "/nowhere.pth"
  model = models.build(**{**_MODEL, "name": "basicvsr"})
  with pytest.raises(FileNotFoundError, match=r"init_parts\.spynet '/nowhere"):
    read_starts(config, model)


def test_a_run_begins_from_pytorch_s_file(tmp_path):
  """With TSA from without: what is not there begins anew, and is told."""
  arguments = {"num_features": 8, "num_reconstruct_blocks": 1}
  first = models.build("edvr", tsa=False, **arguments)
  (clip,) = models.example_inputs(first)
  shapes = jax.eval_shape(first.init, jax.random.key(0), clip)
  variables = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
  file = tmp_path / "wotsa.pth"
  file.write_bytes(pth_bytes.save(weights.to_torch(first, variables)))
  start = read_start(str(file), models.build("edvr", **arguments))
  assert start.missing
  assert all("features/fusion/" in path for path in start.missing)
  file.write_bytes(b"no checkpoint")
  with pytest.raises(ValueError, match=r"config\.init_from"):
    read_start(str(file), first)


@pytest.mark.parametrize(
  ("parts", "error", "message"),
  [
    ({"spynet": "/nowhere.pth"}, FileNotFoundError, "init_parts.spynet '/no"),
    ({"spinet": "x.pth"}, ValueError, "no such part; it has"),
  ],
)
def test_parts_that_are_not_there(clip_config, tmp_path, parts, error, message):
  with clip_config.unlocked():
    clip_config.init_parts = parts
  with pytest.raises(error, match=message):
    training.train(clip_config, tmp_path / "run")


def test_a_part_of_another_network_is_refused(clip_config, tmp_path):
  other = models.build("fsrcnn", scale=2)
  file = tmp_path / "other.safetensors"
  lr = jnp.zeros((1, 8, 8, 1))
  weights.save(file, other, jax.jit(other.init)(jax.random.key(0), lr))
  with clip_config.unlocked():
    clip_config.init_parts = {"spynet": str(file)}
  with pytest.raises(ValueError, match="is of another network"):
    training.train(clip_config, tmp_path / "run")


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("data.num_frames", 0, "takes clips; set it to the frames of a window"),
    ("data.interval", 0, r"config\.data\.interval 0: .* is at least 1"),
    ("degradation", "BX", "config.degradation: degradation 'BX' is not one"),
    ("perceptual.weight", 1.0, "look at images, not at clips"),
  ],
)
def test_clips_that_cannot_be_trained_on(clip_config, field, value, message):
  clip_config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    experiment.build(clip_config)


def test_the_flow_network_is_not_trained_alone(clip_config):
  with clip_config.unlocked():
    clip_config.model = {"name": "spynet"}
  with pytest.raises(ValueError, match="is a part of networks of clips"):
    experiment.build(clip_config)


def test_the_data_alone_say_what_is_mirrored(clip_config):
  with clip_config.unlocked():
    clip_config.model.mirror_extended = True
  with pytest.raises(ValueError, match=r"config\.data\.mirror alone says"):
    experiment.build(clip_config)


def test_images_have_no_frames(config):
  config.data.num_frames = 3
  with pytest.raises(ValueError, match="takes images, not clips"):
    experiment.build(config)


def test_a_window_has_the_frames_of_its_network(recipes):
  config = recipes("edvr", "smoke")
  config.data.num_frames = 3
  with pytest.raises(ValueError, match="takes 5 frames, and"):
    experiment.build(config)
  config.data.num_frames = 5
  parts = experiment.build(config)
  assert parts.hr_shape == (1, 64, 64, 3)
  assert parts.num_frames == 5


def test_offsets_that_run_away_are_told():
  health = Health(max_skipped=2, max_offset=50.0)
  steps = [{"skipped": 0.0, "offset": value} for value in (40.0, 62.0)]
  told = health.observe(2, steps)
  assert "mean offset of a layer is 51 pixels" in told.warning
  assert not told.failure
  assert not health.observe(4, steps[:1]).warning
  assert not Health(max_skipped=2, max_offset=0.0).observe(2, steps).warning


def test_the_step_shows_the_offsets_of_edvr(recipes):
  config = recipes("edvr", "smoke")
  parts = experiment.build(config)
  state = jax.eval_shape(parts.init_state, jax.random.key(0))
  batch = {
    "hr": jax.ShapeDtypeStruct((1, *parts.batch_shape), jnp.uint8),
  }
  _, metrics = jax.eval_shape(parts.step, state, batch, jax.random.key(0))
  assert metrics["offset"].shape == ()


@pytest.mark.slow
def test_of_mirrored_clips_half_the_flow_is_computed(clip_config):
  def operations(num_frames, mirror):
    clip_config.data.num_frames, clip_config.data.mirror = num_frames, mirror
    clip_config.model.spynet_widths = (32, 64, 32, 16)
    parts = experiment.build(clip_config)
    assert not parts.model.mirror_extended
    state = jax.eval_shape(parts.init_state, jax.random.key(0))
    hr = jax.ShapeDtypeStruct((1, *parts.batch_shape), jnp.uint8)
    lowered = jax.jit(parts.step).lower(state, {"hr": hr}, jax.random.key(0))
    return lowered.cost_analysis()["flops"]

  assert operations(2, mirror=True) < 0.9 * operations(4, mirror=False)


def test_recipes_of_clips_know_their_degradation(recipes):
  parts = experiment.build(recipes("basicvsr", "vimeo,bd"))
  assert parts.degradation is degradations.find("BD")
  assert parts.margin == degradations.BD_MARGIN
  assert parts.num_frames == 14
