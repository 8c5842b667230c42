"""SIGTERM, Ctrl-C, two runs in one workdir, and data that do not come."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import orbax.checkpoint as ocp
import pytest

from sr_jax import data, training
from sr_jax.training import claim, evaluator, feed, stopping
from tests.training import runs


class _Changed(data.Loader):
  """A loader that does something before its batch of a number."""

  def __init__(self, loader, at, do):
    super().__init__(loader.iterator, loader._reader, loader.bad)
    self.left, self.do = at, do

  def __next__(self):
    self.left -= 1
    if self.left == 0:
      self.do()
    return super().__next__()


class _Fake(data.Loader):
  """A loader of nothing."""

  def __init__(self):
    self.num_images, self.fingerprint, self.bad = 1, 0, []


def _change(patch, at, do):
  """Makes the loaders of runs such."""
  make_loader = data.make_loader
  patch.setattr(
    data,
    "make_loader",
    lambda *args, **kwargs: _Changed(make_loader(*args, **kwargs), at, do),
  )


def _send(*numbers):
  for number in numbers:
    # Given to another thread, it would not wake the main one.
    signal.pthread_kill(threading.main_thread().ident, number)
    time.sleep(0.5)  # two of a kind that wait are one to the main thread


def _left(workdir):
  """Names and contents of what does not change from run to run."""
  files = {}
  for path in workdir.rglob("*"):
    inner = path.relative_to(workdir)
    if path.is_file() and not inner.match("events.out.*"):
      files[str(inner)] = path.read_bytes()
  files = {
    name: content
    for name, content in files.items()
    if not name.startswith(("checkpoints/", "metrics.jsonl"))
  }
  names = sorted(p.name for p in (workdir / "checkpoints").iterdir())
  curves = [
    {k: v for k, v in line.items() if k != "images_per_second"}
    for line in runs.lines(workdir)
  ]
  return files, names, curves


def _assert_alike(broken, unbroken, step):
  runs.assert_equal(
    runs.final_state(broken, step), runs.final_state(unbroken, step)
  )
  for a, b in zip(_left(broken), _left(unbroken), strict=True):
    assert a == b


@pytest.mark.parametrize(
  ("at", "number"),
  [
    (2, signal.SIGTERM),  # in the middle of all periods
    (3, signal.SIGTERM),  # where an evaluation is due
    (5, signal.SIGINT),
    (6, signal.SIGTERM),  # the last step
  ],
)
def test_a_stop_changes_nothing(
  config, tmp_path, monkeypatch, capfd, at, number
):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  config.log_every = 4
  training.train(config, unbroken)
  capfd.readouterr()
  former = signal.getsignal(number)
  with monkeypatch.context() as patch:
    _change(patch, at, lambda: _send(number))
    with pytest.raises(training.Stopped) as caught:
      training.train(config, broken)
  assert caught.value.code == 128 + number
  assert signal.getsignal(number) is former
  told = capfd.readouterr().err
  assert f"stopped by {number.name} at step {at}, " in told
  assert [p.name for p in (broken / "stopped").iterdir()] == [str(at)]
  assert not (broken / ".lock").exists()
  training.train(config, broken)
  assert f"goes on from step {at} of 6" in capfd.readouterr().err
  _assert_alike(broken, unbroken, 6)


@pytest.mark.parametrize(
  ("number", "ending"),
  [(signal.SIGTERM, training.Stopped), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_checkpoint_is_whole_though_its_reading_is_broken_off(
  config, tmp_path, monkeypatch, capfd, number, ending
):
  """orbax catches either, and says that it could not read an array."""
  training.train(config, tmp_path)
  restore, sent = ocp.StandardCheckpointHandler.restore, []

  def broken_off(*args, **options):
    try:
      if not sent:
        sent.append(number)
        signal.raise_signal(number)
      return restore(*args, **options)
    except BaseException as error:
      raise Exception("Encountered error while reading array") from error

  with monkeypatch.context() as patch:
    patch.setattr(ocp.StandardCheckpointHandler, "restore", broken_off)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
      with pytest.raises(ending):
        training.train(config, tmp_path)
    finally:
      signal.signal(signal.SIGINT, before)
  steps = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
  assert steps == ["3", "6"]
  capfd.readouterr()
  training.train(config, tmp_path)
  told = capfd.readouterr().err
  assert "goes on from step 6 of 6" in told
  assert "warning" not in told


def test_what_hides_no_stop_is_damage():
  """A timeout of asyncio, and what is met while an old stop is handled."""
  old, error = training.Stopped(signal.SIGTERM), TimeoutError()
  error.__cause__ = asyncio.CancelledError()
  assert stopping.hidden_stop(error, None) is None
  error.__cause__ = None
  error.__context__ = old
  assert stopping.hidden_stop(error, old) is None
  assert stopping.hidden_stop(error, None) is old


def test_an_evaluation_is_broken_off_and_made_again(
  config, tmp_path, monkeypatch
):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  training.train(config, unbroken)
  evaluate, waited = evaluator.Evaluator.evaluate, []

  def stopped_in(self, variables, step, writers):
    found = evaluate(self, variables, step, writers)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    waited.append(step)
    return found

  with monkeypatch.context() as patch:
    patch.setattr(evaluator.Evaluator, "evaluate", stopped_in)
    for _ in range(2):  # at step 3, and again when that is made up for
      with pytest.raises(training.Stopped):
        training.train(config, broken)
      assert not waited
      assert [p.name for p in (broken / "stopped").iterdir()] == ["3"]
      assert not (broken / "weights" / "last.safetensors").exists()
  training.train(config, broken)
  _assert_alike(broken, unbroken, 6)


def test_a_request_between_two_questions_is_not_lost():
  """After the step's question, before the evaluation that can be broken off."""
  with stopping.StopRequests() as stop:
    stop.begin()
    assert not stop.asked()
    _send(signal.SIGTERM)
    with pytest.raises(training.Stopped), stop.at_once():
      pytest.fail("it is made")
    assert stop.asked()


def test_what_hangs_does_not_hold_up_an_interrupt(monkeypatch):
  """A batch that is being read when the run is interrupted."""
  hung = threading.Event()

  class Hangs(_Fake):
    def __next__(self):
      hung.wait()

    def close(self):
      pass

  def interrupt(timeout):
    raise KeyboardInterrupt

  monkeypatch.setattr(feed, "_CLOSING", 0.1)
  watched = feed.Watched(Hangs(), 600.0)
  watched._drawn = types.SimpleNamespace(get=interrupt, put=print)
  with pytest.raises(KeyboardInterrupt):
    next(watched)
  started = time.monotonic()
  watched.close()
  assert time.monotonic() - started < 5
  hung.set()


def test_what_all_processes_left_out_is_told_once(monkeypatch):
  loader = _Fake()
  loader.bad.append("file a")
  watched = feed.Watched(loader, 1.0)
  others = ["file a", "record 3"]
  monkeypatch.setattr(feed.hosts, "gather", lambda mine: [mine, others])
  assert watched.new_bad(2) == ["file a", "record 3"]
  loader.bad.append("record 5")
  others.clear()
  with pytest.raises(ValueError, match=r"^3 files .*max_bad is 2: record 5$"):
    watched.new_bad(2)
  assert watched.new_bad(3) == []
  assert watched.bad == ["file a", "record 3", "record 5"]


def test_the_second_interrupt_is_at_once(config, tmp_path, monkeypatch):
  def twice():
    handler = signal.getsignal(signal.SIGINT)
    # Noted before the next; one that comes just before the main thread begins
    # to wait for a batch does not wake it.
    while handler.__self__._number is None:
      _send(signal.SIGINT)
    _send(signal.SIGINT)
    time.sleep(3)  # no batch comes, and no step ends

  _change(monkeypatch, 2, twice)
  # A process that a script starts in the background ignores it from the start.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt):
      training.train(config, tmp_path / "run")
  finally:
    signal.signal(signal.SIGINT, before)
  assert not (tmp_path / "run" / "stopped").exists()


def test_a_second_run_is_refused(config, tmp_path):
  run = tmp_path / "run"
  training.train(config, run)
  assert not (run / ".lock").exists()
  first = claim.Claim(run)
  first.take()
  config.steps = 9
  with pytest.raises(
    training.BusyError,
    match=rf"in use by process {os.getpid()} on {socket.gethostname()}, since ",
  ):
    training.train(config, run)
  first.close()
  training.train(config, run)
  # And one that another began to write to while this one was making ready.
  second = claim.Claim(run)
  second.take()
  with pytest.raises(training.BusyError, match="give another --workdir"):
    claim.Claim(run).take()
  second.close()


def test_a_killed_run_frees_its_workdir(tmp_path):
  code = (
    "import sys, time; from sr_jax.training.claim import Claim; "
    "c = Claim(sys.argv[1]); c.take(); print(1, flush=True); time.sleep(300)"
  )
  with subprocess.Popen(
    [sys.executable, "-c", code, str(tmp_path)],
    stdout=subprocess.PIPE,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(runs.ROOT)},
  ) as other:
    assert other.stdout.readline() == b"1\n"
    with pytest.raises(training.BusyError, match=f"process {other.pid} on"):
      claim.Claim(tmp_path).take()
    other.kill()
  mine = claim.Claim(tmp_path)
  mine.take()
  mine.take()  # no harm
  mine.close()
  assert not list(tmp_path.iterdir())


def test_a_bucket_is_not_locked_and_says_so():
  bucket = claim.Claim("gs://bucket/run")
  bucket.take()
  assert "gs://bucket/run is a bucket, which cannot be locked" in bucket.warning
  bucket.close()


def test_data_that_do_not_come_are_noticed(config, tmp_path, monkeypatch):
  hung = threading.Event()

  config.data.timeout = 0.5
  with monkeypatch.context() as patch:
    _change(patch, 5, hung.wait)
    with pytest.raises(training.StalledError, match=r"for 0\.5 s \(config"):
      training.train(config, tmp_path / "run")
  hung.set()
  config.data.timeout = 600.0
  training.train(config, tmp_path / "run")
  training.train(config, tmp_path / "unbroken")
  _assert_alike(tmp_path / "run", tmp_path / "unbroken", 6)
  config.data.timeout = -1.0
  with pytest.raises(ValueError, match=r"timeout -1\.0 must be seconds"):
    training.train(config, tmp_path / "other")


_ON_TWO_HOSTS = """
import os, signal, sys, time
import jax
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:{port}", 2, int(sys.argv[1]))
from absl import flags
flags.FLAGS.mark_as_parsed()
sys.path.insert(0, {root!r})
from configs import quickstart
from sr_jax import training
from sr_jax.training.stopping import StopRequests
begin = StopRequests.begin
def noticed(self):
  if sys.argv[1] == "1":
    os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(3)  # until it is known to both
  begin(self)
if {early}:
  StopRequests.begin = noticed
config = quickstart.get_config()
config.model.num_features = 8
config.data.train = {images!r}
config.data.patch_size = 16
config.data.batch_size = 4
config.eval.benchmarks = ""
config.steps, config.log_every, config.eval_every = {steps}, 2, 7
training.train(config, {workdir!r})
"""


@pytest.mark.slow
def test_two_hosts_stop_at_one_step(images, tmp_path):
  """The notice comes to the second host alone.

  While it trains, and in the run that goes on before its first step.
  """

  @contextlib.contextmanager
  def hosts(workdir, steps, *, early=False):
    port = runs.free_port()
    code = _ON_TWO_HOSTS.format(
      root=str(runs.ROOT),
      images=images,
      workdir=str(workdir),
      steps=steps,
      port=port,
      early=early,
    )
    env = {**os.environ, "SR_JAX_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    pair = [subprocess.Popen([*command, str(i)], env=env) for i in range(2)]
    try:
      yield pair
    finally:
      for host in pair:
        host.kill()
        host.wait()

  broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
  with hosts(broken, 100_000) as pair:
    begun = time.monotonic()
    while not (broken / "metrics.jsonl").exists():
      assert time.monotonic() - begun < 240
      time.sleep(0.02)
    pair[1].terminate()
    assert [host.wait(timeout=240) for host in pair] == [143, 143]
  with hosts(broken, 100_000, early=True) as pair:
    assert [host.wait(timeout=240) for host in pair] == [143, 143]
  (stopped,) = (broken / "stopped").iterdir()
  steps = int(stopped.name) + 3
  for workdir in (broken, unbroken):
    with hosts(workdir, steps) as pair:
      assert [host.wait(timeout=240) for host in pair] == [0, 0]
  _assert_alike(broken, unbroken, steps)
