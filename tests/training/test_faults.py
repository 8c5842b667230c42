"""Runs that are killed, resumed, spread over hosts, or that meet a fault."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from sr_jax import training
from sr_jax.training import checkpoints, loop
from sr_jax.training import writers as writers_module
from tests.training import runs

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
  images = runs.pictures(tmp_path / "images")
  env = {**os.environ, "SR_JAX_CACHE": str(tmp_path / "cache")}

  def run(workdir, *, kill):
    code = _KILLED.format(
      root=str(runs.ROOT), images=str(images), workdir=str(workdir), kill=kill
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, check=False).returncode

  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert run(whole, kill=False) == 0
  assert run(killed, kill=True) == -signal.SIGKILL
  assert [p.name for p in (killed / "checkpoints").iterdir()] == ["20"]
  assert run(killed, kill=False) == 0
  runs.assert_equal(runs.final_state(whole, 40), runs.final_state(killed, 40))


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
    lambda path: [x.write_text("{") for x in (path / "data").rglob("metadata")],
    lambda path: [
      file.write_bytes(b"no")
      for file in (path / "state").rglob("*")
      if file.is_file() and file.parent.name == "d"
    ],
  ],
  ids=["gone", "tree", "place", "arrays"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_passed_over(config, tmp_path, damage, capsys):
  unbroken, run = tmp_path / "unbroken", tmp_path / "run"
  training.train(config, run)
  shutil.copytree(run, unbroken)
  damage(run / "checkpoints" / "6")
  config.steps = 9
  training.train(config, unbroken)
  capsys.readouterr()
  training.train(config, run)
  told = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
  assert len(told) == 1
  aside = run / "damaged" / "6"
  assert (
    f"checkpoint 6 was damaged and is passed over; it lies in {aside}"
    in (told[0])
  )

  assert "goes on from step 3 " in told[0]
  # It is kept, step 6 has another one, and all is as if nothing had happened.
  assert aside.is_dir()
  names = [
    sorted(x.name for x in (d / "checkpoints").iterdir())
    for d in (run, unbroken)
  ]
  assert names[0] == names[1]
  assert "6" in names[0]
  for step in (6, 9):
    runs.assert_equal(
      runs.final_state(run, step), runs.final_state(unbroken, step)
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_with_no_whole_checkpoint_the_run_stops(config, tmp_path):
  config.keep_last = config.keep_best = 1
  run = tmp_path / "run"
  training.train(config, run)
  path = run / "checkpoints" / "6"
  shutil.rmtree(path / "state")
  config.steps = 9
  with pytest.raises(training.CheckpointError, match=f"delete {path}$"):
    training.train(config, run)
  assert path.is_dir()
  assert not (run / "damaged").exists()
  shutil.rmtree(path)
  training.train(config, run)
  assert (run / "checkpoints" / "9").is_dir()


def test_metrics_of_a_checkpoint_may_be_damaged(config, tmp_path):
  training.train(config, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "6" / "metrics" / "metrics"
  path.write_text("[")
  config.steps = 9
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


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    + "[" * 100_000
    + f'\n{{"step": 1{"0" * 400}}}\n{{"step": 2, "los'
  )
  writers = loop.Writers(tmp_path, steps=9, start=2, active=True)
  writers.scalars(3, {"loss": 0.5})
  writers.close()
  assert runs.lines(tmp_path) == [
    {"step": 1},
    {"step": 2},
    {"step": 3, "loss": 0.5},
  ]


# The file that could not be flushed is not closed either.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["flush", "write_event", "close"])
def test_events_that_cannot_be_written_hold_nothing_up(
  method, tmp_path, monkeypatch, capsys
):
  """A bucket that does not answer, or a disk that is full for a while."""

  def full(self, *_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  writers = loop.Writers(tmp_path, steps=99, start=0, active=True)
  monkeypatch.setattr(writers_module.EventsWriter, method, full)
  monkeypatch.setattr(writers_module, "_FLUSH", 0.0)
  for step in range(1, 40):
    writers.scalars(step, {"loss": 0.5, "d_loss": 1.0})
  writers.close()
  assert len(runs.lines(tmp_path)) == 39
  told = capsys.readouterr().err
  assert told.count("TensorBoard's file ends here") == 1


def test_a_line_that_could_not_be_written_is_in_the_next(
  tmp_path, monkeypatch, capsys
):
  """A bucket that does not answer once."""
  error = ConnectionError("503 try later")
  refused = iter([None, error, None, error, None])  # the last when it ends
  write = writers_module.write_whole

  def written(path, content):
    if error := next(refused):
      raise error
    write(path, content)

  monkeypatch.setattr(writers_module, "write_whole", written)
  writers = loop.Writers(tmp_path, steps=4, start=0, active=True)
  for step in (1, 2, 3, 4):
    writers.scalars(step, {"loss": 0.5})
  writers.close()
  assert [x["step"] for x in runs.lines(tmp_path)] == [1, 2, 3, 4]
  assert capsys.readouterr().err.count("503 try later") == 2


_LOG_CLOSED = """
import os, sys
from sr_jax.training.writers import Writers
writers = Writers(sys.argv[1], steps=9, start=0, active=True)
read, write = os.pipe()
os.dup2(write, 2), os.close(write), os.close(read)
for step in range(1, 4):
  writers.line("x" * 100_000)
  writers.scalars(step, {"loss": 1.0})
writers.close()
"""


def test_a_log_that_nobody_reads_stops_no_run(tmp_path):
  """What ssh leaves behind when the connection ends."""
  command = [sys.executable, "-c", _LOG_CLOSED, str(tmp_path)]
  assert subprocess.run(command, check=False, cwd=runs.ROOT).returncode == 0
  assert [x["step"] for x in runs.lines(tmp_path)] == [1, 2, 3]


def test_resuming_is_exact(config, tmp_path):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  training.train(config, unbroken)
  with config.unlocked():
    config.steps = 3
  training.train(config, broken)
  config.steps = 6
  training.train(config, broken)
  runs.assert_equal(runs.final_state(unbroken, 6), runs.final_state(broken, 6))
  # One point a period, as if it had not been broken.
  steps = [x["step"] for x in runs.lines(broken)]
  assert steps == sorted(steps)
  # Nothing to do: it evaluates, and changes nothing.
  again = training.train(config, broken)
  assert again
  runs.assert_equal(runs.final_state(unbroken, 6), runs.final_state(broken, 6))
