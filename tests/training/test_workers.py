"""Worker processes of the data: signalled with the run, orphaned, stopped."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.training import runs

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@contextlib.contextmanager
def _run(tmp_path, **fields):
  """`train.py` with two workers, as a process group; killed at the end."""
  images = runs.numbered_pictures(tmp_path / "images", 7)
  fields = {
    "data.train": images,
    "data.patch_size": 16,
    "data.num_workers": 2,
    "eval.benchmarks": "",
    "steps": 1_000_000,
    "log_every": 5,
    "eval_every": 10,
    **fields,
  }
  command = [
    sys.executable,
    str(runs.ROOT / "train.py"),
    f"--config={runs.ROOT}/configs/quickstart.py",
    f"--workdir={tmp_path}/run",
    *(f"--config.{key}={value}" for key, value in fields.items()),
  ]
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(runs.ROOT),
    "SR_JAX_CACHE": str(tmp_path / "cache"),
  }
  with subprocess.Popen(
    command, start_new_session=True, env=env, stderr=subprocess.PIPE, text=True
  ) as process:
    try:
      yield process
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _until(true, seconds=240):
  begun = time.monotonic()
  while not true():
    assert time.monotonic() - begun < seconds
    time.sleep(0.02)


def _group(process):
  """Of a process's group, those that live."""
  found = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      state, _, group = path.read_text().rpartition(")")[2].split()[:3]
      if int(group) == process.pid and state != "Z":
        command = (path.parent / "cmdline").read_bytes()
        found[int(path.parent.name)] = command.split(b"\0")
  return found


def _workers(process):
  return [
    number
    for number, command in _group(process).items()
    if any(b"spawn_main" in part for part in command)
  ]


def test_the_whole_group_is_told_to_stop(tmp_path):
  """As a terminal's Ctrl-C and many schedulers do: the workers still serve."""
  with _run(tmp_path) as process:
    _until((tmp_path / "run" / "metrics.jsonl").exists)
    assert len(_workers(process)) == 2
    os.killpg(process.pid, signal.SIGTERM)
    told = process.communicate(timeout=240)[1]
    assert process.returncode == 143, told
    assert "Traceback" not in told
    _until(lambda: not _group(process), seconds=60)
  (stopped,) = (tmp_path / "run" / "stopped").iterdir()
  with _run(tmp_path, steps=int(stopped.name) + 2) as process:
    told = process.communicate(timeout=240)[1]
    assert process.returncode == 0
  assert f"goes on from step {int(stopped.name):,} of" in told


def test_workers_of_a_killed_run_end(tmp_path):
  with _run(tmp_path) as process:
    _until((tmp_path / "run" / "metrics.jsonl").exists)
    assert len(_workers(process)) == 2
    process.kill()
    process.wait()
    _until(lambda: not _group(process), seconds=60)


def test_workers_that_are_stopped_end_the_run(tmp_path):
  fields = {"data.timeout": 30.0}
  with _run(tmp_path, **fields) as process:
    _until((tmp_path / "run" / "metrics.jsonl").exists)
    for number in _workers(process):
      os.kill(number, signal.SIGSTOP)
    told = process.communicate(timeout=240)[1]
    assert process.returncode == 1
    assert "Traceback" not in told
    # Python's tracker may say after it that it frees the memory of workers
    # that were killed.
    assert re.search(r"^train.py: no batch came for 30 s", told, re.M), told
    _until(lambda: not _workers(process), seconds=60)
