"""Two processes on loopback compute what one does, and outlive each other."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from sr_jax import weights
from tests.training import runs

_STEPS = 20
_MESH = {"data": 4, "fsdp": 2}


class Hosts:
  """Starts runs on eight fake devices, of one process or of two."""

  def __init__(self, folder):
    self.folder = folder
    self.images = str(runs.pictures(folder / "images", count=7))

  def run(self, name, count, *, steps=_STEPS, mesh=None, **second):
    """The exit codes, and what was told on standard error.

    What else there is, see `on_hosts.main`, befalls the second process.
    """
    port = runs.free_port()
    env = {
      **os.environ,
      **runs.QUICKLY_COMPILED,
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}",
      "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
      # Process 0 alone would find its programs there, and Gloo does not wait
      # longer than 30 seconds for the other one to compile its own.
      "JAX_ENABLE_COMPILATION_CACHE": "false",
      "SR_JAX_CACHE": str(self.folder / "cache"),
      "PYTHONPATH": str(runs.ROOT),
    }
    with contextlib.ExitStack() as stack:
      started, logs = [], []
      for i in range(count):
        options = {
          "workdir": str(self.folder / name),
          "images": self.images,
          "steps": steps,
          "mesh": mesh or _MESH,
        }
        if i == 1:
          options |= second
        if count > 1:
          options |= {
            "coordinator": f"localhost:{port}",
            "num_processes": count,
            "process_id": i,
          }
        logs.append(self.folder / f"{name}-{i}.log")
        log = stack.enter_context(logs[-1].open("w"))
        command = [sys.executable, "-m", "tests.training.on_hosts"]
        process = subprocess.Popen(
          [*command, json.dumps(options)], env=env, stdout=log, stderr=log
        )
        stack.callback(process.kill)
        started.append(process)
      codes = [process.wait(timeout=600) for process in started]
    return codes, [log.read_text()[-3000:] for log in logs]

  def told(self, name, what):
    lines = (self.folder / f"{name}.jsonl").read_text().splitlines()
    return [x[what] for x in map(json.loads, lines) if what in x]

  def whole(self, name, count, **options):
    codes, logs = self.run(name, count, **options)
    assert codes == [0] * count, logs
    return self.folder / name


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
  return Hosts(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def one(hosts):
  return hosts.whole("one", 1)


@pytest.fixture(scope="module")
def two(hosts):
  return hosts.whole("two", 2)


def _assert_close(a, b):
  """Two runs that add the same numbers in another order."""
  a, b = ([x for x in runs.lines(workdir) if "loss" in x] for workdir in (a, b))
  assert [x["step"] for x in a] == [*range(1, _STEPS + 1)]
  for x, y in zip(a, b, strict=True):
    assert set(x) == set(y)
    for key in set(x) - {"images_per_second"}:
      np.testing.assert_allclose(
        x[key], y[key], rtol=1e-5, atol=1e-6, err_msg=f"{x['step']} {key}"
      )


def _assert_near(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b
  )


def _weights(workdir):
  return weights.load(workdir / "weights" / "last.safetensors")[1]


@pytest.mark.slow
def test_two_processes_train_as_one(hosts, one, two):
  batches = hosts.told("one", "batch")
  assert len(set(batches)) == len(batches) == _STEPS
  assert hosts.told("two", "batch") == batches
  assert set(hosts.told("two", "rows")) == {4}
  assert hosts.told("two", "begin") == hosts.told("one", "begin")
  _assert_close(one, two)
  # Three images, of which one process has two.
  (a,), (b,) = (hosts.told(name, "results") for name in ("one", "two"))
  assert set(a) == set(b) >= {"images/psnr", "images/bicubic_psnr"}
  for key, value in a.items():
    rtol = 0 if "bicubic" in key else 1e-5
    np.testing.assert_allclose(b[key], value, rtol=rtol, err_msg=key)
  # One set of files, and one voice.
  for workdir in (one, two):
    assert len(list(workdir.glob("events.out.*"))) == 1
    assert len(list((workdir / "samples").iterdir())) == _STEPS // 5
  assert "bicubic by" in (hosts.folder / "two-0.log").read_text()
  assert "step" not in (hosts.folder / "two-1.log").read_text()
  _assert_near(_weights(one), _weights(two))


@pytest.mark.slow
def test_the_same_mesh_gives_the_same_bits(hosts, one):
  """Of two processes so does the run that is killed."""
  runs.assert_equal(_weights(one), _weights(hosts.whole("again", 1)))
  assert hosts.told("again", "end") == hosts.told("one", "end")
  assert hosts.told("again", "results") == hosts.told("one", "results")


@pytest.mark.slow
def test_one_of_two_processes_is_killed(hosts, two):
  """After the checkpoint of step 10 and 14 batches; the other one ends too.

  Then in the evaluation of step 15, before which its steps were made safe.
  """
  for options in ({"kill": (14, 10)}, {"evaluated": 15}):
    codes, logs = hosts.run("killed", 2, **options)
    assert codes[1] == -signal.SIGKILL, logs
    assert codes[0] not in (0, 2), logs
  workdir = hosts.whole("killed", 2)
  assert hosts.told("killed", "step") == [0, 10, 15]
  assert not (workdir / "stopped").exists()
  batches = hosts.told("two", "batch")
  found = hosts.told("killed", "batch")
  assert found == batches[:14] + batches[10:15] + batches[15:]
  # Parameters, moments, averages: bit for bit those of the unbroken run.
  assert hosts.told("killed", "end") == hosts.told("two", "end")
  runs.assert_equal(*(_weights(hosts.folder / x) for x in ("two", "killed")))


@pytest.mark.slow
def test_other_numbers_of_processes_go_on(hosts, one):
  """One process to step 5, two to step 15 on another mesh, one to the end.

  What the second of the two reads of step 15 is damaged in between: both go on
  from step 10.
  """
  hosts.whole("moved", 1, steps=5)
  mesh = {"data": 1, "fsdp": 8}
  workdir = hosts.whole("moved", 2, steps=15, mesh=mesh)
  hosts.whole("moved", 2, steps=15, mesh=mesh, unread=15)
  hosts.whole("moved", 1)
  aside = sorted(x.name for x in (workdir / "damaged").iterdir())
  assert aside == ["15", "README.txt"]
  assert hosts.told("moved", "step") == [0, 5, 10, 15]
  batches = hosts.told("one", "batch")
  assert hosts.told("moved", "batch") == batches[:15] + batches[10:]
  # What was saved on the one is bit for bit what the other begins with.
  begun, ended = (hosts.told("moved", x) for x in ("begin", "end"))
  assert begun[1] == ended[0]
  assert begun[3] == ended[2] == ended[1]
  _assert_close(one, workdir)
  _assert_near(_weights(one), _weights(workdir))
