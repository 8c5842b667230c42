"""Runs of a few steps: what they leave behind, and what is refused."""

import json

import cv2
import jax
import numpy as np
import pytest

from sr_jax import training, weights
from sr_jax.training import loop
from sr_jax.weights.native import read_record
from tests.training import runs


def test_a_run_leaves_what_it_should(config, tmp_path, capsys):
  workdir = tmp_path / "run"
  results = training.train(config, workdir)
  assert results["images/bicubic_psnr"] > 20

  lines = runs.lines(workdir)
  assert [x["step"] for x in lines if "loss" in x] == [2, 4, 6]
  assert [x["step"] for x in lines if "images/psnr" in x] == [3, 6]
  assert "crop 2" in lines[-1]["images/psnr_protocol"]
  best = read_record(workdir / "weights" / "best.safetensors")["figures"]
  assert best["images/psnr"] == max(x.get("images/psnr", 0) for x in lines)
  rate = 0.5 * 2e-3 * (1 + np.cos(np.pi * 5 / 8))
  np.testing.assert_allclose(lines[-2]["learning_rate"], rate, rtol=2e-3)
  assert list(workdir.glob("events.out.*"))
  assert json.loads((workdir / "config.json").read_text())["steps"] == 6
  # No file half written.
  assert not list(workdir.rglob("*tmp*"))

  # Low resolution, bicubic, ours, ground truth in a row, 40 pixels each,
  # under 18 of caption.
  (picture,) = (workdir / "samples").rglob("*0000006.png")
  assert cv2.imread(str(picture)).shape == (58, 4 * 40 + 3 * 4, 3)

  # The weights that ship are the average of the last checkpoint.
  model, variables = weights.load(workdir / "weights" / "last.safetensors")
  state = runs.final_state(workdir, 6)
  assert model.num_features == 8
  runs.assert_equal(
    jax.tree.map(np.asarray, variables["params"]),
    state["generator"]["ema_params"],
  )
  out = capsys.readouterr().err
  assert "4 images" in out
  assert "(Y, crop 2)" in out
  assert "bicubic by" in out.splitlines()[-1]
  assert all("left" in x for x in out.splitlines() if x.startswith("step"))


def test_warm_start_moves_only_the_deconvolution(config, tmp_path):
  training.train(config, tmp_path / "x2")
  config.model.scale = 4
  config.init_from = str(tmp_path / "x2")
  config.optimizer.freeze = ((r"^(?!deconv)", 0, None),)
  training.train(config, tmp_path / "x4")
  given = weights.load(tmp_path / "x2" / "weights" / "best.safetensors")[1]
  start = runs.final_state(tmp_path / "x4", 6)["generator"]["params"]
  for name, leaves in given["params"].items():
    for key, value in leaves.items():
      moved = not np.array_equal(value, start[name][key])
      assert moved == (name == "deconv"), (name, key)


def test_warm_start_from_a_stranger_is_refused(config, tmp_path):
  training.train(config, tmp_path / "x2")
  config.init_from = str(tmp_path / "x2")
  # Of another width: nothing but biases of one channel would be taken over.
  config.model.num_features = 10
  config.optimizer.freeze = ((r"^(?!deconv)", 0, None),)
  with pytest.raises(ValueError, match=r"frozen as they begin"):
    training.train(config, tmp_path / "wide")
  config.optimizer.freeze = ()
  with config.unlocked():
    config.model = {"name": "srcnn", "scale": 2}
  with pytest.raises(ValueError, match="is of another network"):
    training.train(config, tmp_path / "srcnn")
  for name in ("wide", "srcnn"):  # told before a folder is made
    assert not (tmp_path / name).exists()


def test_weights_of_a_finished_run_are_written_again(config, tmp_path):
  training.train(config, tmp_path / "run")
  file = tmp_path / "run" / "weights" / "last.safetensors"
  params = weights.load(file)[1]["params"]
  file.unlink()
  training.train(config, tmp_path / "run")
  runs.assert_equal(weights.load(file)[1]["params"], params)


def test_a_relative_workdir_works(config, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  training.train(config, "runs/here")
  assert (tmp_path / "runs" / "here" / "checkpoints" / "6").is_dir()


def test_a_workdir_that_is_a_file_is_refused(config, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="is a file"):
    training.train(config, tmp_path / "file")


def test_every_part_of_the_step_runs_from_a_config(config, tmp_path):
  """Low precision, parts of a batch, warm-up and clipping, together."""
  config.model.dtype = "bfloat16"
  config.accumulate = 2
  config.warm_up_steps = 3
  config.optimizer.clip_norm = 1e-3
  config.loss.name = "charbonnier"
  training.train(config, tmp_path / "run")
  lines = [x for x in runs.lines(tmp_path / "run") if "loss" in x]
  # A third of the rate, then two; past the warm-up the schedule's own.
  np.testing.assert_allclose(lines[0]["learning_rate"], 2e-3 * 2 / 3)
  state = runs.final_state(tmp_path / "run", 6)
  for leaf in jax.tree.leaves(state["generator"]["params"]):
    assert leaf.dtype == np.float32
  assert all(x["skipped"] == 0 for x in lines)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("steps", 0, "config.steps is 0"),
    ("data.train", "", "--config.data.train=/my/photos"),
    ("data.train", "/nowhere/at/all", "/nowhere/at/all"),
    ("data.patch_size", 17, "not a multiple of the model's scale 2"),
    ("data.patch_size", 64, "smaller than"),
    ("accumulate", 3, "not a multiple of config.accumulate"),
    ("ema_decay", 1.0, r"not in \[0, 1\)"),
    ("model.name", "fsrnn", "did you mean 'fsrcnn'"),
    ("model.name", "bicubic", "'bicubic' has no argument"),
    ("loss.name", "l3", "config.loss.name 'l3'"),
    ("schedule.name", "cosine", "config.schedule.name 'cosine'"),
    ("optimizer.name", "adamw", "optimizer 'adamw'"),
    ("mesh.fsdp", 3, "does not make up"),
    ("loss.weight", -1.0, "^config.loss.weight -1.0 must be finite"),
    ("optimizer.b2", 1.5, r"b2 1.5 is not in \[0, 1\)"),
    ("schedule.eta_min", -1.0, "eta_min -1.0 is not between 0 and"),
    ("schedule.eta_min", float("nan"), "eta_min nan is not between 0 and"),
    (
      "optimizer.weight_decay",
      float("nan"),
      "weight_decay nan is not a number",
    ),
    (
      "optimizer.multipliers",
      (("deconv", -1.0),),
      "multiplier -1.0 of 'deconv'",
    ),
    ("data.cache", "no", "cache 'no'"),
    ("keep_best", -1, "keep_best is -1"),
    ("warm_up_steps", -1, "warm_up_steps is -1"),
    ("eval.max_images", -1, "max_images is -1"),
    ("published", "nothing", "published 'nothing' is not one of"),
    ("schedule.learning_rate", -1.0, r"learning_rate -1.0 is not in"),
    ("model.num_features", 0, "must be a positive integer"),
    ("eval.benchmarks", "urban100", "--config.eval.benchmarks=photos"),
    ("eval.benchmarks", "/a/x,/b/x", "two of one name"),
    ("init_from", "/nowhere.safetensors", "nowhere.safetensors"),
  ],
)
def test_what_cannot_run_is_told_by_field(
  config, tmp_path, monkeypatch, field, value, message
):
  monkeypatch.delenv("SR_JAX_DATA", raising=False)
  section = config
  *parents, last = field.split(".")
  for parent in parents:
    section = section[parent]
  section[last] = value
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    training.train(config, tmp_path / "run")


def test_unknown_and_missing_fields_are_named(config, tmp_path):
  with config.unlocked():
    config.schedule.period = (3,)
  with pytest.raises(ValueError, match=r"did you mean \['periods'\]"):
    training.train(config, tmp_path / "run")
  with config.unlocked():
    del config.schedule.period
    del config.schedule.learning_rate
  with pytest.raises(ValueError, match=r"schedule.learning_rate is missing"):
    training.train(config, tmp_path / "run")


def test_an_interpolation_has_nothing_to_train(config, tmp_path):
  with config.unlocked():
    config.model = {"name": "bicubic", "scale": 2}
  with pytest.raises(ValueError, match=r"eval.py --weights=bicubic"):
    training.train(config, tmp_path / "run")


def test_other_processes_are_silent(tmp_path):
  writers = loop.Writers(tmp_path / "no", steps=1, start=0, active=False)
  writers.line("x")
  writers.progress(1, "x")
  writers.scalars(1, {"x": 1.0})
  writers.image(1, "x", np.zeros((2, 2, 3), np.uint8))
  writers.close()
  assert not (tmp_path / "no").exists()
