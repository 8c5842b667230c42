"""Runs of a few steps: what they leave behind, and what stops them."""

import contextlib
import errno
import importlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from absl import flags

from sr_jax import training, weights
from sr_jax.training import checkpoints, loop
from sr_jax.weights.native import read_record

_ROOT = pathlib.Path(__file__).parents[2]


def _images(folder, count=4, side=40):
  """Photograph-like pictures, smooth with texture."""
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for i in range(count):
    small = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / f"{i}.png"), image)
  return folder


@pytest.fixture
def config(tmp_path, monkeypatch):
  """A tiny FSRCNN x2 on a folder, four images a step."""
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.syspath_prepend(str(_ROOT))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  config = importlib.import_module("configs.quickstart").get_config()
  config.model.num_features = 8
  config.model.shrink_features = 4
  config.data.train = str(_images(tmp_path / "images"))
  config.data.patch_size = 16
  config.data.batch_size = 4
  config.eval.benchmarks = config.data.train
  config.eval.max_images = 1
  config.schedule.periods = (8,)
  config.steps = 6
  config.log_every = 2
  config.eval_every = 3
  config.ema_decay = 0.5
  return config


def _lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def _final(workdir, step):
  """Every array of a checkpoint, read without our own code's restore."""
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as reader:
    return reader.restore(workdir / "checkpoints" / str(step) / "state")


def _assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_leaves_what_it_should(config, tmp_path, capsys):
  workdir = tmp_path / "run"
  results = training.train(config, workdir)
  assert results["images/bicubic_psnr"] > 20

  lines = _lines(workdir)
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
  state = _final(workdir, 6)
  assert model.num_features == 8
  _assert_equal(
    jax.tree.map(np.asarray, variables["params"]),
    state["generator"]["ema_params"],
  )
  out = capsys.readouterr().err
  assert "4 images" in out
  assert "(Y, crop 2)" in out
  assert "bicubic by" in out.splitlines()[-1]
  assert all("left" in x for x in out.splitlines() if x.startswith("step"))


def test_resuming_is_exact(config, tmp_path):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  training.train(config, unbroken)
  with config.unlocked():
    config.steps = 3
  training.train(config, broken)
  config.steps = 6
  training.train(config, broken)
  _assert_equal(_final(unbroken, 6), _final(broken, 6))
  # One point a period, as if it had not been broken.
  steps = [x["step"] for x in _lines(broken)]
  assert steps == sorted(steps)
  # Nothing to do: it evaluates, and changes nothing.
  again = training.train(config, broken)
  assert again
  _assert_equal(_final(unbroken, 6), _final(broken, 6))


_KILLED = """
import os, pathlib, sys, time
from absl import flags
flags.FLAGS.mark_as_parsed()
sys.path.insert(0, {root!r})
from configs import quickstart
from sr_jax import data, training

class Killer:
  # Hands on 30 batches; then, with the checkpoint of 20 written, kill -9.
  def __init__(self, *args, **kwargs):
    self.loader, self.count = make_loader(*args, **kwargs), 0
  def __getattr__(self, name):
    return getattr(self.loader, name)
  def __iter__(self):
    return self
  def __next__(self):
    self.count += 1
    if self.count > 30:
      while not pathlib.Path({workdir!r}, "checkpoints", "20",
                             "_CHECKPOINT_METADATA").exists():
        time.sleep(0.01)
      os.kill(os.getpid(), 9)
    return next(self.loader)

make_loader = data.make_loader
if {kill}:
  data.make_loader = Killer
config = quickstart.get_config()
config.model.num_features = 8
config.data.train = {images!r}
config.data.patch_size = 16
config.data.batch_size = 4
config.eval.benchmarks = ""
config.schedule.periods = (40,)
config.steps, config.log_every, config.eval_every = 40, 10, 20
training.train(config, {workdir!r})
"""


@pytest.mark.slow
def test_killed_and_restarted_is_bit_equal(tmp_path):
  """40 steps; and 30 steps, kill -9, a restart from 20 to 40: the same bits."""
  images = _images(tmp_path / "images")
  env = {**os.environ, "SR_JAX_CACHE": str(tmp_path / "cache")}

  def run(workdir, *, kill):
    code = _KILLED.format(
      root=str(_ROOT), images=str(images), workdir=str(workdir), kill=kill
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, check=False).returncode

  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert run(whole, kill=False) == 0
  assert run(killed, kill=True) == -signal.SIGKILL
  assert [p.name for p in (killed / "checkpoints").iterdir()] == ["20"]
  assert run(killed, kill=False) == 0
  _assert_equal(_final(whole, 40), _final(killed, 40))


_ON_TWO_HOSTS = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:{port}", 2, int(sys.argv[1]))
from absl import flags
flags.FLAGS.mark_as_parsed()
sys.path.insert(0, {root!r})
from configs import quickstart
from sr_jax import training
config = quickstart.get_config()
config.model.num_features = 8
config.data.train = config.eval.benchmarks = {images!r}
config.data.patch_size = 16
config.data.batch_size = 4
config.eval.max_images = 1
config.mesh.data, config.mesh.fsdp = {mesh}
config.steps, config.log_every, config.eval_every = 4, 2, 2
training.train(config, {workdir!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 1), (1, 2)])
def test_two_hosts_compute_what_one_does(config, tmp_path, mesh):
  """Two processes on loopback, the batch or the parameters shared out."""
  config.model.shrink_features = 5
  config.steps, config.eval_every = 4, 2
  config.schedule.periods = (10_000,)
  config.ema_decay = 0.99
  training.train(config, tmp_path / "one")
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  code = _ON_TWO_HOSTS.format(
    root=str(_ROOT),
    images=config.data.train,
    workdir=str(tmp_path / "two"),
    mesh=mesh,
    port=port,
  )
  hosts = [
    subprocess.Popen([sys.executable, "-c", code, str(i)]) for i in range(2)
  ]
  try:
    assert [host.wait(timeout=300) for host in hosts] == [0, 0]
  finally:
    for host in hosts:
      host.kill()
  one, two = (
    weights.load(tmp_path / name / "weights" / "last.safetensors")[1]
    for name in ("one", "two")
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    one,
    two,
  )
  psnr = [
    [x["images/psnr"] for x in _lines(tmp_path / name) if "images/psnr" in x]
    for name in ("one", "two")
  ]
  np.testing.assert_allclose(*psnr, rtol=1e-4)


def test_warm_start_moves_only_the_deconvolution(config, tmp_path):
  training.train(config, tmp_path / "x2")
  config.model.scale = 4
  config.init_from = str(tmp_path / "x2")
  config.optimizer.freeze = ((r"^(?!deconv)", 0, None),)
  training.train(config, tmp_path / "x4")
  given = weights.load(tmp_path / "x2" / "weights" / "best.safetensors")[1]
  start = _final(tmp_path / "x4", 6)["generator"]["params"]
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
  with pytest.raises(ValueError, match=r"feature/kernel.*frozen as they begin"):
    training.train(config, tmp_path / "wide")
  config.optimizer.freeze = ()
  with config.unlocked():
    config.model = {"name": "srcnn", "scale": 2}
  with pytest.raises(ValueError, match="is of another network"):
    training.train(config, tmp_path / "srcnn")


def test_weights_of_a_finished_run_are_written_again(config, tmp_path):
  training.train(config, tmp_path / "run")
  file = tmp_path / "run" / "weights" / "last.safetensors"
  params = weights.load(file)[1]["params"]
  file.unlink()
  training.train(config, tmp_path / "run")
  _assert_equal(weights.load(file)[1]["params"], params)


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
  config.max_skipped = 3
  config.loss.weight = 3e38
  with pytest.raises(
    training.UnhealthyError,
    match=r"3 steps on end, steps 1 to 3; .* is step 3\.",
  ):
    training.train(config, tmp_path / "run")


def test_a_full_disk_is_told_and_the_last_checkpoint_kept(
  config, tmp_path, monkeypatch
):
  training.train(config, tmp_path / "run")
  config.steps = 9
  manager = checkpoints.ocp.CheckpointManager

  def save(self, *args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(manager, "save", save)
  with pytest.raises(training.CheckpointError) as caught:
    training.train(config, tmp_path / "run")
  assert "disk full" in str(caught.value)
  assert "checkpoint 6 is whole" in str(caught.value)
  monkeypatch.undo()
  monkeypatch.setenv("SR_JAX_CACHE", str(tmp_path / "cache"))
  training.train(config, tmp_path / "run")
  assert (tmp_path / "run" / "checkpoints" / "9").exists()


def _fill(path):
  """Writes until the disk is full."""
  with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
    while file.write(b"0" * 4096):
      pass


@pytest.mark.slow
@pytest.mark.skipif(
  sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root"
)
def test_a_really_full_disk(config, tmp_path):
  """A file system of 3 MB, filled up."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
  if subprocess.run(mount, check=False, capture_output=True).returncode:
    pytest.skip("mounting is not allowed here")
  try:
    config.steps = 3
    training.train(config, disk / "run")
    _fill(disk / "filler")
    config.steps = 9
    with pytest.raises(training.CheckpointError, match=r"^disk full: .*run"):
      training.train(config, disk / "run")
    (disk / "filler").unlink()
    training.train(config, disk / "run")
    assert (disk / "run" / "checkpoints" / "9").exists()
  finally:
    subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_run_of_another_config_is_refused(config, tmp_path):
  training.train(config, tmp_path / "run")
  config.steps = 9  # this may change, as may what is looked at and when
  config.eval_every = 9
  config.model.num_features = 10
  config.data.batch_size = 2
  with pytest.raises(ValueError, match="another config") as caught:
    training.train(config, tmp_path / "run")
  assert "config.model.num_features was 8, is 10" in str(caught.value)
  assert "config.data.batch_size was 4, is 2" in str(caught.value)
  assert "steps" not in str(caught.value)
  # Told to go on, it finds that the checkpoint does not fit.
  config.resume_changed = True
  with pytest.raises(
    training.CheckpointError,
    match=r"deconv/kernel is \(9, 9, 10, 1\) here and \(9, 9, 8, 1\) there",
  ):
    training.train(config, tmp_path / "run")


@pytest.mark.parametrize(
  "damage",
  [
    lambda path: shutil.rmtree(path / "state"),
    lambda path: (path / "state" / "_METADATA").write_text("no"),
    lambda path: [
      file.write_bytes(b"no")
      for file in (path / "state").rglob("*")
      if file.is_file() and file.parent.name == "d"
    ],
  ],
  ids=["gone", "metadata", "arrays"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_named(config, tmp_path, damage):
  training.train(config, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "6"
  damage(path)
  config.steps = 9
  with pytest.raises(training.CheckpointError, match=f"delete {path}, and"):
    training.train(config, tmp_path / "run")
  shutil.rmtree(path)
  training.train(config, tmp_path / "run")
  assert (tmp_path / "run" / "checkpoints" / "9").is_dir()


def test_the_place_of_another_loader_is_refused(config, tmp_path):
  training.train(config, tmp_path / "run")
  config.steps = 9
  config.data.num_workers = 2
  with pytest.raises(ValueError, match=r"num_workers was 0, is 2"):
    training.train(config, tmp_path / "run")
  config.resume_changed = True
  with pytest.raises(ValueError, match="set them back"):
    training.train(config, tmp_path / "run")
  (tmp_path / "run" / "config.json").write_text("{")
  config.resume_changed = False
  with pytest.raises(ValueError, match=r"config\.json is damaged"):
    training.train(config, tmp_path / "run")


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
  lines = [x for x in _lines(tmp_path / "run") if "loss" in x]
  # A third of the rate, then two; past the warm-up the schedule's own.
  np.testing.assert_allclose(lines[0]["learning_rate"], 2e-3 * 2 / 3)
  state = _final(tmp_path / "run", 6)
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
    ("loss.weight", -1.0, "loss.weight -1.0 is not positive"),
    ("optimizer.b2", 1.5, r"b2 1.5 is not in \[0, 1\)"),
    ("schedule.eta_min", -1.0, "eta_min -1.0 is negative"),
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


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 2, "los'
  )
  writers = loop.Writers(tmp_path, steps=9, start=2, active=True)
  writers.scalars(3, {"loss": 0.5})
  writers.close()
  assert _lines(tmp_path) == [
    {"step": 1},
    {"step": 2},
    {"step": 3, "loss": 0.5},
  ]
