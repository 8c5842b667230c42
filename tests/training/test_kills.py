"""Runs that are killed and stopped at random moments, again and again."""

import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import pytest

from tests.training import runs

#: Kills of the test by SIGKILL; an environment variable makes them fewer.
_KILLS = int(os.environ.get("SR_JAX_KILLS", "50"))
_STOPS = min(_KILLS, 10)
_IMAGES = 7  # and batches of 4: epochs begin and end within a batch


class _Nursery:
  """Runs of `tests.training.nursery`, one at a time."""

  def __init__(self, images, steps, cache):
    command = [sys.executable, "-m", "tests.training.nursery"]
    env = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "SR_JAX_CACHE": str(cache),
      "JAX_COMPILATION_CACHE_DIR": str(cache / "programs"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    self.process = subprocess.Popen(
      [*command, str(images), str(steps)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      cwd=runs.ROOT,
      env=env,
      text=True,
    )

  def _ask(self, line):
    self.process.stdin.write(f"{line}\n")
    self.process.stdin.flush()
    return int(self.process.stdout.readline())

  def start(self, workdir):
    """A process's number."""
    return self._ask(workdir)

  def end(self, number=0):
    """How the run ended, of a signal or not, as `subprocess` tells it."""
    return os.waitstatus_to_exitcode(self._ask(number))


@pytest.fixture
def nursery(tmp_path):
  """Of runs of so many steps."""
  with contextlib.ExitStack() as stack:

    def make(steps):
      images = runs.numbered_pictures(tmp_path / "images", _IMAGES)
      made = _Nursery(images, steps, tmp_path / "cache")
      stack.callback(made.process.stdout.close)
      stack.callback(made.process.wait)
      stack.callback(made.process.stdin.close)
      return made

    yield make


def _log(workdir):
  return workdir.with_name(f"{workdir.name}.jsonl")


def _batches(workdir):
  """What the runs of a workdir were given, by process, in order."""
  found = {}
  for line in _log(workdir).read_text().splitlines():
    record = json.loads(line)
    del record["time"]
    found.setdefault(record.pop("process"), []).append(record)
  return found


def _newest(workdir):
  """Step of the newest checkpoint, of evaluations or of a stop."""
  folders = [workdir / "checkpoints", workdir / "stopped"]
  names = [p.name for d in folders if d.is_dir() for p in d.iterdir()]
  return max((int(x) for x in names if x.isdigit()), default=0)


def _disturb(nursery, workdir, number, count, step, draw):
  """Runs that are ended by a signal at random moments.

  A moment is that at which the run has been given some batches, and a while
  more; every fifth is anywhere in its start.

  Returns:
    Of each, its process, how it ended, and the newest checkpoint then.
  """
  ends, log, start = [], _log(workdir), 1.0
  log.touch()
  for i in range(count):
    before = log.stat().st_size
    process, begun = nursery.start(workdir), time.monotonic()
    wanted = draw.randrange(1, 5) if i % 5 < 4 else 0
    for given in range(wanted):
      while log.read_bytes()[before:].count(b"\n") <= given:
        assert time.monotonic() - begun < 300
        time.sleep(0.005)
      start = time.monotonic() - begun if given == 0 else start
    time.sleep(draw.uniform(0, 2 * step if wanted else start))
    ends.append((process, nursery.end(number), _newest(workdir)))
  return ends


def _unbroken(nursery, workdir):
  """The batches of a run to compare with, and the seconds of a step."""
  nursery.start(workdir)
  assert nursery.end() == 0
  lines = _log(workdir).read_text().splitlines()
  times = [json.loads(line)["time"] for line in lines]
  (batches,) = _batches(workdir).values()
  return batches, statistics.median(b - a for a, b in itertools.pairwise(times))


def _files(workdir):
  """Those of a run, but for TensorBoard's, of which each start has one."""
  return {
    path.relative_to(workdir)
    for path in workdir.rglob("*")
    if path.is_file() and not path.name.startswith("events.out.")
  }


def _curves(workdir):
  return [
    {k: v for k, v in line.items() if k != "images_per_second"}
    for line in runs.lines(workdir)
  ]


def _assert_as_unbroken(broken, whole, steps):
  """Every file that a run leaves, and nothing else."""
  checkpoints = sorted(p.name for p in (whole / "checkpoints").iterdir())
  assert sorted(p.name for p in (broken / "checkpoints").iterdir()) == (
    checkpoints
  )
  for name in checkpoints:
    runs.assert_equal(
      runs.final_state(broken, name), runs.final_state(whole, name)
    )
  outside = [
    {p for p in _files(d) if p.parts[0] != "checkpoints"}
    for d in (broken, whole)
  ]
  assert outside[0] == outside[1]
  # orbax names the files of arrays at random; no folder is half written.
  shapes = [{p.parts[:3] for p in _files(d)} for d in (broken, whole)]
  assert shapes[0] == shapes[1]
  for path in outside[0]:
    if path.suffix in (".safetensors", ".png"):
      assert (broken / path).read_bytes() == (whole / path).read_bytes()
  assert _curves(broken) == _curves(whole)
  assert str(steps) in checkpoints


def _assert_every_sample_once(batches, whole):
  """The batches that made the last state, of all processes together."""
  at = {record["place"]: i for i, record in enumerate(whole)}
  used = {}
  for records in batches.values():
    steps = [at[record["place"]] for record in records]
    # No process leaves one out, or takes one twice.
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    used |= dict(zip(steps, records, strict=True))
  assert [used[i] for i in range(len(whole))] == whole
  images = [number for record in whole for number in record["images"]]
  assert len(images) > 2 * _IMAGES
  for first in range(0, len(images) - _IMAGES + 1, _IMAGES):
    assert sorted(images[first : first + _IMAGES]) == list(range(_IMAGES))


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, nursery):
  """SIGKILL, with a checkpoint written every other step."""
  steps = 3 * _KILLS + 10
  nursery = nursery(steps)
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  expected, step = _unbroken(nursery, whole)
  draw = random.Random(5)
  ends = _disturb(nursery, broken, signal.SIGKILL, _KILLS, step, draw)
  assert [code for _, code, _ in ends] == [-signal.SIGKILL] * _KILLS
  nursery.start(broken)
  assert nursery.end() == 0
  batches = _batches(broken)
  _assert_every_sample_once(batches, expected)
  _assert_as_unbroken(broken, whole, steps)
  # Each goes on from the newest checkpoint that the one before has left.
  at = {record["place"]: i for i, record in enumerate(expected)}
  for (_, _, newest), (process, _, _) in itertools.pairwise(ends):
    if process in batches:
      assert at[batches[process][0]["place"]] == newest
  print(f"{_KILLS} kills; {len(batches) - 1} of them after the first batch")


@pytest.mark.slow
def test_stopped_at_random_moments(tmp_path, nursery):
  """SIGTERM: not even the step is lost."""
  steps = 6 * _STOPS + 10
  nursery = nursery(steps)
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  expected, step = _unbroken(nursery, whole)
  draw = random.Random(6)
  ends = _disturb(nursery, broken, signal.SIGTERM, _STOPS, step, draw)
  batches, at = _batches(broken), {}
  for i, record in enumerate(expected):
    at[record["place"]] = i + 1
  for process, code, newest in ends:
    if process in batches:
      assert code == 128 + signal.SIGTERM
      assert newest == at[batches[process][-1]["place"]]
    else:  # before there was anything to save
      assert code in (128 + signal.SIGTERM, -signal.SIGTERM)
  nursery.start(broken)
  assert nursery.end() == 0
  batches = _batches(broken)
  _assert_every_sample_once(batches, expected)
  # No batch was given twice: no step was made twice.
  assert sum(len(x) for x in batches.values()) == steps
  _assert_as_unbroken(broken, whole, steps)
