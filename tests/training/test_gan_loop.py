"""Adversarial runs of a few steps: what they leave, resume and roll back to."""

import shutil

import cv2
import jax
import numpy as np
import pytest

from sr_jax import models, training, weights
from sr_jax.weights.native import read_record
from tests.training import runs


def _tiny(config, images):
  config.data.train = images
  config.data.num_workers = 0
  config.data.batch_size = 4
  config.log_every, config.eval_every = 1, 2
  config.steps = 4
  return config


@pytest.fixture
def config(recipes, images, monkeypatch):
  """SRGAN with everything that has a state: BatchNorm twice, an average, VGG.

  A discriminator that learns fast.
  """
  build = models.build

  def narrow(name, **arguments):
    if name == "vgg19":
      arguments["widths"] = (2,) * 5
    return build(name, **arguments)

  monkeypatch.setattr(models, "build", narrow)
  config = _tiny(recipes("srgan"), images)
  config.data.patch_size = 16
  config.eval.benchmarks = images
  config.eval.max_images = 1
  config.eval.metrics = "psnr"
  with config.unlocked():
    config.model = {
      "name": "srresnet",
      "scale": 2,
      "num_features": 4,
      "num_blocks": 1,
    }
    config.discriminator = {
      "name": "dcgan_discriminator",
      "num_features": 2,
      "image_size": 16,
    }
    config.perceptual.layer_weights = {"conv1_2": 1.0}
  config.perceptual.vgg = "random"
  config.d_schedule = {"name": "constant", "learning_rate": 1e-2}
  config.adversarial.relativistic = True
  config.ema_decay = 0.5
  return config


def _networks(state):
  return state["generator"], state["discriminator"]


def _differ(a, b):
  return any(
    not np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_an_adversarial_run_resumes_exactly(config, tmp_path, capsys):
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  results = training.train(config, whole)
  out = capsys.readouterr().err
  config.steps = 2
  training.train(config, broken)
  config.steps = 4
  training.train(config, broken)
  runs.assert_equal(runs.final_state(whole, 4), runs.final_state(broken, 4))
  strip = lambda lines: [
    {k: v for k, v in x.items() if k != "images_per_second"} for x in lines
  ]
  assert strip(runs.lines(whole)) == strip(runs.lines(broken))

  # Both networks and their optimizers are in the checkpoint, and moved.
  two, four = runs.final_state(whole, 2), runs.final_state(whole, 4)
  for a, b in zip(_networks(two), _networks(four), strict=True):
    for part in ("params", "batch_stats", "opt_state"):
      assert _differ(a[part], b[part]), part
  assert two["discriminator"]["ema_params"] is None

  # PSNR tells which weights are best only of a run that is for it.
  names = {p.name for p in (whole / "weights").iterdir()}
  assert names == {"last.safetensors"}
  record = read_record(whole / "weights" / "last.safetensors")
  assert record["figures"]["images/psnr"] == results["images/psnr"]
  _, variables = weights.load(whole / "weights" / "last.safetensors")
  runs.assert_equal(
    jax.tree.map(np.asarray, dict(variables)),
    {
      "params": four["generator"]["ema_params"],
      "batch_stats": four["generator"]["batch_stats"],
    },
  )

  count = sum(x.size for x in jax.tree.leaves(four["discriminator"]["params"]))
  assert f"against dcgan_discriminator, {count:,} parameters" in out
  assert "D(real) " in out
  line = [x for x in runs.lines(whole) if "loss" in x][-1]
  terms = ("pixel", "perceptual", "adversarial")
  np.testing.assert_allclose(
    line["loss"], sum(line[f"loss/{term}"] for term in terms), rtol=1e-5
  )
  np.testing.assert_allclose(
    [sum(line[f"share/{term}"] for term in terms)], 1.0, rtol=1e-6
  )
  np.testing.assert_allclose(
    line["d_loss"], line["d_loss/real"] + line["d_loss/fake"], rtol=1e-5
  )
  np.testing.assert_allclose(
    line["d_gap"], line["d_real"] - line["d_fake"], atol=1e-6
  )
  assert line["d_grad_norm"] > 0
  assert line["skipped"] == 0


def test_a_saturated_run_is_told_stopped_or_rolled_back(
  config, tmp_path, capsys
):
  """Any gap above 0 saturates, once the discriminator has learnt for 2 steps.

  What is watched may change when a run goes on.
  """
  config.steps, config.health.max_gap = 2, 0.0
  training.train(config, tmp_path / "run")
  assert "is saturated:" not in capsys.readouterr().err
  for copy in ("warn", "stop", "none"):
    shutil.copytree(tmp_path / "run", tmp_path / copy)
  two = runs.final_state(tmp_path / "run", 2)
  config.steps, config.eval_every = 4, 1
  config.health.max_gap = 1e-9

  config.health.action, config.health.patience = "rollback", 2
  training.train(config, tmp_path / "run")
  out = capsys.readouterr().err
  assert "warning: the discriminator is saturated" in out
  assert "for 1 log period" in out
  assert "rolled back: the discriminator is saturated" in out
  assert "are those of step 2 again; the run goes on at step 4" in out
  # Step 3 was not well and left no checkpoint to come back to.
  steps = {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert steps == {2, 4}
  four = runs.final_state(tmp_path / "run", 4)
  for a, b in zip(_networks(two), _networks(four), strict=True):
    runs.assert_equal(a, b)
  assert (int(two["step"]), int(four["step"])) == (2, 4)
  assert [x["step"] for x in runs.lines(tmp_path / "run") if "loss" in x] == [
    1,
    2,
    3,
    4,
  ]

  config.health.patience, config.health.max_rollbacks = 1, 0
  with pytest.raises(training.UnhealthyError, match=r"saturated: D\(real\)"):
    training.train(config, tmp_path / "none")

  config.health.action = "stop"
  with pytest.raises(
    training.UnhealthyError, match=r"last good checkpoint in .*: is step 2\."
  ) as caught:
    training.train(config, tmp_path / "stop")
  assert "config.schedule.learning_rate" in str(caught.value)
  assert "d_schedule" in str(caught.value)

  config.health.action = "warn"
  capsys.readouterr()
  training.train(config, tmp_path / "warn")
  out = capsys.readouterr().err
  assert "for 2 log period(s) on end" in out
  assert "rolled back" not in out
  assert _differ(
    _networks(two), _networks(runs.final_state(tmp_path / "warn", 4))
  )


def test_a_rollback_before_any_checkpoint_stops(config, tmp_path):
  config.health.action, config.health.patience = "rollback", 1
  config.health.max_gap = 1e-9
  config.eval_every = 9
  with pytest.raises(
    training.UnhealthyError, match=r"saturated.*: none was written yet\."
  ):
    training.train(config, tmp_path / "run")


@pytest.mark.slow
def test_it_begins_from_a_run_for_psnr(config, recipes, images, tmp_path):
  """Parameters and running statistics; the generator is then held."""
  first = _tiny(recipes("srresnet"), images)
  first.data.patch_size = 16
  first.eval.benchmarks = images
  first.eval.metrics = "psnr"
  first.model = config.model
  first.steps = 2
  training.train(first, tmp_path / "psnr")
  _, given = weights.load(tmp_path / "psnr" / "weights" / "last.safetensors")

  config.init_from = str(tmp_path / "psnr" / "weights" / "last.safetensors")
  config.steps = config.d_init_steps = 2
  training.train(config, tmp_path / "gan")
  state = runs.final_state(tmp_path / "gan", 2)["generator"]
  given = jax.tree.map(np.asarray, dict(given))
  runs.assert_equal(state["params"], given["params"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    state["ema_params"],
    given["params"],
  )
  counts = [
    int(stats["bn_body"]["count"])
    for stats in (given["batch_stats"], state["batch_stats"])
  ]
  assert counts == [2, 4]
  assert all(
    "loss" not in x and "d_loss" in x
    for x in runs.lines(tmp_path / "gan")
    if "d_gap" in x
  )


def test_a_dcgan_leaves_a_grid_of_samples(recipes, images, tmp_path):
  config = _tiny(recipes("dcgan"), images)
  config.data.patch_size = 8
  config.model.update(latent_features=3, num_features=2, image_size=8)
  config.discriminator.update(num_features=2, image_size=8)
  assert training.train(config, tmp_path / "run") == {}
  samples = sorted((tmp_path / "run" / "samples").iterdir())
  assert [p.name for p in samples] == [
    "samples_0000002.png",
    "samples_0000004.png",
  ]
  image = cv2.imread(str(samples[-1]))[..., ::-1]
  assert image.shape == (8 * 8, 8 * 8, 3)
  # Of the same noise each time, row by row.
  model, variables = weights.load(
    tmp_path / "run" / "weights" / "last.safetensors"
  )
  z = jax.random.normal(jax.random.key(config.seed), (64, 3))
  made = np.float64(model.apply(variables, z))
  for i in (0, 1, 8, 63):
    row, column = divmod(i, 8)
    tile = image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    assert np.abs(tile - made[i] * 255).max() <= 0.5 + 1e-3
  first = cv2.imread(str(samples[0]))[..., ::-1]
  assert 0 < np.abs(np.float64(first) - image).mean() < 30
  assert not (tmp_path / "run" / "weights" / "best.safetensors").exists()
  assert "loss" in runs.lines(tmp_path / "run")[0]


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("accumulate", 2, "play another game than the whole"),
    ("d_steps", 0, "config.d_steps is 0"),
    ("d_init_steps", -1, "config.d_init_steps is -1"),
    ("adversarial.kind", "wgann", r"^config\.adversarial\.kind 'wgann' is"),
    ("adversarial.kind", "hinge", "no relativistic generator loss"),
    ("adversarial.r1", -1.0, r"^config\.adversarial\.r1 -1\.0 must be"),
    ("data.patch_size", 24, r"takes images of \(16, 16, 3\), and the crops"),
    ("discriminator.name", "dcgan_discrimnator", "did you mean 'dcgan_discr"),
    ("discriminator.num_features", 0, "num_features"),
    ("d_schedule.learning_rate", 0.0, "config.d_schedule.learning_rate 0.0"),
    ("d_optimizer.name", "adamw", "optimizer 'adamw'"),
    ("health.action", "wait", "config.health.action 'wait'"),
    ("health.patience", 0, r"health\.patience 0 must be at least 1"),
    ("perceptual.criterion", "l3", r"^config\.perceptual\.criterion 'l3'"),
    ("perceptual.weight", -1.0, r"^config\.perceptual\.weight -1\.0 must"),
    ("perceptual.weight", np.nan, r"^config\.perceptual\.weight nan must"),
    ("perceptual.style_weight", np.inf, r"^config\.perceptual\.style_weight"),
    (
      "perceptual.layer_weights.conv1_2",
      -1.0,
      r"^config\.perceptual\.layer_weights\.conv1_2 -1\.0 must be",
    ),
    ("adversarial.weight", np.nan, r"^config\.adversarial\.weight nan must be"),
    ("adversarial.real_label", 1.5, r"^config\.adversarial\.real_label 1\.5"),
    ("loss.weight", np.nan, r"^config\.loss\.weight nan must be finite"),
    ("perceptual.vgg", "no/such.npz", "config.perceptual.vgg: there is no"),
    ("eval.metrics", "psnr,lpips", "lpips"),
  ],
)
def test_what_cannot_be_played_is_told_by_field(
  config, tmp_path, field, value, message
):
  section = config
  *parents, last = field.split(".")
  for parent in parents:
    section = section[parent]
  section[last] = value
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    training.train(config, tmp_path / "run")


def test_layers_that_vgg_does_not_have_are_named(config, tmp_path):
  with config.unlocked():
    config.perceptual.layer_weights = {"conv5_5": 1.0}
  with pytest.raises(ValueError, match="no layer 'conv5_5'"):
    training.train(config, tmp_path / "run")
  config.perceptual.weight = 0.0
  config.loss.weight = 0.0
  config.adversarial.weight = 0.0
  with pytest.raises(ValueError, match="0 needs another term"):
    training.train(config, tmp_path / "run")


def test_networks_that_do_not_belong_together_are_told(
  config, recipes, tmp_path
):
  with config.unlocked():
    config.model.in_channels = config.model.out_channels = 1
    config.discriminator = {"name": "unet_discriminator", "in_channels": 1}
  with pytest.raises(ValueError, match=r"VGG19 takes image as .*, 3\], got"):
    training.train(config, tmp_path / "run")
  config.perceptual.weight = 0.0
  config.discriminator.in_channels = 3
  with pytest.raises(ValueError, match="built with in_channels=3"):
    training.train(config, tmp_path / "run")
  dcgan = recipes("dcgan")
  dcgan.model.image_size = 32
  with pytest.raises(ValueError, match=r"makes images of \(32, 32, 3\), and"):
    training.train(dcgan, tmp_path / "run")
  with dcgan.unlocked():
    dcgan.discriminator = {"name": ""}
  dcgan.data.patch_size = 32
  dcgan.loss.weight = 1.0
  with pytest.raises(ValueError, match="begins from noise"):
    training.train(dcgan, tmp_path / "run")
